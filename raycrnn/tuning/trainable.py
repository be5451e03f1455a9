"""One trial of a search: a training like any other, carried out in a process that Ray Tune starts, stops and restarts.

With one worker the trial's process trains; with several it starts Ray Train's workers. Either way the trial's
directory holds its checkpoints, from which it goes on after a failure.
"""

import errno
import json
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from raycrnn import cluster, config, storage
from raycrnn.config import Configuration
from raycrnn.errors import RaycrnnError, StorageError, UsageError, WriteError
from raycrnn.ingest import image_cache, training_data
from raycrnn.ingest.training_data import TrainingData
from raycrnn.storage import Directory
from raycrnn.training import checkpoint, trainer
from raycrnn.training.console import Stall
from raycrnn.training.job import TrainingJob
from raycrnn.training.monitor import start_monitor

if TYPE_CHECKING:
    from ray.actor import ActorProxy

    from raycrnn.training.monitor import Monitor

SECONDS_BETWEEN_RESULTS = 2.0
"""A trial tells its progress so often, for the table and so that it can be stopped."""

SECONDS_TO_STOP = 8.0
"""for the step that runs and a checkpoint; after ten Ray ends the process"""

SECONDS_TO_WAIT = 60.0
"""for an earlier process of the same trial to end"""

DONOR = "trial.txt"
"""in a checkpoint that Tune holds: the name of the trial that wrote it"""

LOG = "train.log"

DONOR_RECORD = "donor.json"
"""in the directory of a trial that went on from another's weights: whose, at which step, with which values"""


@dataclass(frozen=True)
class SharedState:
    """What all trials of a search share. Small, and safe to send anywhere."""

    tree: dict
    """the base, grouped"""
    output: str
    """the search's"""
    working_directory: str
    data: TrainingData
    """the base's"""
    image_cache_registry: "ActorProxy[Monitor]"
    """the monitor that knows which of its decoded images are kept"""
    cache_images: bool
    allocation: cluster.TrainingAllocation
    exchange: bool
    """whether trials go on from each other's weights"""

    def configuration(self, values: dict[str, Any], output: str) -> Configuration:
        """Of a trial. Raises `UsageError`: values that each do, together may not."""
        return config.parse(config.with_values(self.tree, {**values, "output_model_dir": output}))

    def shares_data(self, configuration: Configuration) -> bool:
        """Whether a trial learns from the very rows of the base, and from the same decoded images."""
        base = config.parse(self.tree)
        return (
            configuration.data == base.data
            and configuration.image == base.image
            and image_cache.is_augmented(configuration) == image_cache.is_augmented(base)
        )


class TrainingTrainable(tune.Trainable):
    """What Ray Tune runs. Its configuration is `{"trial": {"name": …, "values": {dotted key: value}}}`."""

    def setup(self, config: dict, common: SharedState) -> None:
        self._common = common
        # Tune gives each trial a directory of its own; the CSVs' paths are relative to the user's.
        if Path(common.working_directory).is_dir():
            os.chdir(common.working_directory)
        self._name, self._values = config["trial"]["name"], config["trial"]["values"]
        self._output = Directory(storage.join(common.output, "trials", self._name))
        self._lock: ExitStack | None = None
        self._job: TrainingJob | None = None
        self._training: cluster.Background | None = None
        self._evaluations: list[dict] = []
        self._donor: str | None = None

    def step(self) -> dict:
        """Wait for the next evaluation, for the end, or for some seconds."""
        node = f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:8]}"
        try:
            if self._training is None:
                self._begin()
            return {"node": node, **self._next_result()}
        except RaycrnnError as error:
            # Trying again would not help.
            can_go_on = isinstance(error, WriteError | StorageError)
            return {"node": node, "done": True, "error": str(error), "can_go_on": can_go_on}
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return {"node": node, "done": True, "error": str(self._unwritable(error)), "can_go_on": True}

    def _unwritable(self, error: OSError) -> WriteError:
        return WriteError(f"{error.filename or self._output}: cannot be written: {storage.describe(error)}")

    def _push(self) -> None:
        """Raises `WriteError`."""
        try:
            self._output.push()
        except OSError as error:
            raise self._unwritable(error) from None

    def _hold(self) -> None:
        """Hold the trial's directory, once no earlier process writes in it. Raises `UsageError` if it is not there."""
        if self._lock is not None:
            return
        if "search.json" not in Directory(self._common.output).entries():
            raise UsageError(
                f"{self._common.output}: not found here: output_model_dir must be on a disk all nodes share, or in "
                "object storage"
            )
        self._output.take()
        self._output.path.mkdir(parents=True, exist_ok=True)
        busy = RuntimeError(f"{self._output}: an earlier process of this trial does not end")
        with ExitStack() as lock:
            lock.enter_context(storage.lock(self._output.path / storage.LOCK, busy, SECONDS_TO_WAIT))
            # The lock is held until the process ends.
            self._lock = lock.pop_all()
        self._output.fetch(DONOR_RECORD, LOG)

    def _taken_over(self) -> dict | None:
        """What the trial last went on from, if it is another's."""
        heir = self._output.path / DONOR_RECORD
        return json.loads(heir.read_text()) if heir.exists() else None

    def _begin(self) -> None:
        self._hold()
        taken = self._taken_over()
        if taken is not None:
            self._values = taken["values"]
        configuration = self._common.configuration(self._values, str(self._output))
        image_cache_registry, cache_images = self._common.image_cache_registry, self._common.cache_images
        monitor = start_monitor()
        if self._common.shares_data(configuration):
            read = self._common.data
        else:
            read = training_data.put(training_data.read(configuration), configuration, self._output)
            image_cache_registry, cache_images = monitor, False
        self._job = TrainingJob(
            configuration,
            read,
            str(self._output),
            self._common.allocation,
            time.time(),
            monitor,
            image_cache_registry,
            cache_images,
            always_save=self._common.exchange,
            counts_all_minutes=True,
            taken_over=taken is not None and _last_step(self._output, "checkpoints") == taken["step"],
            owner=self._output.owner,
        )
        trainer.prepare_output(self._job, self._output)
        self._stall = Stall()
        self._training = cluster.Background(lambda: trainer.run_training(self._job))

    def _next_result(self) -> dict:
        start = time.monotonic()
        while not self._evaluations:
            # In this order: a worker's last word is posted before its trainer ends.
            ended = self._training.ended
            news = ray.get(self._job.monitor.read.remote())
            if news.lines:
                with (self._output.path / LOG).open("a", encoding="utf-8") as log:
                    log.writelines(f"{line}\n" for _, line in news.lines)
                self._push()
            self._evaluations += news.evaluations
            if self._evaluations:
                break
            if news.outcome is not None or ended:
                return {"done": True, "error": self._failure(news.outcome)}
            if self._stall.lasts(news.progress.get("step")):
                return {"stalls": self._stall.describe(ray.get(self._job.monitor.doing.remote()))}
            if time.monotonic() - start > SECONDS_BETWEEN_RESULTS:
                return {"progress": news.progress}
            time.sleep(0.1)
        record = self._evaluations.pop(0)
        donor, self._donor = self._donor, None
        return {**record, "evaluation": record, "values": self._values, "took_over": donor}

    def _failure(self, outcome: dict | None) -> str | None:
        """What a training that ended failed of, if it did. Raises what another attempt may get over."""
        if outcome is None:
            raise RuntimeError(trainer.describe_failure(self._job, self._training.error))
        if outcome.get("can_go_on"):
            raise WriteError(outcome["error"])
        return outcome.get("error")

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Hand the last checkpoint to Tune, which hands it to a trial that goes on from it."""
        steps = self._checkpoints()
        for attempt in range(5):
            try:
                last = _last_step(steps)
                steps.fetch(last)
                shutil.copytree(steps.path / last, Path(checkpoint_dir) / last)
                break
            except (FileNotFoundError, shutil.Error, UsageError):
                # Training goes on, and a newer one took its place meanwhile.
                for rest in Path(checkpoint_dir).glob("step_*"):
                    shutil.rmtree(rest)
                if attempt == 4:
                    raise
        (Path(checkpoint_dir) / DONOR).write_text(self._name)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on from a checkpoint, of this trial or of another."""
        self._hold()
        donor = (Path(checkpoint_dir) / DONOR).read_text()
        [step] = Path(checkpoint_dir).glob("step_*")
        taken = {"donor": donor, "step": step.name, "values": self._values}
        steps = self._checkpoints()
        # Its own, or what it took before, it has gone on from: the checkpoints beside it are newer.
        if _last_step(steps) is not None and (donor == self._name or taken == self._taken_over()):
            return
        for name in steps.entries():
            steps.remove(name)
        shutil.copytree(step, steps.path / step.name)
        steps.push()
        if donor != self._name:
            storage.write_text(self._output.path / DONOR_RECORD, json.dumps(taken))
            self._push()
            self._donor = donor

    def _checkpoints(self) -> Directory:
        return Directory(storage.join(str(self._output), "checkpoints"))

    def cleanup(self) -> None:
        """End it with a checkpoint."""
        if self._training is None:
            return
        self._job.monitor.stop.remote()
        self._training.join(SECONDS_TO_STOP)
        ray.kill(self._job.monitor)


def _last_step(place: Directory, *below: str) -> str | None:
    """The name of the last checkpoint in a directory."""
    return checkpoint.last_of(place.files(*below))
