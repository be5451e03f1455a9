"""Learning without a cluster: optimizer, schedule, training step, evaluation.

Several workers may take part: each holds its share of the batch, and what is summed or decided is summed over
all of them by `all_reduce`, which alone is no work at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from raycrnn.config import Training
from raycrnn.errors import RaycrnnError
from raycrnn.model import ctc, runtime
from raycrnn.model.batch import Batch
from raycrnn.model.crnn import CRNN
from raycrnn.training import collectives, optimizer

MOST_BAD_STEPS = 20
"""Steps in a row without a finite gradient after which a run ends."""


# --- training


@dataclass
class TrainingState:
    """Where a run stands: all that a checkpoint holds besides tensors."""

    step: int = 0
    """steps done; also the index of the next batch over all epochs"""
    schedule: float = 0.0
    """share of the schedule done"""
    loss_sum: float = 0.0
    """of which `mean_loss` is made"""
    bad_steps: int = 0
    """steps in a row without a finite gradient"""
    skipped: int = 0
    """such steps over the whole run"""
    evaluated_at: int = -1
    """step of the last evaluation"""
    since_best: int = 0
    """evaluations since the best one"""
    best: dict = field(default_factory=dict)
    """scores of the best evaluation"""
    finished: bool = False

    @property
    def mean_loss(self) -> float:
        """Moving average (0.99) of the loss, without the lag of its start (Kingma and Ba 2015, section 3)."""
        return self.loss_sum / (1 - 0.99 ** max(1, self.step))


@dataclass(frozen=True)
class StepResult:
    """What one training step gave; the same on every worker."""

    loss: float
    """summed over units, mean over the global batch"""
    learning_rate: float
    samples: int
    """of the global batch"""
    signals: tuple[float, ...]
    """what the workers gave as signals, summed"""


class Learner:
    """A network in training. With several workers each holds one of them, kept equal by DDP."""

    def __init__(self, network: CRNN, settings: Training, device: torch.device):
        self.settings = settings
        self.device = device
        self.precision = runtime.resolve_precision(settings.precision, device)
        self.network = runtime.to_device(network, device)
        if collectives.world_size() > 1:
            if device.type == "cuda":
                self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
            devices = [device] if device.type == "cuda" else None
            # Batch-norm statistics are averaged when they matter (`share_statistics`), not sent each step.
            self.parallel = nn.parallel.DistributedDataParallel(
                self.network, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        else:
            self.parallel = self.network
        self.optimizer = optimizer.make_optimizer(self.network, settings)
        self.progress = TrainingState()

    def train_step(self, batch: Batch, steps_left: int, signals: Sequence[float] = ()) -> StepResult:
        """One step on one batch, in concert with the other workers.

        Args:
            steps_left: estimate, this step included; the schedule ends with the last of them.
            signals: numbers that travel with the step: each is summed over the workers.

        Raises:
            RaycrnnError: the twentieth step in a row without a finite gradient.
        """
        progress = self.progress
        rate = optimizer.learning_rate(self.settings, progress.step, progress.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout depends on seed, step and rank alone, so a resumed run needs no random state.
        torch.manual_seed(hash((self.settings.seed, progress.step, collectives.rank())) & 0x7FFFFFFFFFFFFFFF)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        # Of a share without samples a blank image takes the step, but not into the batch-norm statistics.
        statistics = None if len(batch) else [buffer.clone() for buffer in self.network.buffers()]
        local_loss = self._loss(batch)
        totals = torch.tensor([local_loss.item(), len(batch), *signals], dtype=torch.float64, device=self.device)
        loss_sum, samples, *signals = collectives.all_reduce(totals).tolist()
        # DDP takes the mean of the workers' gradients; the loss is the mean over the global batch's samples.
        (local_loss * (collectives.world_size() / max(1.0, samples))).backward()
        if statistics is not None:
            with torch.no_grad():
                for buffer, before in zip(self.network.buffers(), statistics, strict=True):
                    buffer.copy_(before)
        self._update(loss_sum)
        loss = loss_sum / max(1.0, samples)
        progress.loss_sum = 0.99 * progress.loss_sum + 0.01 * (loss if math.isfinite(loss) else progress.mean_loss)
        progress.step += 1
        progress.schedule += (1 - progress.schedule) / max(1, steps_left)
        return StepResult(loss, rate, int(samples), tuple(signals))

    def _loss(self, batch: Batch) -> Tensor:
        batch = batch.to(self.device)
        with runtime.autocast(self.precision, self.device):
            log_probs_TBK, frames_B = self.parallel(batch.images_BCHW, batch.widths_B)
        if not len(batch):
            return log_probs_TBK.sum() * 0
        return ctc.loss(log_probs_TBK, frames_B, batch.codes_S, batch.lengths_B)

    def _update(self, loss_sum: float) -> None:
        """Step the optimizer, unless loss or gradient are not finite: both are the same on every worker."""
        limit = self.settings.gradient_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        if math.isfinite(loss_sum) and torch.isfinite(norm):
            self.optimizer.step()
            self.progress.bad_steps = 0
            return
        self.progress.bad_steps += 1
        self.progress.skipped += 1
        if self.progress.bad_steps >= MOST_BAD_STEPS:
            raise RaycrnnError(
                f"training diverged: loss or gradient were not finite in {MOST_BAD_STEPS} steps in a row, "
                f"up to step {self.progress.step + 1}. Likely causes: a learning rate too high "
                f"(training.learning_rate={self.settings.learning_rate:g}: try a tenth), no gradient clipping "
                "(training.gradient_clip=5), or bfloat16 (training.precision=fp32). "
                "The last checkpoint is from before it."
            )

    def state_tensors(self) -> dict[str, Tensor]:
        """All tensors of the state: the network's and the optimizer's."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The opposite of `state_tensors`. Raises `RaycrnnError` where the network is another one."""
        network, state = {}, {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "network":
                network[rest] = tensor
            else:
                index, _, key = rest.partition(".")
                state.setdefault(int(index), {})[key] = tensor
        try:
            self.network.load_state_dict(network)
        except RuntimeError as error:
            raise RaycrnnError(f"the checkpoint is of another network: {error}") from None
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
