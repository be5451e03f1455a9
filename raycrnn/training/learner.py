"""The training step. It needs no cluster.

With several workers, each has a share of the batch, and losses, gradients and signals are summed over the workers.

A GPU works through a queue. Nothing between two steps may wait for it, or it idles until the host has queued more work.
A step is therefore queued as a whole, including the decision whether to skip it, and its result is read after the next
step has been queued.
"""

import inspect
import math
from collections import deque
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
    batches_per_epoch: int = 0
    """Steps of an epoch; 0 in checkpoints of earlier versions."""
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
    """Evaluations since the best one, if that was not the one before the first step."""
    best: dict[str, float] = field(default_factory=dict)
    """Scores of the best evaluation."""
    finished: bool = False
    """Whether the schedule has ended."""

    @property
    def epoch(self) -> float:
        """Completed epochs."""
        return self.step / self.batches_per_epoch if self.batches_per_epoch else 0.0

    @property
    def mean_loss(self) -> float:
        """Moving average (0.99) of the loss, corrected for its start (Kingma and Ba 2015, section 3)."""
        return self.loss_sum / (1 - 0.99 ** max(1, self.step))

    def begin_new_schedule(self) -> None:
        """Make a finished run train on: the schedule starts again, with its warm-up, for the steps that are left."""
        self.schedule, self.since_best, self.finished = 0.0, 0, False

    def count_evaluation(self, is_best: bool) -> None:
        """Count an evaluation, whose scores are not in `best` yet."""
        # A good initial model gets worse at first, while the learning rate rises.
        counts = not is_best and self.best.get("step") != 0
        self.since_best = self.since_best + 1 if counts else 0

    def has_stopped_improving(self, evaluations: int | None) -> bool:
        """Return whether at least `evaluations` evaluations in a row were no better than the best one."""
        return evaluations is not None and self.since_best >= evaluations


@dataclass(frozen=True)
class StepSignals:
    """Signals that the workers exchange with each training step. A flag is set if any worker has set it.

    The order of the fields is that of the tensor in which they travel. Who sets `stop`, `save` or `save_in_background`
    sets it in every step until it has been acted on, so that none is lost if a worker reads two steps at once.
    """

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
    save: bool = False
    """A checkpoint is due, for which all workers wait: a worker or a node is about to be lost."""
    save_in_background: bool = False
    """A checkpoint is due by time. Only worker 0 sets it."""

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


@dataclass(frozen=True)
class QueuedStep:
    """A step that the device may not have finished."""

    learning_rate: float
    schedule: float
    """Completed fraction of the schedule after the step."""
    result: runtime.HostCopy
    """Whether the step was taken (0 or 1), the sum of the losses, the number of samples, and the sums of the fields of
    `StepSignals`, all of them over the workers."""


class Learner:
    """A network in training. With several workers each has a copy, and DDP keeps the copies equal."""

    def __init__(self, network: CRNN, settings: Training, device: torch.device):
        self.settings = settings
        self.device = device
        self.precision = runtime.resolve_precision(settings.precision, device)
        self.network = runtime.to_device(network, device)
        self.network.freeze_convolutions(settings.frozen_convolutions)
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
        self._queued: deque[QueuedStep] = deque()

    def train_step(self, batch: Batch, steps_left: int, signals: StepSignals | None = None) -> StepResult:
        """Take one step and wait for its result: `queue_step` and `read_step`."""
        self.queue_step(batch, steps_left, signals)
        return self.read_step()

    def queue_step(self, batch: Batch, steps_left: int, signals: StepSignals | None = None) -> None:
        """Start one step on one batch, together with the other workers, without waiting for a GPU.

        `read_step` must be called for each step, in the order of the steps. Until then, `progress` does not include it.

        Args:
            batch: This worker's share of the global batch, in the memory of the host.
            steps_left: Estimate of the steps left, this one included. The schedule ends with the last of them.
            signals: The signals of this worker.
        """
        step, schedule = self.next_step, self._queued[-1].schedule if self._queued else self.progress.schedule
        rate = optimizer.learning_rate(self.settings, step, schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        # Dropout depends only on seed, step and rank, so a resumed run needs no random state.
        torch.manual_seed(hash((self.settings.seed, step, collectives.rank())) & 0x7FFFFFFFFFFFFFFF)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        local_loss = self._loss(batch)
        local_loss.backward()
        own = runtime.to_device_async([len(batch), *astuple(signals or StepSignals())], self.device)
        totals = collectives.all_reduce(torch.cat([local_loss.detach().double()[None], own]))
        loss_sum, samples = totals[0], totals[1]
        # The gradient of the mean over the samples of the global batch. It is scaled here and not before the backward
        # pass, where numbers of low precision could become 0. DDP has divided it by the number of workers.
        factor = (collectives.world_size() / samples.clamp(min=1)).float()
        norm = optimizer.scale_gradients(self.network.parameters(), factor, self.settings.gradient_clip)
        # The loss and the gradient are the same on every worker.
        usable = torch.isfinite(loss_sum) & torch.isfinite(norm)
        optimizer.step_if(self.optimizer, usable)
        result = runtime.HostCopy(torch.cat([usable.double()[None], totals]))
        self._queued.append(QueuedStep(rate, schedule + (1 - schedule) / max(1, steps_left), result))

    @property
    def next_step(self) -> int:
        """The index of the next step to queue."""
        return self.progress.step + len(self._queued)

    @property
    def unread_steps(self) -> int:
        """The number of steps that are queued and whose results have not been read."""
        return len(self._queued)

    def read_step(self) -> StepResult:
        """Wait for the first queued step, add it to `progress`, and return its result.

        Raises:
            RaycrnnError: `MOST_BAD_STEPS` consecutive steps had no finite loss and gradient.
        """
        queued, progress = self._queued.popleft(), self.progress
        usable, loss_sum, samples, *sums = queued.result.read()
        loss = loss_sum / max(1.0, samples)
        progress.loss_sum = 0.99 * progress.loss_sum + 0.01 * (loss if math.isfinite(loss) else progress.mean_loss)
        progress.step += 1
        progress.schedule = queued.schedule
        progress.bad_steps = 0 if usable else progress.bad_steps + 1
        progress.skipped += not usable
        if progress.bad_steps >= MOST_BAD_STEPS:
            raise divergence(
                f"the loss or gradient was not finite for {MOST_BAD_STEPS} steps in a row, up to step {progress.step} "
                "(the last checkpoint has the weights from before them)",
                self.settings,
            )
        return StepResult(loss, queued.learning_rate, int(samples), StepSignals.from_sums(sums))

    def _loss(self, batch: Batch) -> Tensor:
        """Return the loss, summed over the samples of this worker's share."""
        on_device = batch.to(self.device)
        # The blank image of a share without samples must not change the batch-norm statistics: it gets no width.
        widths_B = on_device.widths_B if len(batch) else torch.zeros_like(on_device.widths_B)
        with runtime.autocast(self.precision, self.device):
            log_probs_TBK, _ = self.parallel(on_device.images_BCHW, widths_B)
        if not len(batch):
            return log_probs_TBK.sum() * 0
        return ctc.loss(log_probs_TBK, self.network.frames(batch.widths_B), on_device.codes_S, batch.lengths_B)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the network and of the optimizer. All steps must have been read."""
        assert not self._queued, "`progress` lags behind the tensors"
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
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, values in state.items():
            # The fused kernels need the memory layout of the parameters, which files do not keep.
            layout = parameters[number].detach()
            state[number] = {
                name: torch.empty_like(layout).copy_(tensor) if tensor.shape == layout.shape else tensor
                for name, tensor in values.items()
            }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
