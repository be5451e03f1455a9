"""Try a language model on the evaluation set when training has ended.

With `decoding.language_model=auto`, the model directory gets a language model of the training labels if that lowers the
CER. With any language model, the confidences of the texts that it finds are calibrated.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from raycrnn.errors import RaycrnnError
from raycrnn.language.automaton import Automaton
from raycrnn.language.ngram_model import NgramModel
from raycrnn.metrics.error_rates import Counts, score
from raycrnn.metrics.significance import Difference, compare
from raycrnn.model.batch import Batch
from raycrnn.model.calibration import Calibration, CalibrationFitter
from raycrnn.model.decoding import LEAST_POSTERIOR
from raycrnn.model.recognizer import Recognizer
from raycrnn.training import language_models
from raycrnn.training.job import TrainingJob
from raycrnn.training.monitor import Reporter
from raycrnn.training.output import RunOutput
from raycrnn.training.validation import EvaluationBatches, reference_units

MOST_LINES = 500
"""Number of evaluation lines that are read in a trial, at most. An improvement that matters shows on as many."""

MOST_LABELS = 50_000
"""Number of training labels from which `auto` estimates a language model, at most; that takes a few seconds."""

DURATION = 3.0
"""Guess of the duration of a trial, relative to an evaluation of the same lines. A trial reads each line by beam search
with and without the language model, and with the network in fp32."""


@dataclass(frozen=True)
class LanguageModelTrial:
    """The readings of some lines by beam search, with and without a language model."""

    without: Sequence[Counts]
    """The errors of each line without the language model."""
    with_model: Sequence[Counts]
    """The errors of each line with it."""
    calibration: Calibration
    """The calibration of the texts that were found with it."""

    @cached_property
    def difference(self) -> Difference:
        """The CER with the language model minus that without it."""
        return compare(self.without, self.with_model)["cer"]

    @property
    def helps(self) -> bool:
        """Whether the language model lowers the CER beyond chance."""
        return bool(self.without) and self.difference.interval.high < 0

    def __str__(self) -> str:
        before, after = (100 * sum(each, Counts()).cer for each in (self.without, self.with_model))
        low, high = 100 * self.difference.interval.low, 100 * self.difference.interval.high
        return (
            f"CER {before:.2f} % without it and {after:.2f} % with it on {len(self.without):,} evaluation lines "
            f"(95 % interval of the difference {low:+.2f} to {high:+.2f} points)"
        )


def try_language_model(
    recognizer: Recognizer, language_model: NgramModel, batches: Iterable[Batch]
) -> LanguageModelTrial:
    """Read the first `MOST_LINES` lines, each once, with and without a language model.

    Args:
        recognizer: The model, which decodes by beam search.
        language_model: The language model.
        batches: Lines with their labels.
    """
    alphabet = recognizer.alphabet
    plain = replace(recognizer.decoder, language_model=None)
    fused = replace(plain, language_model=Automaton(language_model, alphabet.units))
    without: list[Counts] = []
    with_model: list[Counts] = []
    samples: list[tuple[float, int, int, int]] = []
    for batch in _first_lines(batches):
        widths, references = batch.widths_B.tolist(), [reference_units(codes, alphabet) for codes in batch.labels()]
        images = [batch.images_BCHW[i, :, :, :width].permute(1, 2, 0).numpy() for i, width in enumerate(widths)]
        for outputs in recognizer.log_probs(images):
            columns = outputs.indices, plain.decode(outputs), fused.decode(outputs), outputs.frames_B.tolist()
            for index, (first, *_), (best, *_), frames in zip(*columns, strict=True):
                without.append(score(references[index], alphabet.decode(first.codes)))
                with_model.append(score(references[index], alphabet.decode(best.codes)))
                log_prob = math.log(max(best.posterior or 0.0, LEAST_POSTERIOR))
                samples.append((log_prob, len(best.codes), frames, with_model[-1].exact))
    return LanguageModelTrial(without, with_model, CalibrationFitter(np.array(samples, float).reshape(-1, 4)).fit())


def _first_lines(batches: Iterable[Batch]) -> Iterator[Batch]:
    left = MOST_LINES
    for batch in batches:
        if left <= 0:
            return
        if len(batch):
            yield batch.split(left)[0]
        left -= len(batch)


def is_due(job: TrainingJob) -> bool:
    """Return whether a run tries a language model when it ends."""
    decoding = job.configuration.decoding
    return job.data.eval is not None and (job.language_model is not None or decoding.tries_language_model)


def relative_duration(job: TrainingJob, workers: int) -> float:
    """Return about how long `conclude` takes, relative to an evaluation by a number of workers."""
    if job.data.eval is None or not is_due(job):
        return 0.0
    return DURATION * min(1.0, MOST_LINES * workers / max(1, job.data.eval.usable))


def conclude(
    job: TrainingJob,
    output: RunOutput,
    batches: EvaluationBatches,
    device: torch.device,
    reporter: Reporter,
    step: int,
) -> None:
    """Try the language model of a run with its best model, and store it there as the configuration says.

    All workers must call it. Worker 0 reads its share of the evaluation set.
    """
    if is_due(job):
        output.fetch("model")
        output.write("model", partial(_conclude, job, output.path / "model", batches, device, reporter), step)


def _conclude(
    job: TrainingJob, folder: Path, batches: EvaluationBatches, device: torch.device, reporter: Reporter
) -> None:
    reporter.set_activity("trying a language model")
    language_model = language_models.get(job)
    is_given = language_model is not None
    if language_model is None:
        try:
            language_model = language_models.of_labels(job.data, MOST_LABELS)
        except RaycrnnError as error:
            reporter.log(f"no language model of the training labels is tried: {error}")
            return
    recognizer = Recognizer.load(folder, str(device))
    with closing(iter(batches)) as own_share:
        trial = try_language_model(recognizer, language_model, own_share)
    if batches.problem is not None:
        reporter.warning(f"no language model was tried: {batches.problem}")
        return
    if not trial.without:
        return
    is_stored = is_given or trial.helps
    which = "the language model" if is_given else "a language model of the training labels"
    reporter.log(f"{which} is {'stored' if is_stored else 'not stored'} with the model: {trial}")
    if is_stored:
        Recognizer(
            recognizer.network,
            recognizer.configuration,
            recognizer.alphabet,
            recognizer.metrics,
            device,
            replace(recognizer.calibration, with_language_model=trial.calibration),
            language_model,
        ).save(folder)
