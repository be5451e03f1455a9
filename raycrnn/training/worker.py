"""One training worker, as Ray runs it on a CPU or a GPU: batches in, a model directory and checkpoints out.

Every decision that ends or divides the work (stop, last step, too many bad samples) is taken by all workers in
the same step, from numbers that travel with it. Worker 0 alone writes files.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict

import ray
import torch
import torch.distributed as dist

from raycrnn import storage
from raycrnn.data.rejections import Rejection, check_rejections, write_rejected
from raycrnn.errors import RaycrnnError, StorageError, WriteError
from raycrnn.ingest.batches import eval_batch_spec, train_batch_spec
from raycrnn.ingest.stream import BatchStream
from raycrnn.model import runtime
from raycrnn.model.batch import Batch
from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer
from raycrnn.storage import Directory
from raycrnn.training import checkpoint, collectives, run_log, validation
from raycrnn.training.job import TrainingJob
from raycrnn.training.learner import Learner, StepResult, TrainingState
from raycrnn.training.monitor import Reporter
from raycrnn.training.time_budget import Throughput, TimeBudget
from raycrnn.training.validation import ValidationResult

SECONDS_BETWEEN_SAVES = 30.0
"""A checkpoint after every evaluation would take longer than the epochs of a small set."""

MOST_CACHED_BYTES = 256 * 2**20
"""Evaluation sets up to this size a worker are decoded once and kept."""


def run(job: TrainingJob, device: torch.device) -> None:
    """Train as one of the workers, or as the only one."""
    reporter = Reporter(job.monitor)
    try:
        with reporter.beating(collectives.rank()):
            Worker(job, reporter, device).run()
    except RaycrnnError as error:
        # Every worker meets it in the same step, and worker 0 knows most of it; trying again would not help.
        if collectives.rank() == 0:
            reporter.outcome({"error": str(error), "can_go_on": isinstance(error, WriteError | StorageError)})


class Worker:
    """A worker's state over a run."""

    def __init__(self, job: TrainingJob, reporter: Reporter, device: torch.device):
        self.job, self.reporter = job, reporter
        self.marks = {"trainer, worker, imports": time.time()}
        """the parts of the start and when they ended, in seconds since 1970"""
        self.settings = job.configuration.training
        self.directory = Directory(job.output, job.owner)
        self.output = self.directory.path
        self.device = device
        torch.set_num_threads(job.allocation.threads)
        runtime.keep_freed_memory()
        runtime.keep_kernels()
        torch.manual_seed(self.settings.seed)
        network = CRNN.from_settings(job.configuration.model, job.configuration.image, len(job.data.alphabet) + 1)
        self.learner = Learner(network, self.settings, self.device)
        self.rank, self.world_size = collectives.rank(), collectives.world_size()
        self.spec = train_batch_spec(job.configuration, job.data.train, self.rank, self.world_size)
        self.rejected: dict[str, dict[int, Rejection]] = {"train": {}, "eval": {}}
        self.seconds_before = 0.0
        """that earlier commands spent on this run"""
        self._restore()
        self.progress = self.learner.progress
        self.clock = self._make_clock()
        self.steps_left = self._worker_0_says(self.clock.steps_left(self.progress.step))
        self.problem: str | None = None
        """of writing, known to worker 0 and told to the others with the next step"""
        self.journal: run_log.RunLog | None = None
        self._write_together("logs", self._open_journal)
        self.window = Throughput()
        # The first evaluation is followed by a checkpoint, however soon it comes.
        self.last_save = -math.inf
        self.marks["network"] = time.time()
        self.last_record: dict = {}
        """of the last evaluation"""
        self._eval_batches: list[Batch] | None = None

    def _make_clock(self) -> TimeBudget:
        minutes = self.settings.max_minutes
        total = self.settings.n_epochs * self.spec.batches_per_epoch
        eval_rows = self.job.data.eval.usable if self.job.data.eval else 0
        spent = self.seconds_before if self.job.counts_all_minutes else 0.0
        deadline = self.job.started + 60 * minutes - spent if minutes else None
        return TimeBudget(total, deadline, eval_rows / self.settings.train_batch_size)

    def _restore(self) -> None:
        self.directory.fetch("checkpoints", *(["metrics.jsonl"] if self.rank == 0 else []))
        found, problems = checkpoint.latest(self.output / "checkpoints")
        self._check_same_checkpoint(found.path.name if found else None)
        if self.rank == 0:
            for problem in problems:
                self.reporter.warning(f"{problem}; the checkpoint before it is used")
        if found is None:
            return
        self.learner.load_state_tensors(found.tensors)
        self.learner.progress = TrainingState(**found.state["progress"])
        if self.job.taken_over:
            self.learner.progress.best, self.learner.progress.since_best = {}, 0
        before = found.state["seconds"]
        # A worker of this command may have written it.
        self.seconds_before = before["earlier" if before["command"] == self.job.started else "all"]
        for name, rejected in found.state["rejected"].items():
            self.rejected[name] = {row: Rejection(*fields) for row, *fields in rejected}
        if self.rank == 0:
            self.reporter.line(f"going on from {found.path.name}, epoch {self._epochs_done():.2f}")

    def _check_same_checkpoint(self, name: str | None) -> None:
        """Raises `RaycrnnError` on all workers if they would go on from different steps."""
        if self.world_size == 1:
            return
        names: list[str | None] = [None] * self.world_size
        dist.all_gather_object(names, name)
        if len(set(names)) > 1:
            found = ", ".join(f"worker {rank}: {each or 'none'}" for rank, each in enumerate(names))
            raise RaycrnnError(
                f"{self.directory}/checkpoints: the workers see different last checkpoints ({found}): output_model_dir "
                "must be on a disk that all nodes share"
            )

    def _epochs_done(self) -> float:
        return self.learner.progress.step / self.spec.batches_per_epoch

    def run(self) -> None:
        last = self.settings.n_epochs * self.spec.batches_per_epoch
        stream = BatchStream(
            self.spec,
            self.job.allocation,
            self.progress.step,
            last,
            pin_memory=self.device.type == "cuda",
            get_image_cache=lambda: ray.get(self.job.image_cache_registry.get_image_cache.remote()),
        )
        stopped = False
        if self._evaluation_is_due():
            # The run was stopped between the last step of an epoch and its evaluation.
            self._evaluate()
        with closing(iter(stream)) as batches:
            while not self._no_longer_improves() and (batch := self._next(batches)) is not None:
                step = self._step(batch, stream)
                if step.signals[4] > 0:
                    raise WriteError(self._write_failure("logs", self.problem))
                self._share_rejections("train", stream.rejected, new=step.signals[2] > 0)
                stopped = step.signals[0] > 0
                if stopped or self.steps_left <= 0:
                    break
                if self._evaluation_is_due() and step.signals[3] > 0:
                    self._evaluate()
                if self.progress.step % self.settings.save_interval == 0:
                    collectives.share_statistics(self.learner.network)
                    self._save()
        if stopped:
            self._stop()
            return
        if self.progress.evaluated_at != self.progress.step:
            self._evaluate()
        self._finish()

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        self.reporter.doing(f"waits for the images of step {self.progress.step + 1}")
        batch = next(batches, None)
        self.marks.setdefault("first batch", time.time())
        self.reporter.doing(f"takes step {self.progress.step + 1}, for which it may wait for the other workers")
        return batch

    def _step(self, batch: Batch, stream: BatchStream) -> StepResult:
        # The numbers of the step before: what a worker learnt since then travels with this one.
        stop = float(self.rank == 0 and self.reporter.stop_requested)
        left, evaluate = 0, False
        if self.rank == 0:
            left = self.clock.steps_left(self.progress.step + 1)
            evaluate = self.clock.has_time_to_evaluate(left, self.window.seconds_a_step())
        new_rejections = bool(stream.rejected.keys() - self.rejected["train"].keys())
        signals = (stop, left, new_rejections, evaluate, self.problem is not None)
        step = self.learner.train_step(batch, self.steps_left, signals)
        self.marks.setdefault("first step", time.time())
        self.steps_left = int(step.signals[1])
        self.window.add(step.samples, stream.waited, stream.pixels, stream.padding)
        if self.rank == 0:
            self.reporter.progress(lambda: self._progress_report(step))
            self._log(step)
        return step

    def _progress_report(self, step: StepResult) -> dict:
        seconds_a_step = self.window.seconds_a_step()
        return {
            "epoch": f"{self._epochs_done():.1f}",
            "step": self.progress.step,
            "share": self.progress.schedule,
            "loss": self.progress.mean_loss,
            "images_per_second": self.window.images_per_second(),
            "seconds_left": max(0, self.steps_left) * seconds_a_step,
        }

    def _log(self, step: StepResult) -> None:
        if self.progress.step % 10:
            return
        values = {
            "train/loss": step.loss,
            "train/mean_loss": self.progress.mean_loss,
            "train/learning_rate": step.learning_rate,
            "train/images_per_second": self.window.images_per_second(),
            "train/data_wait_percent": 100 * self.window.data_wait(),
            "train/padding_percent": 100 * self.window.padding(),
            "train/skipped_steps": self.progress.skipped,
        }
        try:
            self.journal.scalars(self.progress.step, values)
        except OSError as error:
            self.problem = error.strerror or str(error)

    # --- samples that were left out

    def _share_rejections(self, name: str, own: dict[int, Rejection], new: bool) -> None:
        """Tell each other of new rejections, and fail together if there are too many. All workers call it."""
        if not new:
            return
        known = self.rejected[name]
        news = {row: rejection for row, rejection in own.items() if row not in known}
        gathered = [news]
        if self.world_size > 1:
            gathered = [None] * self.world_size
            dist.all_gather_object(gathered, news)
        for each in gathered:
            known.update(each)
        sample_set = self.job.data.sets[name]
        rejections = [*sample_set.rejections, *known.values()]
        try:
            check_rejections(name, rejections, sample_set.rows, self.job.configuration.data)
        except RaycrnnError:
            self._write_together("rejected.csv", self._write_rejected)
            raise

    def _write_rejected(self) -> None:
        rejections = [each for rejected in self.rejected.values() for each in rejected.values()]
        for each in self.job.data.sets.values():
            rejections += each.rejections
        write_rejected(self.output / "rejected.csv", rejections)

    # --- writing: worker 0 does, and all end together if it cannot

    def _open_journal(self) -> None:
        self.journal = run_log.RunLog(self.output, self.progress.step)

    def _write_together(self, what: str, write: Callable[[], None]) -> None:
        """Let worker 0 write; all workers call it. Raises `RaycrnnError` on all of them if it cannot."""
        self.reporter.doing(f"writes {what}, or waits for worker 0 to write it")
        problem = None
        if self.rank == 0:
            try:
                write()
                self.directory.push()
            except OSError as error:
                problem = storage.describe(error)
        if self._agree(problem is not None):
            raise WriteError(self._write_failure(what, problem))

    def _write_failure(self, what: str, problem: str | None) -> str:
        return (
            f"{self.directory}/{what}: cannot be written at step {self.progress.step}: {problem}. The last checkpoint "
            "and the model are as they were; make room and go on with restore_model=true"
        )

    def _agree(self, worker_0_says: bool) -> bool:
        """What worker 0 says, on all workers; all of them call it."""
        return bool(self._worker_0_says(int(worker_0_says)))

    def _worker_0_says(self, number: int) -> int:
        """Worker 0's number, on all workers; all of them call it."""
        word = torch.tensor(number if self.rank == 0 else 0, dtype=torch.int64, device=self.device)
        return int(collectives.all_reduce(word))

    # --- evaluation

    def _evaluation_is_due(self) -> bool:
        step, interval = self.progress.step, self.settings.evaluate_every_epoch * self.spec.batches_per_epoch
        return step > 0 and step % interval == 0 and step != self.progress.evaluated_at

    def _evaluate(self) -> None:
        self.reporter.doing("evaluates")
        collectives.share_statistics(self.learner.network)
        start = time.monotonic()
        evaluation = None
        if self.job.data.eval is not None:
            learner = self.learner
            evaluation = validation.evaluate(
                learner.network, self._batches_to_evaluate(), self.job.data.alphabet, learner.precision, self.device
            )
        self.progress.evaluated_at = self.progress.step
        self._record(evaluation)
        self.clock.evaluated(time.monotonic() - start)
        self.window.pause(time.monotonic() - start)
        self._write_together("rejected.csv", self._write_rejected)
        if self.job.always_save or self._agree(time.monotonic() - self.last_save > SECONDS_BETWEEN_SAVES):
            self._save()
        if self.rank == 0:
            self.reporter.evaluation(self.last_record)

    def _batches_to_evaluate(self) -> Iterator[Batch]:
        if self._eval_batches is not None:
            yield from self._eval_batches
            return
        spec = eval_batch_spec(self.job.configuration, self.job.data.eval, self.rank, self.world_size)
        stream = BatchStream(spec, self.job.allocation, 0, spec.batches_per_epoch)
        kept: list[Batch] | None = []
        for batch in stream:
            yield batch
            if kept is not None:
                kept.append(batch)
                if sum(each.images_BCHW.nbytes for each in kept) > MOST_CACHED_BYTES:
                    kept = None
        # What could not be read may be read the next time.
        self._eval_batches = None if stream.rejected else kept
        # Every worker comes here at its own time, and only after its last batch: a good place to meet.
        new = collectives.all_reduce(torch.tensor(float(len(stream.rejected)), device=self.device)) > 0
        self._share_rejections("eval", stream.rejected, bool(new))

    def _record(self, evaluation: ValidationResult | None) -> None:
        """Note an evaluation, and export the model if it is the best one."""
        progress = self.progress
        best = evaluation is None or evaluation.better_than(progress.best)
        scores = evaluation.scores() if evaluation else {}
        progress.since_best = 0 if best else progress.since_best + 1
        if best:
            progress.best = {**scores, "epoch": round(self._epochs_done(), 3), "step": progress.step}
            self._write_together("model", lambda: self._export(evaluation))
        self.last_record = self._make_record(evaluation, best)
        self._write_together("metrics.jsonl", lambda: self._report(evaluation))

    def _export(self, evaluation: ValidationResult | None) -> None:
        configuration, alphabet = self.job.configuration, self.job.data.alphabet
        calibration = evaluation.calibration if evaluation else None
        network, scores = self.learner.network, self.progress.best
        recognizer = Recognizer(network, configuration, alphabet, scores, self.device, calibration)
        recognizer.save(self.output / "model")

    def _make_record(self, evaluation: ValidationResult | None, best: bool) -> dict:
        """A line of metrics.jsonl."""
        speed = {"speed": round(evaluation.speed, 1)} if evaluation else {}
        return {
            "epoch": round(self._epochs_done(), 3),
            "step": self.progress.step,
            "share": round(self.progress.schedule, 4),
            "seconds": round(self._seconds(), 1),
            "workers": self.world_size,
            "train_loss": self.progress.mean_loss,
            "images_per_second": round(self.window.images_per_second(), 1),
            "data_wait": round(self.window.data_wait(), 5),
            "padding": round(self.window.padding(), 4),
            "skipped_steps": self.progress.skipped,
            "rejected": {name: len(rejected) for name, rejected in self.rejected.items()},
            "best": best,
            **(evaluation.scores() if evaluation else {}),
            **speed,
        }

    def _report(self, evaluation: ValidationResult | None) -> None:
        record = self.last_record
        self.journal.evaluation(record, evaluation.examples if evaluation else ())
        minutes, rest = divmod(round(record["seconds"]), 60)
        parts = [f"epoch {record['epoch']:g}", f"step {record['step']}", f"loss {record['train_loss']:.3f}"]
        if evaluation:
            names = {"CER": "cer", "WER": "wer", "exact": "accuracy"}
            parts += [f"{name} {100 * record[key]:.2f} %" for name, key in names.items()]
        parts += [f"{record['images_per_second']:.0f} img/s", f"wait {100 * record['data_wait']:.1f} %"]
        parts += [f"padding {100 * record['padding']:.0f} %"]
        parts += [f"{minutes}:{rest:02d}"] + (["best"] if record["best"] and evaluation else [])
        self.reporter.line("  ".join(parts))

    def _seconds(self) -> float:
        return self.seconds_before + time.time() - self.job.started

    def _no_longer_improves(self) -> bool:
        limit = self.settings.early_stopping
        return limit is not None and self.progress.since_best >= limit

    # --- checkpoints and the end

    def _save(self) -> None:
        """Write a checkpoint. All workers call it, after the batch-norm statistics were shared."""
        self._write_together(f"checkpoints, step {self.progress.step}", self._write_checkpoint)
        self.last_save = time.monotonic()

    def _write_checkpoint(self) -> None:
        state = {
            "progress": asdict(self.progress),
            "seconds": {"command": self.job.started, "earlier": self.seconds_before, "all": self._seconds()},
            "alphabet": self.job.data.alphabet.units,
            "csv_digests": self.job.data.csv_digests,
            "identity": self.job.configuration.identity(),
            "rejected_count": self._rejected_count(),
            "rejected": {
                name: [(row, *asdict(rejection).values()) for row, rejection in rejected.items()]
                for name, rejected in self.rejected.items()
            },
        }
        checkpoint.save(self.output / "checkpoints", self.progress.step, state, self.learner.state_tensors())

    def _rejected_count(self) -> int:
        at_once = sum(
            len(sample_set.rejections) for sample_set in (self.job.data.train, self.job.data.eval) if sample_set
        )
        return at_once + sum(len(rejected) for rejected in self.rejected.values())

    def _stop(self) -> None:
        collectives.share_statistics(self.learner.network)
        self._close()
        if self.rank == 0:
            self.reporter.outcome({"stopped": self.progress.step})

    def _finish(self) -> None:
        if not self.progress.best:
            raise RaycrnnError(
                "training diverged: no evaluation gave a finite loss. Likely a learning rate that is too high "
                f"(training.learning_rate={self.settings.learning_rate:g}: try a tenth)"
            )
        self.progress.finished = True
        self._close()
        if self.rank == 0:
            outcome = {"best": self.progress.best, "steps": self.progress.step, "rejected": self._rejected_count()}
            self.reporter.outcome({**outcome, "marks": self.marks})

    def _close(self) -> None:
        self._save()
        self._write_together("rejected.csv", self._write_rejected)
        self._write_together("logs", self.journal.close if self.journal else lambda: None)
