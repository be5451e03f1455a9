"""Read each training row with the model of the fold that holds it back, and compare its label with what is read."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raycrnn.console import ImageProgress
from raycrnn.data import csv_files
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.data.image import PreparedImage
from raycrnn.data.rejections import Rejected
from raycrnn.evaluation.analysis import EvaluatedLine
from raycrnn.evaluation.run import evaluated_line
from raycrnn.model import ctc
from raycrnn.model.cpus import usable_cpus
from raycrnn.model.recognizer import Recognizer
from raycrnn.model.transcription import Transcription
from raycrnn.model.voter import Text, codes_of, padded_log_probs

IMAGES_AT_A_TIME = 256
"""Images that are decoded together. The next ones are decoded while the network reads them."""


@dataclass(frozen=True)
class OutOfFoldLine:
    """A training row, as the model that was not trained on it reads it."""

    line: EvaluatedLine
    """The label and the transcription."""
    fold: int
    """The fold that holds the row back."""
    log_prob: float
    """Log-probability of the transcription, over all alignments."""
    label_log_prob: float
    """Log-probability of the label; −inf if the image is too narrow for it, or the alphabet lacks a unit of it."""

    @property
    def score(self) -> float:
        """How much more likely the transcription is than the label: the difference of the log-probabilities, per edit.

        It is 0 if they are equal, and infinite if the model cannot read the label. A weak model makes many errors in a
        long line and is sure of none: without the division, such lines would come before those with a wrong label.
        """
        return max(0.0, self.log_prob - self.label_log_prob) / max(1, self.line.counts.unit_edits)


def read(
    files: Sequence[CsvFile], fold_of: Sequence[Sequence[int | None]], models: Sequence[str]
) -> Iterator[OutOfFoldLine]:
    """Yield the rows of training CSVs whose images can be read, fold by fold.

    Args:
        files: The CSVs.
        fold_of: The fold that holds back each row of each file, see `grouping.folds_of_rows`.
        models: The model directory of each fold.

    Raises:
        RaycrnnError: A model cannot be read.
    """
    progress = ImageProgress(sum(number is not None for own in fold_of for number in own))
    try:
        for fold, model in enumerate(models, 1):
            recognizer = Recognizer.load(model)
            rows = [
                (file, row)
                for file, own in zip(files, fold_of, strict=True)
                for row, number in zip(file.rows, own, strict=True)
                if number == fold and not row.problem
            ]
            for images, part in _decoded(recognizer, rows):
                progress.add(len(part))
                kept = [(image, *place) for image, place in zip(images, part, strict=True) if image is not None]
                yield from _lines(recognizer, kept, fold)
    finally:
        progress.close()


def _decoded(
    recognizer: Recognizer, rows: Sequence[tuple[CsvFile, Row]]
) -> Iterator[tuple[list[PreparedImage | None], Sequence[tuple[CsvFile, Row]]]]:
    """Yield the images of rows in parts, each with its rows. Those that cannot be read are None."""

    def prepare(place: tuple[CsvFile, Row]) -> PreparedImage | None:
        try:
            return recognizer.prepare(place[0].resolve(place[1]))
        except Rejected:
            return None

    parts = [rows[first : first + IMAGES_AT_A_TIME] for first in range(0, len(rows), IMAGES_AT_A_TIME)]
    with ThreadPoolExecutor(usable_cpus()) as decoders:
        # `map` submits everything at once, and the images of all parts would be in memory.
        following = [decoders.submit(prepare, place) for place in parts[0]] if parts else []
        for number, part in enumerate(parts, 1):
            images = [each.result() for each in following]
            following = [decoders.submit(prepare, place) for place in parts[number]] if number < len(parts) else []
            yield images, part


def _lines(
    recognizer: Recognizer, rows: Sequence[tuple[PreparedImage, CsvFile, Row]], fold: int
) -> Iterator[OutOfFoldLine]:
    settings, alphabet = recognizer.configuration.data, recognizer.alphabet
    transcriptions = recognizer.transcribe([image for image, _, _ in rows], n_best=1, spans=False, log_probs=True)
    labels = [csv_files.units_of(row, settings) for _, _, row in rows]
    texts = [tuple(alphabet.decode(each.codes)) for each in transcriptions]
    log_probs, label_log_probs = (_log_probs(recognizer, transcriptions, each) for each in (texts, labels))
    for index, (image, file, row) in enumerate(rows):
        line = evaluated_line(file, row, transcriptions[index], image.original_size, recognizer)
        yield OutOfFoldLine(line, fold, log_probs[index], label_log_probs[index])


def _log_probs(recognizer: Recognizer, transcriptions: Sequence[Transcription], texts: Sequence[Text]) -> list[float]:
    """Return the log-probability of a text for each image; −inf if the alphabet lacks a unit of it."""
    result = [-math.inf] * len(texts)
    known = [index for index, text in enumerate(texts) if all(unit in recognizer.alphabet for unit in text)]
    if known:
        log_probs_TBK, frames_B = padded_log_probs([transcriptions[index] for index in known])
        labels = [codes_of(recognizer.alphabet, texts[index]) for index in known]
        for index, log_prob in zip(known, ctc.log_likelihoods(log_probs_TBK, frames_B, labels).tolist(), strict=True):
            result[index] = min(0.0, log_prob)
    return result
