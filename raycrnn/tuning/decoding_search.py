"""A search over `decoding.*` alone: the network runs once, and each trial decodes its output."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from raycrnn import config, storage
from raycrnn.config import Configuration
from raycrnn.config.decoding import LABELS, STRENGTH_KEYS
from raycrnn.config.group import AUTO
from raycrnn.data import csv_files
from raycrnn.data.lexicon import Lexicon
from raycrnn.data.rejections import Rejected, Rejection, check_rejections, rejection_table
from raycrnn.errors import UsageError
from raycrnn.language import model_files as language_files
from raycrnn.language.automaton import Automaton
from raycrnn.metrics import error_rates
from raycrnn.metrics.error_rates import Counts
from raycrnn.model import runtime
from raycrnn.model.crnn import output_bytes
from raycrnn.model.decoding import Outputs
from raycrnn.model.lexicon_decoding import CodedLexicon, coded
from raycrnn.model.recognizer import Recognizer
from raycrnn.storage import Directory
from raycrnn.tuning import results
from raycrnn.tuning.experiment import CUT_OFF, FAILED, FINISHED, Experiment, Trial
from raycrnn.tuning.sampler import BASE, Sampler
from raycrnn.tuning.search_space import Search

logger = logging.getLogger(__name__)


MAX_KEPT_BYTES = 2 * 2**30
"""Size of the network's outputs for all images, in bytes, above which they are not kept for the next trial."""


@dataclass(frozen=True)
class EvaluationSet:
    """The images and labels that the trials are scored on."""

    recognizer: Recognizer
    images: list[np.ndarray]
    """uint8 [H, W, C], as the network reads them."""
    references: list[tuple[str, ...]]
    """The units of each image's label."""
    language_models: dict[str, Automaton] = field(default_factory=dict)
    """The language models of the trials that were read, by path or URI."""
    lexicons: dict[str, CodedLexicon] = field(default_factory=dict)
    """The lexicons of the trials that were read, by path or URI."""

    def __len__(self) -> int:
        return len(self.references)

    @property
    def total_bytes(self) -> int:
        """Size of the network's outputs, without padding."""
        classes = len(self.recognizer.alphabet) + 1
        return sum(output_bytes(array.shape[1], classes) for array in self.images)

    @cached_property
    def kept(self) -> list[Outputs] | None:
        """The network's outputs in batches; None if they have more than `MAX_KEPT_BYTES`."""
        return list(self.recognizer.log_probs(self.images)) if self.total_bytes <= MAX_KEPT_BYTES else None

    def language_model(self, settings: config.Decoding) -> Automaton | None:
        """Return the language model that settings name. `auto`, `labels`, and the name in the model are its own.

        Raises:
            UsageError: There is none.
            RaycrnnError: The file is damaged.
        """
        name = settings.language_model
        if name is None:
            return None
        own = self.recognizer.decoder.language_model
        if name == AUTO:
            return own if settings.tries_language_model else None
        if own and name in (LABELS, self.recognizer.configuration.decoding.language_model):
            return own
        if name == LABELS:
            raise UsageError(f"decoding.language_model={LABELS}: the model has no language model: name an ARPA file")
        if name not in self.language_models:
            self.language_models[name] = Automaton(language_files.read(name), self.recognizer.alphabet.units)
        return self.language_models[name]

    def lexicon(self, configuration: Configuration) -> CodedLexicon | None:
        """Return the lexicon that a configuration names. The name in the model is that of the model's own.

        Raises:
            UsageError: It cannot be read, or has no entry that the model can read.
        """
        name, recognizer = configuration.decoding.lexicon, self.recognizer
        if name is None or name == recognizer.configuration.decoding.lexicon:
            return recognizer.decoder.lexicon if name else None
        if name not in self.lexicons:
            lexicon = Lexicon.read(name, recognizer.configuration.data)
            self.lexicons[name] = coded(lexicon, recognizer.configuration, recognizer.alphabet)
        return self.lexicons[name]

    def outputs(self) -> Iterable[Outputs]:
        """Return the network's outputs in batches. If they are not kept, they are computed as they are read."""
        return self.recognizer.log_probs(self.images) if self.kept is None else self.kept


def search(space: Search, base: dict[str, object], model: str) -> results.SearchResult:
    """Decode the network's output for the evaluation images with the values of each trial.

    The network runs once, unless its output is too large to keep.

    Args:
        base: The grouped configuration, with the values that the search fixes.
        model: The model directory.

    Raises:
        UsageError: The model or a CSV does not exist, or the output directory is in use.
        RaycrnnError: More than `data.max_rejected` of the images cannot be read.
    """
    started = time.time()
    configuration = config.parse(base)
    output = Directory(storage.absolute(configuration.output_model_dir))
    if output.path.is_file() or output.entries():
        raise UsageError(f"{output}: exists and is not empty: choose another output_model_dir")
    runtime.limit_threads()
    recognizer = Recognizer.load(model)
    experiment = Experiment(output, space, _with_stored_strength(base, configuration, recognizer))
    evaluation_set = _read_images(recognizer, configuration)
    if evaluation_set.kept is None:
        size = f"its output for {len(evaluation_set):,} images has {evaluation_set.total_bytes / 2**30:.1f} GiB"
        logger.info(f"the network runs again for each trial, because {size}")
    else:
        seconds = time.time() - started
        logger.info(
            f"the network took {seconds:.1f} s for {len(evaluation_set):,} images; {space.trials} trials and the base "
            "decode its output"
        )
    sampler = Sampler(space, configuration.training.seed)
    for number in range(space.trials + 1):
        trial = Trial(str(number) if number else BASE, sampler.ask(number) if number else {})
        if space.max_minutes and time.time() - started > 60 * space.max_minutes:
            trial.status = CUT_OFF
        else:
            try:
                _run_trial(trial, experiment, evaluation_set)
            except UsageError as error:
                # Values that are valid one by one may be invalid together.
                trial.status, trial.error = FAILED, str(error)
        experiment.trials[trial.name] = trial
        sampler.tell(trial.number, trial.values, trial.scores)

    output.claim()
    output.path.mkdir(parents=True, exist_ok=True)
    experiment.save_search()
    for trial in experiment.trials.values():
        experiment.save(trial)

    def save_model(best: Trial, path: Path) -> None:
        _with_decoding(evaluation_set, _configuration(experiment, best), best.scores or {}).save(path)

    results.write(experiment, save_model)
    return results.SearchResult(experiment)


def _with_stored_strength(
    base: dict[str, object], configuration: Configuration, recognizer: Recognizer
) -> dict[str, object]:
    """Return the tree of the base with the model's strength of a language model, unless it sets one."""
    stored, set_keys = recognizer.configuration.model_dump(mode="json"), config.set_keys(configuration)
    values = {key: config.value_at(stored, key) for key in STRENGTH_KEYS if key not in set_keys}
    return config.with_values(base, values)


def _configuration(experiment: Experiment, trial: Trial) -> Configuration:
    return config.parse(config.with_values(experiment.tree, trial.values))


def _read_images(recognizer: Recognizer, configuration: Configuration) -> EvaluationSet:
    """Read the evaluation images. Raises `RaycrnnError` if too many cannot be read."""
    settings = configuration.data
    rows = [
        (file, row) for file in csv_files.read_labelled_csvs(settings.csv_files_eval, settings) for row in file.rows
    ]
    images, references, rejections = [], [], []
    for file, row in rows:
        try:
            if row.problem:
                raise Rejected("malformed row", row.problem)
            images.append(recognizer.prepare(file.resolve(row)).pixels)
        except Rejected as error:
            rejections.append(Rejection(file.path, row.line, row.path, error.reason, error.detail))
            continue
        references.append(csv_files.units_of(row, settings))
    check_rejections("evaluation", rejections, len(rows), settings)
    if rejections:
        logger.info(rejection_table(rejections))
    return EvaluationSet(recognizer, images, references)


def _run_trial(trial: Trial, experiment: Experiment, evaluation_set: EvaluationSet) -> None:
    """Decode with a trial's values and score the transcriptions. Raises `UsageError` for invalid values."""
    configuration = _configuration(experiment, trial)
    settings = configuration.decoding
    language_model, lexicon = evaluation_set.language_model(settings), evaluation_set.lexicon(configuration)
    decoder = replace(
        evaluation_set.recognizer.decoder, settings=settings, language_model=language_model, lexicon=lexicon
    )
    counts, seconds = Counts(), 0.0
    for batch in evaluation_set.outputs():
        start = time.perf_counter()
        paths = decoder.decode(batch)
        seconds += time.perf_counter() - start
        for index, (best, *_) in zip(batch.indices, paths, strict=True):
            codes = [code for _, code in decoder.alphabet.in_logical_order(best.codes)]
            counts += error_rates.score(evaluation_set.references[index], decoder.alphabet.decode(codes))
    scores = {"cer": counts.cer, "wer": counts.wer, "accuracy": counts.accuracy}
    speed = round(counts.samples / seconds, 1)
    trial.evaluations = [{"best": True, "epoch": 0, "step": 0, "share": 1.0, **scores, "speed": speed}]
    trial.done, trial.minutes, trial.status = 1.0, seconds / 60, FINISHED


def _with_decoding(evaluation_set: EvaluationSet, configuration: Configuration, scores: dict[str, float]) -> Recognizer:
    """Return the model with the decoding of another configuration, and the scores that it has with it."""
    recognizer, language_model = evaluation_set.recognizer, evaluation_set.language_model(configuration.decoding)
    lexicon, calibration = evaluation_set.lexicon(configuration), recognizer.calibration
    before, now = recognizer.configuration.model_dump(), configuration.model_dump()
    same_strength = all(config.value_at(before, key) == config.value_at(now, key) for key in STRENGTH_KEYS)
    if language_model is not recognizer.decoder.language_model or not same_strength:
        # It was fitted for what the model had found.
        calibration = replace(calibration, with_language_model=None)
    return Recognizer(
        recognizer.network,
        recognizer.configuration.model_copy(update={"decoding": configuration.decoding}),
        recognizer.alphabet,
        {**recognizer.metrics, **{name: scores[name] for name in ("cer", "wer", "accuracy")}},
        recognizer.device,
        calibration,
        language_model.model if language_model else None,
        lexicon.lexicon if lexicon else None,
    )
