"""The evaluations of a training worker: what they read, what is recorded of them, and which model is kept."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from raycrnn.ingest.batches import eval_batch_spec
from raycrnn.ingest.stream import BatchStream
from raycrnn.model.calibration import Calibration
from raycrnn.model.recognizer import Recognizer
from raycrnn.training import collectives, language_models, run_log, validation
from raycrnn.training.job import TrainingJob
from raycrnn.training.learner import Learner
from raycrnn.training.monitor import Reporter
from raycrnn.training.output import RunOutput
from raycrnn.training.run_log import MetricsRecord, RunLog
from raycrnn.training.time_budget import Throughput
from raycrnn.training.validation import EvaluationBatches, ValidationResult


def open_eval_stream(job: TrainingJob) -> BatchStream:
    """Return this worker's share of the evaluation set."""
    assert job.data.eval is not None
    spec = eval_batch_spec(job.configuration, job.data.eval, collectives.rank(), collectives.world_size())
    return BatchStream(spec, job.allocation, 0, spec.batches_per_epoch)


def evaluates_initial_model(job: TrainingJob) -> bool:
    """Return whether the initial model is evaluated before the first step, and kept unless training improves on it.

    All trials of a search have the same initial model, so they do without. So do runs with a time limit in which this
    evaluation may take as long as an epoch.
    """
    data, settings = job.data, job.configuration.training
    # Not `job.initial_model`, which a run lacks that was stopped in this evaluation and is resumed.
    if settings.initial_model_sha256 is None or data.eval is None or job.counts_all_minutes:
        return False
    return not settings.max_minutes or data.eval.usable <= data.train.usable


class Evaluator:
    """Evaluates the network of a run, and writes its model if it is the best one. All workers must call the methods."""

    def __init__(
        self,
        job: TrainingJob,
        learner: Learner,
        output: RunOutput,
        log: RunLog,
        reporter: Reporter,
        device: torch.device,
    ):
        self._job, self._learner, self._output, self._log = job, learner, output, log
        self._reporter, self._device = reporter, device
        self.batches = EvaluationBatches(partial(open_eval_stream, job))
        """The evaluation batches of this worker."""

    def evaluate(self, check_stop: Callable[[], bool]) -> ValidationResult | None:
        """Score the network on the evaluation set. Returns None on all workers if one of them was asked to stop.

        Raises:
            StorageError: Object storage did not deliver the images of a worker.
        """
        network, precision, alphabet = self._learner.network, self._learner.precision, self._job.data.alphabet
        result = validation.evaluate(network, self.batches, alphabet, precision, self._device, check_stop)
        collectives.raise_if_storage_failed(self.batches.problem)
        return result

    def record(
        self,
        result: ValidationResult | None,
        throughput: Throughput,
        rejected: dict[str, int],
        get_seconds: Callable[[], float],
    ) -> MetricsRecord:
        """Record an evaluation, and write the model if it is the best one.

        Args:
            result: The scores; None without an evaluation set.
            throughput: That of the last steps.
            rejected: Number of rejected samples of each data set.
            get_seconds: Returns the wall time of the run, which includes writing the model.

        Raises:
            WriteError: Worker 0 cannot write.
        """
        progress = self._learner.progress
        best = result is None or result.better_than(progress.best)
        progress.count_evaluation(best)
        if best:
            scores = result.scores() if result else {}
            progress.best = {**scores, "epoch": round(progress.epoch, 3), "step": progress.step}
            calibration, folder = result.calibration if result else None, self._output.path / "model"
            self._output.write("model", lambda: self._save_model(calibration, folder), progress.step)
        workers = collectives.world_size()
        record = run_log.metrics_record(result, progress, throughput, get_seconds(), workers, rejected, best)
        self._output.write("metrics.jsonl", lambda: self._log.evaluation(record, result), progress.step)
        if collectives.rank() == 0:
            for level, line in run_log.describe(record, result, self._job.configuration.training):
                self._reporter.log(line, level)
        return record

    def _save_model(self, calibration: Calibration | None, folder: Path) -> None:
        job, scores = self._job, self._learner.progress.best
        more = (scores, self._device, calibration, language_models.get(job), job.data.lexicon)
        Recognizer(self._learner.network, job.configuration, job.data.alphabet, *more).save(folder)
