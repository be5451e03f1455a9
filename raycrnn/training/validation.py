"""Evaluate the network on the evaluation set during training."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raycrnn.data.alphabet import Alphabet
from raycrnn.data.csv_files import UNKNOWN
from raycrnn.metrics.error_rates import Counts, score
from raycrnn.model import ctc, runtime
from raycrnn.model.batch import Batch
from raycrnn.model.calibration import Calibration, TemperatureFitter
from raycrnn.model.crnn import CRNN
from raycrnn.training import collectives

UNKNOWN_UNIT = "\0"
"""Its stand-in: no alphabet holds it, so that it always costs an edit."""


# --- evaluation


@dataclass(frozen=True)
class ValidationResult:
    """Scores of a set, by greedy decoding; the same on every worker."""

    counts: Counts
    loss: float
    """summed over units, mean over the samples that the network can learn; 0 without any"""
    speed: float = 0.0
    """lines read a second by all workers together, from images in memory to text"""
    calibration: Calibration | None = None
    """fitted on the set"""
    examples: tuple["ValidationExample", ...] = ()
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
class ValidationExample:
    image_CHW: Tensor
    reference: str
    transcription: str


@torch.no_grad()
def evaluate(
    network: CRNN, batches: Iterable[Batch], alphabet: Alphabet, precision: str, device: torch.device, examples: int = 6
) -> ValidationResult:
    """Score this worker's batches and sum over all workers."""
    network.eval()
    counts, tally, loss_sum, learnable, seconds, shown = Counts(), TemperatureFitter(), 0.0, 0, 0.0, []
    for batch in _with_samples(batches):
        start = time.perf_counter()
        moved = batch.to(device)
        with runtime.autocast(precision, device):
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
                shown.append(ValidationExample(image_CHW, "".join(reference), "".join(transcription)))
    totals = torch.tensor([*counts.as_tuple(), loss_sum, learnable, seconds], dtype=torch.float64, device=device)
    *sums, loss_sum, learnable, seconds = collectives.all_reduce(totals).tolist()
    tally = TemperatureFitter(collectives.all_reduce(torch.from_numpy(tally.sums).to(device)).cpu().numpy())
    counts = Counts(*map(int, sums))
    # The workers read at the same time.
    speed = counts.samples * collectives.world_size() / seconds if seconds else 0.0
    return ValidationResult(counts, loss_sum / max(1, learnable), speed, tally.fit(), tuple(shown))


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
