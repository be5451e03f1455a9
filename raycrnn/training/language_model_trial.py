"""Try a language model on the evaluation set when training has ended.

With `decoding.language_model=auto`, the model directory gets a language model of the training labels if that lowers the
CER, with the better of two pairs of weight and bonus. With any language model, the confidences of the texts that it
finds are calibrated.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from raycrnn import config
from raycrnn.config import Configuration
from raycrnn.config.decoding import STRENGTH_KEYS
from raycrnn.errors import RaycrnnError
from raycrnn.language.automaton import Automaton
from raycrnn.language.ngram_model import NgramModel
from raycrnn.metrics.error_rates import Counts, score
from raycrnn.metrics.significance import Difference, compare
from raycrnn.model import ctc
from raycrnn.model.batch import Batch
from raycrnn.model.calibration import Calibration, CalibrationFitter
from raycrnn.model.decoding import LEAST_POSTERIOR, LineDecoder
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

DURATION = 2.0
"""Guess of the duration of a trial, relative to an evaluation of the same lines, without what each strength adds, which
is guessed to be 1. A trial reads each line by beam search, and with the network in fp32."""

LEVEL = 0.8
"""Level of the interval of the difference that must lie below 0, so that the language model has fewer errors in nine of
ten resamples of the lines. Most language models of labels help; a stricter test rejects many of them where there are
only a few hundred evaluation lines, and a useless one does little harm."""


class Strength(NamedTuple):
    """How much a language model counts in beam search."""

    weight: float
    """`decoding.language_model_weight`."""
    bonus: float
    """`decoding.insertion_bonus`."""


STRENGTHS = (Strength(0.5, 1.0), Strength(0.8, 2.0))
"""What `auto` tries: the default, and what suits networks that make many errors (see docs/language_models.md)."""


@dataclass(frozen=True)
class LanguageModelTrial:
    """The readings of some lines by beam search, with and without a language model."""

    without: Sequence[Counts]
    """The errors of each line without the language model."""
    with_model: Sequence[Counts]
    """The errors of each line with it."""
    strength: Strength
    """The strength that had the fewest errors."""
    calibration: Calibration
    """The calibration of the texts that were found with it."""

    @cached_property
    def difference(self) -> Difference:
        """The CER with the language model minus that without it."""
        return compare(self.without, self.with_model, LEVEL)["cer"]

    @property
    def helps(self) -> bool:
        """Whether the language model lowers the CER, which chance hardly explains."""
        return bool(self.without) and self.difference.interval.high < 0

    def __str__(self) -> str:
        before, after = (100 * sum(each, Counts()).cer for each in (self.without, self.with_model))
        low, high = 100 * self.difference.interval.low, 100 * self.difference.interval.high
        return (
            f"CER {before:.2f} % without it and {after:.2f} % with it (weight {self.strength.weight:g}, bonus "
            f"{self.strength.bonus:g}) on {len(self.without):,} evaluation lines ({100 * LEVEL:.0f} % interval of the "
            f"difference {low:+.2f} to {high:+.2f} points)"
        )


class _Readings:
    """What beam search reads in some lines with one strength of a language model."""

    def __init__(self, decoder: LineDecoder, strength: Strength):
        values = {"language_model_weight": strength.weight, "insertion_bonus": strength.bonus}
        self.decoder = replace(decoder, settings=decoder.settings.model_copy(update=values))
        self.strength = strength
        self.counts: list[Counts] = []
        self.samples: list[tuple[float, int, int, int]] = []

    def add(self, path: ctc.Path, frames: int, reference: Sequence[str]) -> None:
        """Score the best path of a line."""
        self.counts.append(score(reference, self.decoder.alphabet.decode(path.codes)))
        log_prob = math.log(max(path.posterior or 0.0, LEAST_POSTERIOR))
        self.samples.append((log_prob, len(path.codes), frames, self.counts[-1].exact))

    def calibration(self) -> Calibration:
        return CalibrationFitter(np.array(self.samples, float).reshape(-1, 4)).fit()


def try_language_model(
    recognizer: Recognizer, language_model: NgramModel, batches: Iterable[Batch], strengths: Sequence[Strength]
) -> LanguageModelTrial:
    """Read the first `MOST_LINES` lines, each once, without a language model and with each strength of it.

    Args:
        recognizer: The model, which decodes by beam search.
        language_model: The language model.
        batches: Lines with their labels.
        strengths: The strengths to try, of which the result has the one with the fewest errors.
    """
    alphabet = recognizer.alphabet
    plain = replace(recognizer.decoder, language_model=None)
    fused = replace(plain, language_model=Automaton(language_model, alphabet.units))
    tried = [_Readings(fused, strength) for strength in strengths]
    without: list[Counts] = []
    for batch in _first_lines(batches):
        widths, references = batch.widths_B.tolist(), [reference_units(codes, alphabet) for codes in batch.labels()]
        images = [batch.images_BCHW[i, :, :, :width].permute(1, 2, 0).numpy() for i, width in enumerate(widths)]
        for outputs in recognizer.log_probs(images):
            own = [references[index] for index in outputs.indices]
            for (first, *_), reference in zip(plain.decode(outputs), own, strict=True):
                without.append(score(reference, alphabet.decode(first.codes)))
            for readings in tried:
                paths = readings.decoder.decode(outputs)
                for (best, *_), frames, reference in zip(paths, outputs.frames_B.tolist(), own, strict=True):
                    readings.add(best, frames, reference)
    best_of = min(tried, key=lambda readings: sum(readings.counts, Counts()).unit_edits)
    return LanguageModelTrial(without, best_of.counts, best_of.strength, best_of.calibration())


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
    return (DURATION + len(_strengths(job))) * min(1.0, MOST_LINES * workers / max(1, job.data.eval.usable))


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
        trial = try_language_model(recognizer, language_model, own_share, _strengths(job))
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
            _with_strength(recognizer.configuration, trial.strength),
            recognizer.alphabet,
            recognizer.metrics,
            device,
            replace(recognizer.calibration, with_language_model=trial.calibration),
            language_model,
        ).save(folder)


def _own_strength(configuration: Configuration) -> Strength:
    return Strength(configuration.decoding.language_model_weight, configuration.decoding.insertion_bonus)


def _strengths(job: TrainingJob) -> Sequence[Strength]:
    """Return the strengths to try: that of the configuration alone, if it sets one or names a language model."""
    is_set = not config.set_keys(job.configuration).isdisjoint(STRENGTH_KEYS)
    return [_own_strength(job.configuration)] if job.language_model is not None or is_set else STRENGTHS


def _with_strength(configuration: Configuration, strength: Strength) -> Configuration:
    if strength == _own_strength(configuration):
        return configuration
    return config.completed(configuration, dict(zip(STRENGTH_KEYS, strength, strict=True)))
