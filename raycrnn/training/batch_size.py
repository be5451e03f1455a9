"""Advice on the batch size for GPUs, and the learning rate that fits it."""

import math

from raycrnn.cluster import TrainingAllocation
from raycrnn.config import Training

SMALL_SHARE = 16
"""Samples of a batch for each GPU, below which a warning is given."""

GOOD_SHARE = 64
"""Samples of a batch for each GPU that the warning recommends."""

ADAPTIVE = ("adamw", "adam", "rms")
"""The optimizers for which `scaled_learning_rate` holds."""


def scaled_learning_rate(rate: float, batch_size: int, new_batch_size: int) -> float:
    """Return the learning rate for another batch size by the square-root rule of Adam and RMSprop.

    Malladi et al. (2022, arXiv:2205.10287): the noise of the updates then stays the same.
    """
    return rate * math.sqrt(new_batch_size / batch_size)


def small_share_warning(settings: Training, allocation: TrainingAllocation) -> str | None:
    """Return a warning if batches leave little work for each GPU, else None."""
    size, workers = settings.train_batch_size, allocation.num_workers
    if not allocation.use_gpu or size / workers >= SMALL_SHARE:
        return None
    larger = GOOD_SHARE * workers
    advice = f"training.train_batch_size={larger}"
    if settings.optimizer in ADAPTIVE:
        advice += f" training.learning_rate={scaled_learning_rate(settings.learning_rate, size, larger):.1e}"
    gpus = "the GPU" if workers == 1 else f"each of {workers} GPUs"
    return (
        f"training.train_batch_size={size} has {size / workers:g} images for {gpus}, which is little work in a step: "
        f"try {advice}"
    )
