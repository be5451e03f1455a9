"""A training worker: take batches, train, evaluate, and write the model directory and checkpoints.

All workers stop, evaluate or fail in the same step: they decide from signals that are summed over the workers with the
step's loss. They read the result of a step after they have queued the next one; before an evaluation or a checkpoint,
they read all results. Only worker 0 writes files.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import ray
import torch

from raycrnn.data.rejections import Rejection
from raycrnn.errors import RaycrnnError, StorageError, WriteError
from raycrnn.ingest.batches import train_batch_spec
from raycrnn.ingest.stream import BatchStream
from raycrnn.model import runtime
from raycrnn.model.batch import Batch
from raycrnn.model.crnn import CRNN
from raycrnn.storage import Directory
from raycrnn.training import checkpoint, collectives, language_model_trial, run_log
from raycrnn.training.evaluator import Evaluator, evaluates_initial_model
from raycrnn.training.job import TrainingJob
from raycrnn.training.learner import Learner, StepSignals, TrainingState, divergence
from raycrnn.training.monitor import Reporter
from raycrnn.training.output import RunOutput, describe_changed
from raycrnn.training.preemption import PreemptionNotices
from raycrnn.training.rejected_samples import RejectedSamples
from raycrnn.training.run_log import RunLog
from raycrnn.training.saver import CheckpointSaver
from raycrnn.training.time_budget import Throughput, TimeBudget

ReportMetrics = Callable[[dict[str, object]], None]
"""Receives the metrics of an evaluation. All workers call it equally often."""


def run(job: TrainingJob, device: torch.device, report_metrics: ReportMetrics | None = None) -> None:
    """Train as one of the workers of a run.

    Args:
        device: Device of this worker.
        report_metrics: Called with the metrics of each evaluation; `ray.train.report` in a worker of Ray Train.
    """
    reporter = Reporter(job.monitor)
    try:
        with reporter.heartbeats(collectives.rank()):
            worker = Worker(job, reporter, device, report_metrics)
            with closing(worker.output):
                worker.run()
    except RaycrnnError as error:
        # All workers raise it in the same step, and worker 0 has the full message. Ray Train must not see it: it would
        # start the workers again.
        if collectives.rank() == 0:
            reporter.result({"error": str(error), "can_go_on": isinstance(error, WriteError | StorageError)})


def make_network(job: TrainingJob) -> CRNN:
    """Return the network of a run before its first step, with random weights or those of its initial model."""
    settings, alphabet = job.configuration, job.data.alphabet
    torch.manual_seed(settings.training.seed)
    network = CRNN.from_settings(settings.model, settings.image, len(alphabet) + 1)
    if job.initial_model is not None:
        job.initial_model.load_into(network, alphabet)
    return network


def make_time_budget(job: TrainingJob, total_steps: int, interval: int, seconds_before: float) -> TimeBudget:
    """Return the time budget of a run.

    Args:
        total_steps: Steps of all epochs.
        interval: Steps between two evaluations.
        seconds_before: Seconds that earlier commands spent on the run.
    """
    settings = job.configuration.training
    minutes = settings.max_minutes
    eval_rows = job.data.eval.usable if job.data.eval else 0
    spent = seconds_before if job.counts_all_minutes else 0.0
    deadline = job.started + 60 * minutes - spent if minutes else None
    trial = language_model_trial.relative_duration(job, collectives.world_size())
    return TimeBudget(total_steps, deadline, eval_rows / settings.train_batch_size, interval, trial)


def restored_progress(job: TrainingJob, found: checkpoint.Checkpoint, batches_per_epoch: int) -> TrainingState:
    """Return the progress with which a run continues from a checkpoint."""
    progress = TrainingState(**{**found.state["progress"], "batches_per_epoch": batches_per_epoch})
    # Later checkpoints are of this run.
    if found.path.name == job.taken_over:
        progress.best, progress.since_best = {}, 0
    if job.trains_on and progress.finished:
        progress.begin_new_schedule()
    return progress


class Worker:
    """The state of a worker during a run."""

    def __init__(
        self, job: TrainingJob, reporter: Reporter, device: torch.device, report_metrics: ReportMetrics | None
    ):
        self.job, self.reporter, self.device, self.report_metrics = job, reporter, device, report_metrics
        self.start_times = {"trainer, worker, imports": time.time()}
        """When each part of the start ended, in seconds since 1970."""
        self.settings = job.configuration.training
        self.rank, self.world_size = collectives.rank(), collectives.world_size()
        self.output = RunOutput(Directory(job.output, job.owner), reporter, device)
        torch.set_num_threads(job.allocation.threads)
        runtime.keep_freed_memory()
        runtime.keep_kernels()
        self.learner = Learner(make_network(job), self.settings, device)
        self.spec = train_batch_spec(job.configuration, job.data.train, self.rank, self.world_size)
        self.rejected = RejectedSamples(job.data, job.configuration.data)
        self.learner.progress.batches_per_epoch = self.spec.batches_per_epoch
        self.seconds_before = 0.0
        """Seconds that earlier commands spent on this run."""
        self._restore()
        self.progress = self.learner.progress
        batches = self.spec.batches_per_epoch
        self.last_step = self.settings.epochs(batches) * batches
        self.steps_between_evaluations = self.settings.epochs_between_evaluations(batches) * batches
        self.time_budget = make_time_budget(job, self.last_step, self.steps_between_evaluations, self.seconds_before)
        self.steps_left = collectives.from_worker_0(self.time_budget.steps_left(self.progress.step), device)
        self.signals = StepSignals()
        """The signals of the last step that was read since a step was queued."""
        self.run_log = RunLog(self.output.path)
        self._write("logs", lambda: self.run_log.open(self.progress))
        self.evaluator = Evaluator(job, self.learner, self.output, self.run_log, reporter, device)
        self.throughput = Throughput()
        notices = PreemptionNotices(reporter) if report_metrics else None  # Only in workers of Ray Train.
        self.saver = CheckpointSaver(job, self.output, self.learner, self.rejected, self.seconds_before, notices)
        self.start_times["network"] = time.time()

    def _restore(self) -> None:
        self.output.fetch("checkpoints", *(["metrics.jsonl"] if self.rank == 0 else []))
        found, problems = checkpoint.latest(self.output.path / "checkpoints")
        checkpoint.check_same(collectives.gather(found.path.name if found else None), self.output.directory)
        if self.rank == 0:
            for problem in problems:
                self.reporter.warning(f"{problem}; the checkpoint before it is used")
        if found is None:
            return
        self.learner.load_state_tensors(found.tensors)
        self.learner.progress = restored_progress(self.job, found, self.spec.batches_per_epoch)
        self.seconds_before = checkpoint.seconds_before(found.state, self.job.started)
        self.rejected.while_training.update(checkpoint.read_rejected(found.state))
        if self.rank == 0:
            self.reporter.log(f"resuming from {found.path.name}, epoch {self.learner.progress.epoch:.2f}")

    def run(self) -> None:
        """Train to the end of the schedule, or until the command asks to stop."""
        stream = BatchStream(
            self.spec,
            self.job.allocation,
            self.progress.step,
            self.last_step,
            pin_memory=self.device.type == "cuda",
            get_image_cache=lambda: ray.get(self.job.image_cache_registry.get_image_cache.remote()),
            report_changed=lambda uri: self.reporter.warning(describe_changed(uri, self.job.output)),
        )
        # That of the initial model; or the run was stopped after the last step of an epoch, before its evaluation.
        stopped = self._evaluation_is_due() and not self._evaluate()
        with closing(iter(stream)) as batches:
            while (
                not stopped
                and not self.progress.has_stopped_improving(self.settings.early_stopping)
                and (batch := self._next(batches)) is not None
            ):
                self._queue_step(batch, stream)
                self._read_steps(stream, unread=0 if self._reads_at_once() else 1)
                if self.signals.save or self.signals.save_in_background:
                    self._read_steps(stream, unread=0)
                stopped = self.signals.stop
                if stopped or self.steps_left <= 0:
                    break
                if self.learner.unread_steps:
                    continue
                # Before an evaluation, which may take longer than a node that is drained has left.
                if self.signals.save:
                    self.saver.save()
                if self._evaluation_is_due() and self.signals.may_evaluate and not self._evaluate():
                    stopped = True
                elif self.signals.save_in_background or self.progress.step % self.settings.save_interval == 0:
                    self.saver.save_in_background()
        self._read_steps(stream, unread=0)
        stopped = stopped or self.signals.stop
        if not stopped and self.progress.evaluated_at != self.progress.step:
            stopped = not self._evaluate()
        if stopped:
            self._close()
            if self.rank == 0:
                self.reporter.result({"stopped": self.progress.step})
            return
        self._finish()

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        step = self.learner.next_step + 1
        self.reporter.set_activity(f"waiting for the images of step {step}")
        batch = next(batches, None)
        self.start_times.setdefault("first batch", time.time())
        self.reporter.set_activity(f"computing step {step}, or waiting for other workers in it")
        return batch

    def _queue_step(self, batch: Batch, stream: BatchStream) -> None:
        # The signals describe the time up to this step; the other workers receive them with its loss.
        if self.run_log.problem is not None:
            self.output.fail("logs", self.run_log.problem, self.progress.step)
        signals = StepSignals(
            new_rejections=self.rejected.has_new("train", stream.rejected),
            write_failed=self.output.has_failed,
            read_failed=stream.problem is not None,
            save=self.saver.is_due_at_once(),
        )
        if self.rank == 0:
            left = self.time_budget.steps_left(self.learner.next_step + 1)
            may_evaluate = self.time_budget.has_time_to_evaluate(self.throughput.seconds_per_step())
            stop, save = self.reporter.stop_requested, self.saver.is_due_by_time()
            signals = replace(signals, stop=stop, steps_left=left, may_evaluate=may_evaluate, save_in_background=save)
        self.learner.queue_step(batch, self.steps_left, signals)
        self.signals, self.steps_left = StepSignals(), self.steps_left - 1

    def _reads_at_once(self) -> bool:
        """Return whether the last result is needed before the next step is queued. It is the same on all workers."""
        step, intervals = self.learner.next_step, (self.steps_between_evaluations, self.settings.save_interval)
        return "first step" not in self.start_times or any(step % interval == 0 for interval in intervals)

    def _read_steps(self, stream: BatchStream, unread: int) -> None:
        """Read the results of the queued steps, except the last `unread` ones, and act on them."""
        while self.learner.unread_steps > unread:
            step = self.learner.read_step()
            self.start_times.setdefault("first step", time.time())
            self.signals = step.signals
            self.steps_left = step.signals.steps_left - self.learner.unread_steps
            self.throughput.add(step.samples, stream.waited, stream.pixels, stream.padding)
            if self.rank == 0:
                self.reporter.progress(lambda: run_log.progress_report(self.progress, self.throughput, self.steps_left))
                self.run_log.step(step, self.progress, self.throughput)
            if self.signals.read_failed:
                collectives.raise_if_storage_failed(stream.problem)
            if self.signals.write_failed:
                self.output.raise_failure("logs or checkpoints", self.progress.step)
            if self.signals.new_rejections:
                self._share_rejections("train", stream.rejected)

    def _share_rejections(self, name: str, own: dict[int, Rejection]) -> None:
        try:
            self.rejected.share(name, own)
        except RaycrnnError:
            self._write_rejected()
            raise

    def _evaluation_is_due(self) -> bool:
        step = self.progress.step
        is_due = step % self.steps_between_evaluations == 0 and step != self.progress.evaluated_at
        return is_due and (step > 0 or evaluates_initial_model(self.job))

    def _evaluate(self) -> bool:
        """Evaluate, and return whether the evaluation was completed: a request to stop ends it."""
        self.reporter.set_activity("evaluating")
        start, result = time.monotonic(), None
        if self.job.data.eval is not None:
            result = self.evaluator.evaluate(self.reporter.check_stop)
            if result is None:
                return False
            self._share_rejections("eval", self.evaluator.batches.rejected)
        self.progress.evaluated_at = self.progress.step
        rejected = self.rejected.counts()
        record = self.evaluator.record(result, self.throughput, rejected, lambda: self.saver.elapsed()["all"])
        self._write_rejected()
        if self.job.exchanges_weights:
            self.saver.save()  # The search copies it.
        elif self.progress.step and self.saver.is_due_after_evaluation():
            self.saver.save_in_background()
        if self.rank == 0:
            self.reporter.evaluation(dict(record))
            if self.job.exchanges_weights:
                self.reporter.wait_for_search()
        if self.report_metrics is not None:
            self.reporter.set_activity("reporting metrics to Ray Train, or waiting for other workers to report")
            self.report_metrics(dict(record))
        if self.progress.step == 0:
            # It takes longer than the next ones, because nothing is in memory yet.
            self.start_times["evaluation of the initial model"] = time.time()
            return True
        self.time_budget.evaluated(time.monotonic() - start)  # With the checkpoint, which also takes time from steps.
        self.throughput.pause(time.monotonic() - start)
        return True

    # All workers must call the following methods: they wait for worker 0 to write.

    def _write(self, name: str, write: Callable[[], None]) -> None:
        self.output.write(name, write, self.progress.step)

    def _write_rejected(self) -> None:
        self._write("rejected.csv", lambda: self.rejected.write(self.output.path / "rejected.csv"))

    def _finish(self) -> None:
        if not self.progress.best:
            raise divergence("no evaluation had a finite loss", self.settings)
        language_model_trial.conclude(
            self.job, self.output, self.evaluator.batches, self.device, self.reporter, self.progress.step
        )
        self.progress.finished = True
        self._close()
        if self.rank == 0:
            progress, rejected = self.progress, self.rejected.total()
            self.reporter.result(
                {"best": progress.best, "steps": progress.step, "rejected": rejected, "start_times": self.start_times}
            )

    def _close(self) -> None:
        self.saver.save()
        self._write_rejected()
        self._write("logs", self.run_log.close)
