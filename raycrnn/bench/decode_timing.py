"""The batches that decoders are measured with, and the time that they take."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from raycrnn.model.recognizer import MAX_BATCH_PIXELS, batches_by_width

HEIGHT = 32


def batches_of_prediction(log_probs_TBK: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield log-probabilities and frames of lines, in batches as large as those of the recognizer."""
    frames, lines, _ = log_probs_TBK.shape
    device = log_probs_TBK.device
    for group in batches_by_width([4 * (frames + 1)] * lines, HEIGHT, MAX_BATCH_PIXELS[device.type]):
        yield log_probs_TBK[:, group], torch.full((len(group),), frames, device=device)


def seconds(decode: Callable[[tuple[Tensor, Tensor]], object], batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the seconds in which a function decodes batches."""
    # The decoders return Python objects, for which they wait for a GPU.
    start = time.perf_counter()
    for batch in batches:
        decode(batch)
    return time.perf_counter() - start
