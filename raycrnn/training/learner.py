"""The training step. It needs no cluster.

With several workers, each has a share of the batch, and losses, gradients and signals are summed over the workers.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raycrnn.config import Training
from raycrnn.errors import RaycrnnError
from raycrnn.model import ctc, runtime
from raycrnn.model.batch import Batch
from raycrnn.model.batch_norm import MaskedBatchNorm
from raycrnn.model.crnn import CRNN
from raycrnn.training import collectives, optimizer

DDP_OPTIONS = inspect.signature(nn.parallel.DistributedDataParallel).parameters

WITHOUT_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in DDP_OPTIONS else "broadcast_buffers": False
}
"""Argument of DDP that keeps it from sending the network's buffers with each step. PyTorch 2.13 has renamed it."""

MOST_BAD_STEPS = 20
"""Consecutive steps without a finite loss and gradient after which training fails."""


@dataclass
class TrainingState:
    """The progress of a run, which a checkpoint stores beside the tensors."""

    step: int = 0
    """Steps done; also the index of the next batch, over all epochs."""
    schedule: float = 0.0
    """Completed fraction of the schedule."""
    loss_sum: float = 0.0
    """Moving sum from which `mean_loss` is computed."""
    bad_steps: int = 0
    """Consecutive steps without a finite loss and gradient."""
    skipped: int = 0
    """Steps without a finite loss and gradient in the run."""
    evaluated_at: int = -1
    """Step of the last evaluation."""
    since_best: int = 0
    """Evaluations since the best one."""
    best: dict[str, float] = field(default_factory=dict)
    """Scores of the best evaluation."""
    finished: bool = False
    """Whether the schedule has ended."""

    @property
    def mean_loss(self) -> float:
        """Moving average (0.99) of the loss, corrected for its start (Kingma and Ba 2015, section 3)."""
        return self.loss_sum / (1 - 0.99 ** max(1, self.step))

    def begin_new_schedule(self) -> None:
        """Make a finished run train on: the schedule starts again, with its warm-up, for the steps that are left."""
        self.schedule, self.since_best, self.finished = 0.0, 0, False

    def has_stopped_improving(self, evaluations: int | None) -> bool:
        """Return whether at least `evaluations` evaluations in a row were no better than the best one."""
        return evaluations is not None and self.since_best >= evaluations


@dataclass(frozen=True)
class StepSignals:
    """Signals that the workers exchange with each training step. A flag is set if any worker has set it."""

    stop: bool = False
    """The command has asked to stop. Only worker 0 sets it."""
    steps_left: int = 0
    """Steps after this one. Only worker 0 sets it."""
    new_rejections: bool = False
    """A worker has rejected samples that the others do not know of."""
    may_evaluate: bool = False
    """There is time for an evaluation besides the last one. Only worker 0 sets it."""
    write_failed: bool = False
    """Worker 0 could not write to the run's logs."""
    read_failed: bool = False
    """Object storage did not deliver the images of a worker's share."""

    @classmethod
    def from_sums(cls, sums: Sequence[float]) -> "StepSignals":
        """Return the signals of all workers, given the sums of their fields."""
        stop, steps_left, *flags = sums
        return cls(stop > 0, int(steps_left), *(flag > 0 for flag in flags))


@dataclass(frozen=True)
class StepResult:
    """The result of a training step; the same on every worker."""

    loss: float
    """Sum over the units of a label, mean over the samples of the global batch."""
    learning_rate: float
    samples: int
    """Samples in the global batch."""
    signals: StepSignals
    """The signals of all workers."""


def divergence(symptom: str, settings: Training) -> RaycrnnError:
    """Return the error to raise when training has diverged, with the likely causes and what to change."""
    return RaycrnnError(
        f"training diverged: {symptom}. Likely causes: a learning rate that is too high "
        f"(training.learning_rate={settings.learning_rate:g}: try a tenth), no gradient clipping "
        "(training.gradient_clip=5), or bfloat16 (training.precision=fp32)"
    )


class Learner:
    """A network in training. With several workers each has a copy, and DDP keeps the copies equal."""

    def __init__(self, network: CRNN, settings: Training, device: torch.device):
        self.settings = settings
        self.device = device
        self.precision = runtime.resolve_precision(settings.precision, device)
        self.network = runtime.to_device(network, device)
        self.parallel: nn.Module = self.network
        if collectives.world_size() > 1:
            for module in self.network.modules():
                if isinstance(module, MaskedBatchNorm):
                    module.sum_over_workers = collectives.all_reduce
            devices = [device] if device.type == "cuda" else None
            # Batch-norm statistics are the same on all workers, so they are not sent.
            self.parallel = nn.parallel.DistributedDataParallel(
                self.network, device_ids=devices, gradient_as_bucket_view=True, **WITHOUT_BUFFERS
            )
        self.optimizer = optimizer.make_optimizer(self.network, settings)
        self.progress = TrainingState()

    def train_step(self, batch: Batch, steps_left: int, signals: StepSignals | None = None) -> StepResult:
        """Take one step on one batch, together with the other workers.

        Args:
            batch: This worker's share of the global batch.
            steps_left: Estimate of the steps left, this one included. The schedule ends with the last of them.
            signals: The signals of this worker.

        Raises:
            RaycrnnError: `MOST_BAD_STEPS` consecutive steps had no finite loss and gradient.
        """
        progress = self.progress
        rate = optimizer.learning_rate(self.settings, progress.step, progress.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout depends only on seed, step and rank, so a resumed run needs no random state.
        torch.manual_seed(hash((self.settings.seed, progress.step, collectives.rank())) & 0x7FFFFFFFFFFFFFFF)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        local_loss = self._loss(batch)
        local_loss.backward()
        totals = torch.tensor(
            [local_loss.item(), len(batch), *astuple(signals or StepSignals())], dtype=torch.float64, device=self.device
        )
        loss_sum, samples, *sums = collectives.all_reduce(totals).tolist()
        # The gradient of the mean over the samples of the global batch. It is scaled here and not before the backward
        # pass, where numbers of low precision could become 0. DDP has divided it by the number of workers.
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(collectives.world_size() / max(1.0, samples))
        self._update(loss_sum)
        loss = loss_sum / max(1.0, samples)
        progress.loss_sum = 0.99 * progress.loss_sum + 0.01 * (loss if math.isfinite(loss) else progress.mean_loss)
        progress.step += 1
        progress.schedule += (1 - progress.schedule) / max(1, steps_left)
        return StepResult(loss, rate, int(samples), StepSignals.from_sums(sums))

    def _loss(self, batch: Batch) -> Tensor:
        """Return the loss, summed over the samples of this worker's share."""
        batch = batch.to(self.device)
        # The blank image of a share without samples must not change the batch-norm statistics: it gets no width.
        widths_B = batch.widths_B if len(batch) else torch.zeros_like(batch.widths_B)
        with runtime.autocast(self.precision, self.device):
            log_probs_TBK, frames_B = self.parallel(batch.images_BCHW, widths_B)
        if not len(batch):
            return log_probs_TBK.sum() * 0
        return ctc.loss(log_probs_TBK, frames_B, batch.codes_S, batch.lengths_B)

    def _update(self, loss_sum: float) -> None:
        """Step the optimizer unless the loss or the gradient, which are the same on every worker, is not finite."""
        limit = self.settings.gradient_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        if math.isfinite(loss_sum) and torch.isfinite(norm):
            self.optimizer.step()
            self.progress.bad_steps = 0
            return
        self.progress.bad_steps += 1
        self.progress.skipped += 1
        if self.progress.bad_steps >= MOST_BAD_STEPS:
            raise divergence(
                f"the loss or gradient was not finite for {MOST_BAD_STEPS} steps in a row, "
                f"up to step {self.progress.step + 1} (the last checkpoint has the weights from before them)",
                self.settings,
            )

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the network and of the optimizer."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load the result of `state_tensors`. Raises `RaycrnnError` if it is from a different network."""
        network: dict[str, Tensor] = {}
        state: dict[int, dict[str, Tensor]] = {}
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
            raise RaycrnnError(f"the checkpoint is from a different network: {error}") from None
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
