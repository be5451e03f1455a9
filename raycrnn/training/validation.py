"""Evaluate the network on the evaluation set during training."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycrnn.data.alphabet import Alphabet
from raycrnn.data.bidi import logical_order
from raycrnn.data.csv_files import UNKNOWN
from raycrnn.data.rejections import Rejection
from raycrnn.metrics.error_rates import Counts, score
from raycrnn.model import ctc, runtime
from raycrnn.model.batch import Batch
from raycrnn.model.calibration import Calibration, CalibrationFitter
from raycrnn.model.crnn import CRNN, output_bytes
from raycrnn.training import collectives

UNKNOWN_UNIT = "\0"
"""Stands for a unit that is not in the alphabet, so that it always counts as an error."""

MAX_CACHED_BYTES = 256 * 2**20
"""Largest size of the evaluation images of a worker, in bytes, at which they are kept in memory."""

MAX_OUTPUT_BYTES = 128 * 2**20
"""Size of the network's outputs for a batch, in bytes, above which the batch is evaluated in several parts. They grow
with the alphabet: 64 lines of 1,000 pixels have 5 MB with 80 units, and 510 MB with 8,000. While they are computed,
PyTorch needs about three times as much."""


class RejectingBatches(Protocol):
    """Batches, and the samples that are missing from them."""

    rejected: dict[int, Rejection]
    problem: str | None

    def __iter__(self) -> Iterator[Batch]: ...


class EvaluationBatches:
    """The evaluation batches of a worker. They are kept in memory after the first pass if they are small enough."""

    def __init__(self, open_stream: Callable[[], RejectingBatches]):
        self._open_stream = open_stream
        self._cached: list[Batch] | None = None
        self.rejected: dict[int, Rejection] = {}
        """The samples that were rejected in the last pass that read images, by row number."""
        self.problem: str | None = None
        """Why object storage did not deliver images in the last pass, which therefore ended early."""

    def __iter__(self) -> Generator[Batch, None, None]:
        if self._cached is not None:
            yield from self._cached
            return
        stream = self._open_stream()
        batches: list[Batch] | None = []
        for batch in stream:
            yield batch
            if stream.problem is not None:
                self.problem = stream.problem
                return
            if batches is not None:
                batches.append(batch)
                if sum(each.images_BCHW.nbytes for each in batches) > MAX_CACHED_BYTES:
                    batches = None
        self.rejected = stream.rejected
        # The next pass reads all images again, also those that could not be read.
        self._cached = None if stream.rejected else batches


@dataclass(frozen=True)
class ValidationResult:
    """The scores of a data set with greedy decoding. They are the same on all workers, except for the examples."""

    counts: Counts
    loss: float
    """Sum over the units of a label, mean over the samples that the network can learn; 0 if there are none."""
    speed: float = 0.0
    """Lines per second that all workers together transcribe, from decoded images to codes."""
    calibration: Calibration | None = None
    """Fitted on the data set."""
    examples: tuple["ValidationExample", ...] = ()
    """The first few samples of this worker's share."""
    is_blank: bool = False
    """Whether all transcriptions are empty: the network outputs only blanks."""

    def better_than(self, best: dict[str, float]) -> bool:
        """Return whether these scores are better: lower CER, then lower or equal loss; the loss must be finite."""
        if not math.isfinite(self.loss):
            return False
        return not best or (self.counts.cer, self.loss) <= (best["cer"], best["loss"])

    def scores(self) -> dict[str, float]:
        """Return CER, WER, accuracy and loss by their names in metrics.jsonl."""
        counts = self.counts
        return {"cer": counts.cer, "wer": counts.wer, "accuracy": counts.accuracy, "loss": self.loss}


@dataclass(frozen=True)
class ValidationExample:
    """A sample and its transcription."""

    image_CHW: Tensor
    reference: str
    transcription: str


@torch.no_grad()
def evaluate(
    network: CRNN,
    batches: Iterable[Batch],
    alphabet: Alphabet,
    precision: str,
    device: torch.device,
    check_stop: Callable[[], bool] = lambda: False,
    examples: int = 6,
) -> ValidationResult | None:
    """Score this worker's batches and sum the scores over all workers. All workers must call it.

    Args:
        check_stop: Called before each batch, or part of one; returns whether to stop the evaluation.

    Returns:
        The scores; None on all workers if one of them stopped.
    """
    network.eval()
    counts, fitter, loss_sum, learnable, units_read, seconds = Counts(), CalibrationFitter(), 0.0, 0, 0, 0.0
    shown: list[ValidationExample] = []
    stopped = False
    for batch in _parts(batches, len(alphabet) + 1):
        if stopped := check_stop():
            break
        start = time.perf_counter()
        moved = batch.to(device)
        with runtime.autocast(precision, device):
            log_probs_TBK, frames_B = network(moved.images_BCHW, moved.widths_B)
        paths = ctc.greedy(log_probs_TBK, frames_B)
        seconds += time.perf_counter() - start
        batch_loss, batch_learnable = _loss_of_learnable(log_probs_TBK, frames_B, batch)
        loss_sum, learnable = loss_sum + batch_loss, learnable + batch_learnable
        units_read += sum(len(path.codes) for path in paths)
        exact = [list(path.codes) == codes for path, codes in zip(paths, batch.labels(), strict=True)]
        fitter.add(log_probs_TBK, frames_B, [path.codes for path in paths], exact)
        # Before those of the next part are computed.
        del log_probs_TBK
        for i, (path, codes) in enumerate(zip(paths, batch.labels(), strict=True)):
            reference, transcription = reference_units(codes, alphabet), alphabet.decode(path.codes)
            counts += score(reference, transcription)
            if len(shown) < examples:
                image_CHW = batch.images_BCHW[i, :, :, : batch.widths_B[i]]
                texts = (
                    "".join(unit for _, unit in logical_order(units, alphabet.text_direction))
                    for units in (reference, transcription)
                )
                shown.append(ValidationExample(image_CHW, *texts))
    totals = torch.tensor(
        [*counts.as_tuple(), loss_sum, learnable, units_read, seconds, stopped], dtype=torch.float64, device=device
    )
    *sums, loss_sum, learnable, units_read, seconds, stops = collectives.all_reduce(totals).tolist()
    if stops:
        return None
    fitter = CalibrationFitter(np.concatenate(collectives.gather(fitter.rows)))
    counts = Counts(*map(int, sums))
    # The workers transcribe at the same time.
    speed = counts.samples * collectives.world_size() / seconds if seconds else 0.0
    loss = loss_sum / max(1, learnable)
    return ValidationResult(counts, loss, speed, fitter.fit(), tuple(shown), is_blank=not units_read)


def _parts(batches: Iterable[Batch], classes: int) -> Iterator[Batch]:
    """Yield the batches that have samples, divided so that their outputs have at most `MAX_OUTPUT_BYTES`.

    A part has at least one sample, however large its output is.
    """
    for batch in (batch for batch in batches if len(batch)):
        yield from batch.split(max(1, MAX_OUTPUT_BYTES // output_bytes(batch.images_BCHW.shape[3], classes)))


def _loss_of_learnable(log_probs_TBK: Tensor, frames_B: Tensor, batch: Batch) -> tuple[float, int]:
    """Return the loss, summed over the samples with known units and enough frames, and the number of these."""
    blank = log_probs_TBK.shape[2] - 1
    codes_S = batch.codes_S.clamp(min=0).to(frames_B.device)
    lengths_B = batch.lengths_B.to(frames_B.device)
    losses_B = F.ctc_loss(log_probs_TBK, codes_S, frames_B, lengths_B, blank=blank, reduction="none").cpu()
    unknown_B = torch.tensor([UNKNOWN in codes for codes in batch.labels()])
    if losses_B[~unknown_B].isnan().any():
        # The network has diverged, even if some samples have a finite loss.
        return math.inf, 1
    learnable_B = torch.isfinite(losses_B) & ~unknown_B
    return losses_B[learnable_B].sum().item(), int(learnable_B.sum())


def reference_units(codes: Iterable[int], alphabet: Alphabet) -> list[str]:
    """Return the units of a label, with `UNKNOWN_UNIT` for units that are not in the alphabet."""
    return [UNKNOWN_UNIT if code == UNKNOWN else alphabet.units[code] for code in codes]
