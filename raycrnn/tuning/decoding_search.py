"""A search over `decoding.*` alone: the network runs once, and each trial decodes its output."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from raycrnn import config, storage
from raycrnn.config import Configuration
from raycrnn.data import csv_files
from raycrnn.data.rejections import Rejected, Rejection, check_rejections, rejection_table
from raycrnn.errors import UsageError
from raycrnn.metrics import error_rates
from raycrnn.metrics.error_rates import Counts
from raycrnn.model import runtime
from raycrnn.model.decoding import Outputs, decode
from raycrnn.model.recognizer import Recognizer
from raycrnn.storage import Directory
from raycrnn.tuning import results
from raycrnn.tuning.experiment import CUT_OFF, FAILED, FINISHED, Experiment, Trial
from raycrnn.tuning.sampler import BASE, Sampler
from raycrnn.tuning.search_space import Search

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkOutputs:
    """The output of the network for a set of images, and their labels."""

    batches: list[Outputs]
    references: list[tuple[str, ...]]
    """The units of each image's label."""

    def __len__(self) -> int:
        return len(self.references)


def search(space: Search, base: dict[str, object], model: str) -> results.SearchResult:
    """Run the network once on the evaluation images, then decode its output with the values of each trial.

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
    experiment = Experiment(output, space, base)
    outputs = _run_network(recognizer, configuration)
    seconds = time.time() - started
    logger.info(
        f"the network took {seconds:.1f} s for {len(outputs):,} images; {space.trials} trials and the base decode "
        "its output"
    )
    sampler = Sampler(space, configuration.training.seed)
    for number in range(space.trials + 1):
        trial = Trial(str(number) if number else BASE, sampler.ask(number) if number else {})
        if space.max_minutes and time.time() - started > 60 * space.max_minutes:
            trial.status = CUT_OFF
        else:
            try:
                _run_trial(trial, experiment, recognizer, outputs)
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
        _with_decoding(recognizer, _configuration(experiment, best), best.scores or {}).save(path)

    results.write(experiment, save_model)
    return results.SearchResult(experiment)


def _configuration(experiment: Experiment, trial: Trial) -> Configuration:
    return config.parse(config.with_values(experiment.tree, trial.values))


def _run_network(recognizer: Recognizer, configuration: Configuration) -> NetworkOutputs:
    """Run the network on the evaluation images. Raises `RaycrnnError` if too many cannot be read."""
    settings = configuration.data
    rows = [
        (file, row) for file in csv_files.read_labelled_csvs(settings.csv_files_eval, settings) for row in file.rows
    ]
    images, references, rejections = [], [], []
    for file, row in rows:
        try:
            if row.problem:
                raise Rejected("malformed row", row.problem)
            images.append(recognizer.prepare(file.resolve(row.path)).pixels)
        except Rejected as error:
            rejections.append(Rejection(file.path, row.line, row.path, error.reason, error.detail))
            continue
        references.append(csv_files.units_of(row, settings))
    check_rejections("evaluation", rejections, len(rows), settings)
    if rejections:
        logger.info(rejection_table(rejections))
    return NetworkOutputs(list(recognizer.log_probs(images)), references)


def _run_trial(trial: Trial, experiment: Experiment, recognizer: Recognizer, outputs: NetworkOutputs) -> None:
    """Decode with a trial's values and score the transcriptions. Raises `UsageError` for invalid values."""
    decoding = _configuration(experiment, trial).decoding
    start = time.perf_counter()
    decoded = [(batch, decode(batch, decoding)) for batch in outputs.batches]
    seconds = time.perf_counter() - start
    counts = Counts()
    for batch, paths in decoded:
        for index, (best, *_) in zip(batch.indices, paths, strict=True):
            codes = [code for _, code in recognizer.alphabet.in_logical_order(best.codes)]
            counts += error_rates.score(outputs.references[index], recognizer.alphabet.decode(codes))
    scores = {"cer": counts.cer, "wer": counts.wer, "accuracy": counts.accuracy}
    speed = round(counts.samples / seconds, 1)
    trial.evaluations = [{"best": True, "epoch": 0, "step": 0, "share": 1.0, **scores, "speed": speed}]
    trial.done, trial.minutes, trial.status = 1.0, seconds / 60, FINISHED


def _with_decoding(recognizer: Recognizer, configuration: Configuration, scores: dict[str, float]) -> Recognizer:
    """Return the model with the decoding of another configuration, and the scores that it has with it."""
    return Recognizer(
        recognizer.network,
        recognizer.configuration.model_copy(update={"decoding": configuration.decoding}),
        recognizer.alphabet,
        {**recognizer.metrics, **{name: scores[name] for name in ("cer", "wer", "accuracy")}},
        recognizer.device,
        recognizer.calibration,
    )
