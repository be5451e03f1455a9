"""Run a search on Ray Tune: hand out the trials, record their results, and decide when the search ends."""

import logging
import re
import secrets
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import BasicVariantGenerator, Searcher

from raycrnn import config, storage
from raycrnn.console import StopRequest
from raycrnn.errors import UsageError
from raycrnn.storage import Directory
from raycrnn.training import run_log
from raycrnn.tuning import schedulers
from raycrnn.tuning.console import TrialTable
from raycrnn.tuning.experiment import COMPLETE, CUT_OFF, ENDED, FAILED, FINISHED, RUNNING, STOPPED, Experiment, Trial
from raycrnn.tuning.resources import TrialResources
from raycrnn.tuning.sampler import BASE, Sampler
from raycrnn.tuning.trainable import SharedState, TrainingTrainable

logger = logging.getLogger(__name__)

TUNE_CHECKPOINTS = 4
"""Checkpoints of each trial that Tune keeps, for other trials to continue from."""


def run(experiment: Experiment, shared: SharedState, resources: TrialResources, stopper: "SearchStopper") -> None:
    """Run all trials that have not ended yet, and record their results in the experiment."""
    seed = config.parse(experiment.tree).training.seed
    sampler = Sampler(experiment.search, seed + 1000 * len(experiment.trials))
    for trial in experiment.trials.values():
        if trial.status in ENDED:
            sampler.tell(trial.number, trial.values, trial.scores if trial.status != FAILED else None)
    table, queue = TrialTable(experiment), Queue(experiment, sampler)
    recorder = ResultRecorder(experiment, sampler, table, stopper)
    # Population-based training needs all trials at the start; other schedulers take one trial after another.
    population = queue.rest() if experiment.search.scheduler.pbt else None
    with _tune_storage(experiment.output) as tune_storage:
        trainable = tune.with_resources(
            tune.with_parameters(TrainingTrainable, shared=shared), resources.placement_group()
        )
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(population)} if population else {},
            tune_config=_tune_config(experiment, resources, BasicVariantGenerator() if population else queue),
            run_config=tune.RunConfig(
                name="search",
                **tune_storage,
                callbacks=[recorder],
                stop=stopper,
                failure_config=tune.FailureConfig(max_failures=config.parse(experiment.tree).cluster.max_failures),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=TUNE_CHECKPOINTS, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with table.live(), warnings.catch_warnings():
            # Reusing processes is not wanted here: see reuse_actors.
            warnings.filterwarnings("ignore", "Consider boosting PBT")
            if population != []:
                tuner.fit()
    try:
        _finish(experiment)
    except OSError as error:
        stopper.problem = stopper.problem or _write_problem(experiment, error)
    except UsageError as error:
        stopper.problem = stopper.problem or str(error)


@contextmanager
def _tune_storage(place: Directory) -> Iterator[dict[str, Any]]:
    """Provide a temporary place for Tune's own files, as arguments of `RunConfig`.

    Trials exchange weights through it, also between nodes. A resumed search uses the files of `Experiment` instead.
    """
    name = f".ray-{secrets.token_hex(4)}"
    if place.uri:
        filesystem, path = storage.locate(storage.join(place.uri, name))
        options = {"storage_path": path, "storage_filesystem": filesystem}
    else:
        options = {"storage_path": str(place.path / name)}
    try:
        yield options
    finally:
        # If this fails, the next command deletes it.
        with suppress(OSError):
            place.remove(name)


def _write_problem(experiment: Experiment, error: OSError) -> str:
    return f"{error.filename or experiment.output}: cannot be written: {storage.describe(error)}"


def _tune_config(
    experiment: Experiment, resources: TrialResources, source: Searcher | BasicVariantGenerator
) -> tune.TuneConfig:
    """Return how Tune takes trials from a queue, or from a fixed population."""
    queued = isinstance(source, Searcher)
    return tune.TuneConfig(
        search_alg=source,
        scheduler=schedulers.make(experiment.search, experiment),
        num_samples=experiment.search.trials + 1 if queued else 1,
        max_concurrent_trials=resources.concurrent if queued else None,
        # A new process for each trial, so that the old one has ended before another continues from its weights.
        reuse_actors=False,
    )


def _finish(experiment: Experiment) -> None:
    """Record the final state of all trials and delete what is no longer needed.

    Raises `OSError` or `UsageError` if storage fails.
    """
    for trial in experiment.trials.values():
        experiment.read_metrics(trial)
        if trial.status == RUNNING:
            trial.status = CUT_OFF
        if trial.status == STOPPED and trial.done > COMPLETE:
            # It had done all of its training when the scheduler stopped it.
            trial.status = FINISHED
        experiment.save(trial)
        if trial.status in (FINISHED, STOPPED):
            # They take gigabytes, and nothing continues from them.
            experiment.output.remove(f"trials/{trial.name}/checkpoints")
        if trial.scores:
            logs = experiment.trial_path(trial.name) / "logs"
            logs.mkdir(exist_ok=True)
            run_log.write_hyperparameters(logs, experiment.values_of(trial), trial.scores)
    experiment.output.sync()


class Queue(Searcher):
    """Hands out the trials: first the base, then unfinished trials of an earlier command, then new ones."""

    def __init__(self, experiment: Experiment, sampler: Sampler):
        super().__init__()
        self._experiment, self._sampler = experiment, sampler
        self._open = [trial.name for trial in experiment.trials.values() if trial.status not in ENDED]
        if BASE not in experiment.trials:
            self._open.insert(0, BASE)
        known = [trial.number for trial in experiment.trials.values()]
        self._new = iter(range(max(known, default=0) + 1, experiment.search.trials + 1))

    def rest(self) -> list[dict]:
        """Return all trials that are not handed out yet, as Tune configurations."""
        return list(iter(self._next, None))

    def suggest(self, trial_id: str) -> dict | str:  # type: ignore[override]  # Tune expects FINISHED, a str.
        trial = self._next()
        return Searcher.FINISHED if trial is None else {"trial": trial}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Do nothing: `ResultRecorder` passes the scores to the sampler."""

    def _next(self) -> dict | None:
        if self._open:
            name = self._open.pop(0)
        elif (number := next(self._new, None)) is not None:
            name = str(number)
        else:
            return None
        if name not in self._experiment.trials:
            values = {} if name == BASE else self._sampler.ask(int(name))
            self._experiment.add(Trial(name, values))
        return {"name": name, "values": self._experiment.trials[name].values}


class ResultRecorder(tune.Callback):
    """Records and displays the results of the trials."""

    def __init__(self, experiment: Experiment, sampler: Sampler, table: TrialTable, stopper: "SearchStopper"):
        self._experiment, self._sampler, self._table, self._stopper = experiment, sampler, table, stopper

    def _entry(self, trial: TuneTrial) -> Trial:
        return self._experiment.trials[schedulers.name_of(trial)]

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        entry = self._entry(trial)
        entry.status = RUNNING
        self._save(entry)
        self._table.refresh()

    def _save(self, entry: Trial) -> None:
        try:
            self._experiment.save(entry)
        except OSError as error:
            self._stopper.problem = _write_problem(self._experiment, error)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict, **info: object
    ) -> None:
        entry = self._entry(trial)
        entry.node = result["node"]
        if "evaluation" in result:
            self._record_evaluation(entry, result)
        elif "stalls" in result:
            logger.warning(f"trial {entry.name}: {result['stalls']}")
        elif result.get("progress"):
            entry.done = result["progress"]["share"]
        elif "error" in result:
            self._record_end(entry, result)
        self._table.refresh()

    def _record_end(self, entry: Trial, result: dict) -> None:
        if result.get("can_go_on"):
            # The cause, such as a full disk, would stop the other trials too.
            self._stopper.problem = f"trial {entry.name}: {result['error']}"
            return
        entry.error = result["error"] or ""
        entry.status = FAILED if entry.error else FINISHED

    def _record_evaluation(self, entry: Trial, result: dict) -> None:
        record = result["evaluation"]
        if result["took_over"]:
            entry.took_over.append(f"{result['took_over']} at {100 * record['share']:.0f} %")
        entry.values = result["values"]
        # A restarted trial reports some evaluations again.
        entry.evaluations = [each for each in entry.evaluations if each["step"] < record["step"]] + [record]
        entry.done, entry.minutes = record["share"], record["seconds"] / 60
        self._save(entry)
        self._table.log_evaluation(entry)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        entry = self._entry(trial)
        if entry.status == RUNNING and not self._stopper.stop_all():
            entry.status = FINISHED if entry.done > COMPLETE else STOPPED
        self._end(entry)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        entry = self._entry(trial)
        entry.status, entry.error = FAILED, _last_failure(trial)
        self._end(entry)

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        logger.warning(
            f"trial {self._entry(trial).name} failed and is restarted, from its last checkpoint if it has one"
        )

    def _end(self, entry: Trial) -> None:
        self._save(entry)
        if entry.status in ENDED:
            self._sampler.tell(entry.number, entry.values, entry.scores if entry.status != FAILED else None)
            self._table.log_end(entry)
        self._table.refresh()


def _last_failure(trial: TuneTrial) -> str:
    """Return why the last attempt at a trial failed.

    This reads the file that Tune writes first: `get_error` reads a copy that may not exist yet.
    """
    return cause_of(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))


def cause_of(text: str) -> str:
    """Return the exception at the end of the last stack trace in Tune's error file."""
    lines = text.rpartition("Failure # ")[2].strip().splitlines()
    named = [number for number, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
    return "\n".join(lines[named[-1] :] if named else lines[-1:])


class SearchStopper(tune.Stopper):
    """Ends the search at its deadline, on Ctrl-C or SIGTERM, or when storage fails. Trials stop with a checkpoint."""

    def __init__(self, deadline: float | None, stop: StopRequest):
        self._deadline, self._stop = deadline, stop
        self._logged = False
        self.problem = ""
        """Why the search cannot write its files. Empty: it can."""

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    @property
    def interrupted(self) -> bool:
        """Whether a stop was requested."""
        return self._stop.requested

    def stop_all(self) -> bool:
        """Return whether the search ends now. Tune calls this after each result."""
        if self.interrupted and not self._logged:
            self._logged = True
            logger.info("stopping after the current steps, with checkpoints; a second signal (Ctrl-C) stops at once")
        in_time = self._deadline is None or time.time() <= self._deadline
        return self.interrupted or bool(self.problem) or not in_time
