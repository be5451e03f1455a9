"""Train one trial of a search in a process that Ray Tune starts, stops and restarts.

With one worker the trial's process trains itself, with several it starts Ray Train's workers. The trial's directory
contains its checkpoints, from which it continues after a failure.
"""

import errno
import json
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray import tune

from raycrnn import cluster, config, storage
from raycrnn.config import Configuration
from raycrnn.errors import RaycrnnError, StorageError, UsageError, WriteError
from raycrnn.ingest import image_cache, training_data
from raycrnn.ingest.training_data import TrainingData
from raycrnn.storage import Directory
from raycrnn.training import checkpoint, initial_model, language_models, trainer
from raycrnn.training.console import Stall
from raycrnn.training.initial_model import InitialModel
from raycrnn.training.job import TrainingJob
from raycrnn.training.monitor import start_monitor

if TYPE_CHECKING:
    from ray.actor import ActorProxy

    from raycrnn.training.monitor import Monitor, TrainingResult

SECONDS_BETWEEN_RESULTS = 2.0
"""Seconds between two results of a trial. Tune can stop a trial only between results."""

SECONDS_TO_STOP = 8.0
"""Seconds to finish the current step and write a checkpoint. Ray kills the process after ten."""

SECONDS_TO_WAIT = 60.0
"""Seconds to wait for an earlier process of the same trial to end."""

DONOR = "trial.txt"
"""File in a checkpoint that Tune stores: the name of the trial that wrote it."""

LOG = "train.log"

DONOR_RECORD = "donor.json"
"""File in the directory of a trial that took over weights: the donor, its step and the values to continue with."""


@dataclass(frozen=True)
class SharedState:
    """What all trials of a search share. Small and serializable."""

    tree: dict
    """The grouped configuration of the base."""
    output: str
    """Output directory of the search."""
    working_directory: str
    data: TrainingData
    """Data of the base."""
    image_cache_registry: "ActorProxy[Monitor]"
    """The monitor that knows which decoded images of the base are cached."""
    cache_images: bool
    initial_model: InitialModel | None
    allocation: cluster.TrainingAllocation
    exchange: bool
    """Whether trials continue from each other's weights."""

    def configuration(self, values: dict[str, object], output: str) -> Configuration:
        """Return the configuration of a trial. Raises `UsageError` if the values are invalid together."""
        return config.parse(config.with_values(self.tree, {**values, "output_model_dir": output}))

    def shares_data(self, configuration: Configuration) -> bool:
        """Return whether a trial uses the same rows and the same decoded images as the base."""
        base = config.parse(self.tree)
        return (
            configuration.data == base.data
            and configuration.decoding.lexicon == base.decoding.lexicon
            and configuration.image == base.image
            and configuration.training.initial_alphabet == base.training.initial_alphabet
            and image_cache.is_augmented(configuration) == image_cache.is_augmented(base)
        )


@dataclass(frozen=True)
class RunningTraining:
    """The training of a trial, which runs in a thread."""

    job: TrainingJob
    thread: cluster.Background
    stall: Stall


class TrainingTrainable(tune.Trainable):
    """The trainable that Ray Tune runs. Its configuration is `{"trial": {"name": …, "values": {key: value}}}`."""

    def setup(self, config: dict, shared: SharedState) -> None:  # type: ignore[override]  # tune.with_parameters adds it.
        self._shared = shared
        # Tune starts the process in a directory of its own, but the paths of CSVs are relative to the user's.
        if Path(shared.working_directory).is_dir():
            os.chdir(shared.working_directory)
        self._name, self._values = config["trial"]["name"], config["trial"]["values"]
        self._output = Directory(storage.join(shared.output, "trials", self._name))
        self._lock: ExitStack | None = None
        self._training: RunningTraining | None = None
        self._evaluations: list[dict] = []
        self._donor: str | None = None
        self._undecided = False
        """Whether training waits for Tune's decision about an evaluation."""

    def step(self) -> dict:
        """Wait for the next evaluation, for the end of the training, or for some seconds, and return a result."""
        node = f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:8]}"
        try:
            if self._training is None:
                self._training = self._start()
            return {"node": node, **self._next_result(self._training)}
        except RaycrnnError as error:
            # Another attempt would fail in the same way.
            can_go_on = isinstance(error, WriteError | StorageError)
            return {"node": node, "done": True, "error": str(error), "can_go_on": can_go_on}
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return {"node": node, "done": True, "error": str(self._write_error(error)), "can_go_on": True}

    def _write_error(self, error: OSError) -> WriteError:
        return WriteError(f"{error.filename or self._output}: cannot be written: {storage.describe(error)}")

    def _push(self) -> None:
        """Raises `WriteError`."""
        try:
            self._output.sync()
        except OSError as error:
            raise self._write_error(error) from None

    def _lock_output(self) -> None:
        """Lock the trial's directory once no earlier process writes to it.

        Raises `UsageError` if this node cannot see the output directory of the search.
        """
        if self._lock is not None:
            return
        if "search.json" not in Directory(self._shared.output).entries():
            raise UsageError(
                f"{self._shared.output}: not found on this node: output_model_dir must be on a disk that all nodes "
                "share, or in object storage"
            )
        self._output.claim()
        self._output.path.mkdir(parents=True, exist_ok=True)
        busy = RuntimeError(f"{self._output}: an earlier process of this trial is still running")
        with ExitStack() as lock:
            lock.enter_context(storage.lock(self._output.path / storage.LOCK, busy, SECONDS_TO_WAIT))
            # The process holds the lock until it ends.
            self._lock = lock.pop_all()
        self._output.fetch(DONOR_RECORD, LOG)

    def _donor_record(self) -> dict | None:
        """Return the record of the last takeover of weights, if there was one."""
        record = self._output.path / DONOR_RECORD
        return json.loads(record.read_text()) if record.exists() else None

    def _start(self) -> RunningTraining:
        self._lock_output()
        taken = self._donor_record()
        if taken is not None:
            self._values = taken["values"]
        configuration = self._shared.configuration(self._values, str(self._output))
        image_cache_registry, cache_images = self._shared.image_cache_registry, self._shared.cache_images
        monitor = start_monitor()
        if self._shared.shares_data(configuration):
            read = self._shared.data
        else:
            search = Directory(self._shared.output)
            csvs = initial_model.read_csvs(configuration, self._shared.initial_model)
            read = training_data.put(csvs, configuration, self._output, search)
            image_cache_registry, cache_images = monitor, False
        job = TrainingJob(
            configuration,
            read,
            str(self._output),
            self._shared.allocation,
            time.time(),
            monitor,
            image_cache_registry,
            cache_images,
            self._shared.initial_model,
            language_model=language_models.put(configuration, read),
            exchanges_weights=self._shared.exchange,
            counts_all_minutes=True,
            taken_over=taken["step"] if taken is not None else None,
            owner=self._output.owner,
        )
        trainer.prepare_output(job, self._output)
        return RunningTraining(job, cluster.Background(lambda: trainer.run_training(job)), Stall())

    def _next_result(self, training: RunningTraining) -> dict:
        if self._undecided:
            training.job.monitor.judge.remote()
            self._undecided = False
        start = time.monotonic()
        while not self._evaluations:
            # In this order: a worker posts its result before the training ends.
            ended = training.thread.ended
            update = ray.get(training.job.monitor.read.remote())
            if update.lines:
                with (self._output.path / LOG).open("a", encoding="utf-8") as log:
                    log.writelines(f"{line}\n" for _, line in update.lines)
                self._push()
            self._evaluations += update.evaluations
            if self._evaluations:
                break
            if update.result is not None or ended:
                return {"done": True, "error": _failure(training, update.result)}
            if training.stall.lasts(update.progress.get("step")):
                return {"stalls": training.stall.describe(ray.get(training.job.monitor.activities.remote()))}
            if time.monotonic() - start > SECONDS_BETWEEN_RESULTS:
                return {"progress": update.progress}
            time.sleep(0.1)
        record = self._evaluations.pop(0)
        donor, self._donor = self._donor, None
        self._undecided = self._shared.exchange
        return {**record, "evaluation": record, "values": self._values, "took_over": donor}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy the last checkpoint to Tune, which passes it to trials that continue from it.

        With population-based training it is that of the last result, because training waits after each evaluation.
        """
        steps = self._checkpoints()
        last = _last_step(steps)
        if last is None:
            raise FileNotFoundError(f"{steps}: contains no checkpoint")
        steps.fetch(last)
        shutil.copytree(steps.path / last, Path(checkpoint_dir) / last)
        (Path(checkpoint_dir) / DONOR).write_text(self._name)

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]  # Always a path here.
        """Continue from a checkpoint of this trial or of another one."""
        self._lock_output()
        donor = (Path(checkpoint_dir) / DONOR).read_text()
        [step] = Path(checkpoint_dir).glob("step_*")
        taken = {"donor": donor, "step": step.name, "values": self._values}
        steps = self._checkpoints()
        # The directory has newer checkpoints if this one is its own, or if it was taken over before.
        if _last_step(steps) is not None and (donor == self._name or taken == self._donor_record()):
            return
        for name in steps.entries():
            steps.remove(name)
        shutil.copytree(step, steps.path / step.name)
        steps.sync()
        if donor != self._name:
            storage.write_text(self._output.path / DONOR_RECORD, json.dumps(taken))
            self._push()
            self._donor = donor

    def _checkpoints(self) -> Directory:
        return Directory(storage.join(str(self._output), "checkpoints"))

    def cleanup(self) -> None:
        """Stop the training with a checkpoint."""
        if self._training is None:
            return
        monitor = self._training.job.monitor
        monitor.stop.remote()
        self._training.thread.join(SECONDS_TO_STOP)
        ray.kill(monitor)  # type: ignore[arg-type]  # An ActorProxy is a handle.


def _last_step(place: Directory, *below: str) -> str | None:
    """Return the name of the last checkpoint in a directory."""
    return checkpoint.last_of(place.files(*below))


def _failure(training: RunningTraining, result: "TrainingResult | None") -> str | None:
    """Return the error of an ended training, or None. Raises an error if another attempt may succeed."""
    if result is None:
        raise RuntimeError(trainer.describe_failure(training.job, training.thread.error))
    if result.get("can_go_on"):
        raise WriteError(result["error"])
    return result.get("error")
