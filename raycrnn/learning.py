"""Learning without a cluster: optimizer, schedule, training step, evaluation.

Several workers may take part: each holds its share of the batch, and what is summed or decided is summed over
all of them by `all_reduce`, which alone is no work at all.
"""

import ctypes
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from raycrnn import ctc
from raycrnn.alphabet import Alphabet
from raycrnn.confidence import Calibration, Tally
from raycrnn.config import Training
from raycrnn.errors import RaycrnnError
from raycrnn.metrics import Counts, score
from raycrnn.model import CRNN
from raycrnn.samples import UNKNOWN

MOST_BAD_STEPS = 20
"""Steps in a row without a finite gradient after which a run ends."""

UNKNOWN_UNIT = "\0"
"""Its stand-in: no alphabet holds it, so that it always costs an edit."""


@dataclass(frozen=True)
class Batch:
    """One worker's share of a batch. Without samples (`len` 0) the tensors still hold one blank image, so that
    every worker takes every step."""

    images_BCHW: Tensor
    """uint8"""
    widths_B: Tensor
    """int64, each image's own width"""
    codes_S: Tensor
    """int64, the labels' codes, one label after the other; `UNKNOWN` may occur in evaluation"""
    lengths_B: Tensor
    """int64, units of each label"""
    rows_B: Tensor
    """int64, index of each sample in its set"""

    def __len__(self) -> int:
        return len(self.rows_B)

    def to(self, device: torch.device) -> "Batch":
        tensors = (self.images_BCHW, self.widths_B, self.codes_S, self.lengths_B)
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors), rows_B=self.rows_B)

    def labels(self) -> list[list[int]]:
        return [codes.tolist() for codes in self.codes_S.split(self.lengths_B.tolist())]


# --- several workers


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum over all workers, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def share_statistics(network: nn.Module) -> None:
    """Average the batch-norm statistics of all workers, so that each evaluates and saves the same network."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            all_reduce(buffer).div_(world_size())


# --- precision


def resolve_precision(precision: str, device: torch.device) -> str:
    """auto: bf16 where the hardware computes in it rather than emulating it, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if native else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def place(network: CRNN, device: torch.device) -> CRNN:
    """Move to a device, in the memory layout its convolutions like."""
    return network.to(device, memory_format=torch.channels_last)


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors rather than give it back to the system after every step.

    A step on the CPU else takes some 15,000 page faults for the same memory as the step before; without them it is
    10 to 15 % faster (half network, 32 × 32×100, 2 threads). Elsewhere it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold, greatest = -1, -3, 2**31 - 1
    libc = ctypes.CDLL(None)
    # The second is limited to 32 MiB.
    libc.mallopt(trim_threshold, greatest)
    libc.mallopt(mmap_threshold, 32 * 2**20)


def keep_kernels() -> None:
    """Have oneDNN keep the kernels that it compiles for each shape of a batch; to be called before the first step.

    A step takes some 50 of them, and lines of 40 to 1,000 pixels make 60 shapes of batches: with room for 1,024, its
    default, most are compiled anew each time. With room for all, such an epoch takes a tenth to a fifth less time,
    and memory does not creep up (half network, 32 × 32×48–944, 2 threads).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")


# --- optimizer and schedule


def make_optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    rate = settings.learning_rate
    parameters = list(network.parameters())
    match settings.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, rate, betas=(0.5, 0.999))
        case "rms":
            return torch.optim.RMSprop(parameters, rate)
        case "ada":
            return torch.optim.Adadelta(parameters, rate)
        case "adamw":
            # Biases and normalisation gains are no matrices and not decayed (Loshchilov and Hutter 2019).
            matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
            vectors = [parameter for parameter in parameters if parameter.ndim < 2]
            groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
            return torch.optim.AdamW(groups, rate, weight_decay=settings.weight_decay)
    raise ValueError(f"no optimizer {settings.optimizer!r}")


def learning_rate(settings: Training, step: int, progress: float) -> float:
    """The learning rate of a step.

    Args:
        step: from 0.
        progress: of the schedule, from 0 to 1.
    """
    peak = settings.learning_rate
    match settings.schedule:
        case "constant":
            return peak
        case "exponential":
            return peak * settings.learning_decay_rate ** (step // settings.learning_decay_steps)
        case "one_cycle":
            if progress < settings.warm_up:
                return peak * (0.04 + 0.96 * progress / settings.warm_up)
            falling = (progress - settings.warm_up) / max(1e-9, 1 - settings.warm_up)
            return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))
    raise ValueError(f"no schedule {settings.schedule!r}")


# --- training


@dataclass
class Progress:
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
class Step:
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
        self.precision = resolve_precision(settings.precision, device)
        self.network = place(network, device)
        if world_size() > 1:
            if device.type == "cuda":
                self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
            devices = [device] if device.type == "cuda" else None
            # Batch-norm statistics are averaged when they matter (`share_statistics`), not sent each step.
            self.parallel = nn.parallel.DistributedDataParallel(
                self.network, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        else:
            self.parallel = self.network
        self.optimizer = make_optimizer(self.network, settings)
        self.progress = Progress()

    def train_step(self, batch: Batch, steps_left: int, signals: Sequence[float] = ()) -> Step:
        """One step on one batch, in concert with the other workers.

        Args:
            steps_left: estimate, this step included; the schedule ends with the last of them.
            signals: numbers that travel with the step: each is summed over the workers.

        Raises:
            RaycrnnError: the twentieth step in a row without a finite gradient.
        """
        progress = self.progress
        rate = learning_rate(self.settings, progress.step, progress.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout depends on seed, step and rank alone, so a resumed run needs no random state.
        torch.manual_seed(hash((self.settings.seed, progress.step, rank())) & 0x7FFFFFFFFFFFFFFF)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        # Of a share without samples a blank image takes the step, but not into the batch-norm statistics.
        statistics = None if len(batch) else [buffer.clone() for buffer in self.network.buffers()]
        local_loss = self._loss(batch)
        totals = torch.tensor([local_loss.item(), len(batch), *signals], dtype=torch.float64, device=self.device)
        loss_sum, samples, *signals = all_reduce(totals).tolist()
        # DDP takes the mean of the workers' gradients; the loss is the mean over the global batch's samples.
        (local_loss * (world_size() / max(1.0, samples))).backward()
        if statistics is not None:
            with torch.no_grad():
                for buffer, before in zip(self.network.buffers(), statistics, strict=True):
                    buffer.copy_(before)
        self._update(loss_sum)
        loss = loss_sum / max(1.0, samples)
        progress.loss_sum = 0.99 * progress.loss_sum + 0.01 * (loss if math.isfinite(loss) else progress.mean_loss)
        progress.step += 1
        progress.schedule += (1 - progress.schedule) / max(1, steps_left)
        return Step(loss, rate, int(samples), tuple(signals))

    def _loss(self, batch: Batch) -> Tensor:
        batch = batch.to(self.device)
        with autocast(self.precision, self.device):
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


# --- evaluation


@dataclass(frozen=True)
class Evaluation:
    """Scores of a set, by greedy decoding; the same on every worker."""

    counts: Counts
    loss: float
    """summed over units, mean over the samples that the network can learn; 0 without any"""
    speed: float = 0.0
    """lines read a second by all workers together, from images in memory to text"""
    calibration: Calibration | None = None
    """fitted on the set"""
    examples: tuple["Example", ...] = ()
    """the first few of this worker's share"""

    def better_than(self, best: dict) -> bool:
        """Lower CER, then lower loss, then the later one; never one whose loss is not finite."""
        if not math.isfinite(self.loss):
            return False
        return not best or (self.counts.cer, self.loss) <= (best["cer"], best["loss"])

    def scores(self) -> dict[str, float]:
        counts = self.counts
        return {"cer": counts.cer, "wer": counts.wer, "accuracy": counts.accuracy, "loss": self.loss}


@dataclass(frozen=True)
class Example:
    image_CHW: Tensor
    reference: str
    transcription: str


@torch.no_grad()
def evaluate(
    network: CRNN, batches: Iterable[Batch], alphabet: Alphabet, precision: str, device: torch.device, examples: int = 6
) -> Evaluation:
    """Score this worker's batches and sum over all workers."""
    network.eval()
    counts, tally, loss_sum, learnable, seconds, shown = Counts(), Tally(), 0.0, 0, 0.0, []
    for batch in _with_samples(batches):
        start = time.perf_counter()
        moved = batch.to(device)
        with autocast(precision, device):
            log_probs_TBK, frames_B = network(moved.images_BCHW, moved.widths_B)
        paths = ctc.greedy(log_probs_TBK, frames_B)
        seconds += time.perf_counter() - start
        batch_loss, batch_learnable = _loss_of_learnable(log_probs_TBK, frames_B, batch)
        loss_sum, learnable = loss_sum + batch_loss, learnable + batch_learnable
        exact = [list(path.codes) == codes for path, codes in zip(paths, batch.labels(), strict=True)]
        tally.add(log_probs_TBK, frames_B, [path.codes for path in paths], exact)
        for i, (path, codes) in enumerate(zip(paths, batch.labels(), strict=True)):
            reference, transcription = reference_units(codes, alphabet), alphabet.decode(path.codes)
            counts += score(reference, transcription)
            if len(shown) < examples:
                image_CHW = batch.images_BCHW[i, :, :, : batch.widths_B[i]]
                shown.append(Example(image_CHW, "".join(reference), "".join(transcription)))
    totals = torch.tensor([*counts.as_tuple(), loss_sum, learnable, seconds], dtype=torch.float64, device=device)
    *sums, loss_sum, learnable, seconds = all_reduce(totals).tolist()
    tally = Tally(all_reduce(torch.from_numpy(tally.sums).to(device)).cpu().numpy())
    counts = Counts(*map(int, sums))
    # The workers read at the same time.
    speed = counts.samples * world_size() / seconds if seconds else 0.0
    return Evaluation(counts, loss_sum / max(1, learnable), speed, tally.fit(), tuple(shown))


def _with_samples(batches: Iterable[Batch]) -> Iterator[Batch]:
    return (batch for batch in batches if len(batch))


def _loss_of_learnable(log_probs_TBK: Tensor, frames_B: Tensor, batch: Batch) -> tuple[float, int]:
    """Loss over the samples whose label the network could give at all: known units, enough frames."""
    blank = log_probs_TBK.shape[2] - 1
    codes_S = batch.codes_S.clamp(min=0).to(frames_B.device)
    lengths_B = batch.lengths_B.to(frames_B.device)
    losses_B = F.ctc_loss(log_probs_TBK, codes_S, frames_B, lengths_B, blank=blank, reduction="none").cpu()
    unknown_B = torch.tensor([UNKNOWN in codes for codes in batch.labels()])
    if losses_B[~unknown_B].isnan().any():
        # A network that has diverged is none that learnt what little is left.
        return math.inf, 1
    learnable_B = torch.isfinite(losses_B) & ~unknown_B
    return losses_B[learnable_B].sum().item(), int(learnable_B.sum())


def reference_units(codes: Iterable[int], alphabet: Alphabet) -> list[str]:
    return [UNKNOWN_UNIT if code == UNKNOWN else alphabet.units[code] for code in codes]
