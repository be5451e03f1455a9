"""A search over `decoding.*` alone: the network reads the evaluation images once, each trial decodes what it gave."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raycrnn import config, storage
from raycrnn.config import Configuration
from raycrnn.data import csv_files
from raycrnn.data.rejections import Rejected, Rejection, check_rejections, rejection_table
from raycrnn.errors import UsageError
from raycrnn.metrics import error_rates
from raycrnn.metrics.error_rates import Counts
from raycrnn.model.decoding import Outputs, decode
from raycrnn.model.recognizer import Recognizer
from raycrnn.storage import Directory
from raycrnn.tuning import results
from raycrnn.tuning.experiment import CUT_OFF, FAILED, FINISHED, Experiment, Trial
from raycrnn.tuning.sampler import BASE, Sampler
from raycrnn.tuning.search_space import Search

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Read:
    """What the network gave for a set of images, and what stands in them."""

    outputs: list[Outputs]
    references: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.references)


def search(wanted: Search, base: dict, model: str) -> results.Outcome:
    """Run a search over decodings.

    Args:
        base: the configuration with what the search fixes, grouped.
        model: the model directory.

    Raises:
        UsageError: no model, no CSV, an output directory that is in use.
        RaycrnnError: more than `data.max_rejected` of the images cannot be read.
    """
    started = time.time()
    configuration = config.parse(base)
    output = Directory(storage.absolute(configuration.output_model_dir))
    if output.path.is_file() or output.entries():
        raise UsageError(f"{output}: exists and is not empty: choose another output_model_dir")
    recognizer = Recognizer.load(model)
    trials = Experiment(output, wanted, base)
    read = _read(recognizer, configuration)
    seconds = time.time() - started
    logger.info(f"{len(read):,} images read once, in {seconds:.1f} s; {wanted.trials} trials and the base decode them")
    sampler = Sampler(wanted, configuration.training.seed)
    for number in range(wanted.trials + 1):
        trial = Trial(str(number) if number else BASE, sampler.ask(number) if number else {})
        if wanted.max_minutes and time.time() - started > 60 * wanted.max_minutes:
            trial.status = CUT_OFF
        else:
            _try(trial, trials, recognizer, read)
        trials.trials[trial.name] = trial
        sampler.tell(trial.number, trial.values, trial.scores)

    output.take()
    output.path.mkdir(parents=True, exist_ok=True)
    trials.save_search()
    for trial in trials.trials.values():
        trials.save(trial)

    def save_model(best: Trial, path: Path) -> None:
        _with_decoding(recognizer, _configuration(trials, best), best).save(path)

    results.write(trials, save_model)
    return results.Outcome(trials)


def _configuration(trials: Experiment, trial: Trial) -> Configuration:
    return config.parse(config.with_values(trials.tree, trial.values))


def _read(recognizer: Recognizer, configuration: Configuration) -> Read:
    """Read the evaluation images. Raises `RaycrnnError` if too many cannot be."""
    settings = configuration.data
    pairs = [
        (file, row) for file in csv_files.read_labelled_csvs(settings.csv_files_eval, settings) for row in file.rows
    ]
    arrays, references, rejections = [], [], []
    for file, row in pairs:
        try:
            if row.problem:
                raise Rejected("malformed row", row.problem)
            arrays.append(recognizer.prepare(file.resolve(row.path)).pixels)
        except Rejected as error:
            rejections.append(Rejection(file.path, row.line, row.path, error.reason, error.detail))
            continue
        label = row.label or ""
        references.append(csv_files.split_label(label, settings.string_split_delimiter, settings.unicode_form))
    check_rejections("evaluation", rejections, len(pairs), settings)
    if rejections:
        logger.info(rejection_table(rejections))
    return Read(list(recognizer.log_probs(arrays)), references)


def _try(trial: Trial, trials: Experiment, recognizer: Recognizer, read: Read) -> None:
    try:
        _decode(trial, trials, recognizer, read)
    except UsageError as error:
        # Values that each do, together may not.
        trial.status, trial.error = FAILED, str(error)


def _decode(trial: Trial, trials: Experiment, recognizer: Recognizer, read: Read) -> None:
    """Decode as a trial's values say, and score it."""
    decoding = _configuration(trials, trial).decoding
    start = time.perf_counter()
    found = [(outputs, decode(outputs, decoding)) for outputs in read.outputs]
    seconds = time.perf_counter() - start
    counts = sum(_scores(recognizer, read, found), Counts())
    scores = {"cer": counts.cer, "wer": counts.wer, "accuracy": counts.accuracy}
    speed = round(counts.samples / seconds, 1)
    trial.evaluations = [{"best": True, "epoch": 0, "step": 0, "share": 1.0, **scores, "speed": speed}]
    trial.done, trial.minutes, trial.status = 1.0, seconds / 60, FINISHED


def _scores(recognizer: Recognizer, read: Read, found: list) -> Iterator[Counts]:
    for outputs, paths in found:
        for index, (best, *_) in zip(outputs.indices, paths, strict=True):
            yield error_rates.score(read.references[index], recognizer.alphabet.decode(best.codes))


def _with_decoding(recognizer: Recognizer, wanted: Configuration, best: Trial) -> Recognizer:
    """The model as it is, but for how it decodes, and its scores by that."""
    configuration = recognizer.configuration.model_copy(update={"decoding": wanted.decoding})
    metrics_of_best = {**recognizer.metrics, **{name: best.scores[name] for name in ("cer", "wer", "accuracy")}}
    return Recognizer(
        recognizer.network,
        configuration,
        recognizer.alphabet,
        metrics_of_best,
        recognizer.device,
        recognizer.calibration,
    )
