"""A search on Ray Tune: which trial starts next, what is heard of those that run, when all of it ends."""

import logging
import random
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
from raycrnn.tuning.experiment import CUT_OFF, ENDED, FAILED, FINISHED, RUNNING, STOPPED, WHOLE, Experiment, Trial
from raycrnn.tuning.resources import TrialResources
from raycrnn.tuning.sampler import BASE, Sampler
from raycrnn.tuning.trainable import SharedState, TrainingTrainable

logger = logging.getLogger(__name__)

CHECKPOINTS_OF_TUNE = 4
"""that stay of a trial, for others to go on from"""


def run(trials: Experiment, common: SharedState, share: TrialResources, ending: "SearchStopper") -> None:
    """Run all trials that have not ended yet; what becomes of them is in `trials`."""
    seed = config.parse(trials.tree).training.seed
    # Tune's population-based training draws from Python's own generator.
    random.seed(seed)
    sampler = Sampler(trials.search, seed + 1000 * len(trials.trials))
    for trial in trials.trials.values():
        if trial.status in ENDED:
            sampler.tell(trial.number, trial.values, trial.scores if trial.status != FAILED else None)
    board, queue = TrialTable(trials), Queue(trials, sampler)
    watcher = ResultRecorder(trials, sampler, board, ending)
    # Population-based training must know the whole population at once; others are told of the next trial.
    population = queue.rest() if trials.search.scheduler.pbt else None
    with _record_of_tune(trials.place) as record:
        trainable = tune.with_resources(tune.with_parameters(TrainingTrainable, common=common), share.reserved())
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(population)} if population else {},
            tune_config=_tune_config(trials, share, BasicVariantGenerator() if population else queue),
            run_config=tune.RunConfig(
                name="search",
                **record,
                callbacks=[watcher],
                stop=ending,
                failure_config=tune.FailureConfig(max_failures=config.parse(trials.tree).cluster.max_failures),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=CHECKPOINTS_OF_TUNE, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with board.showing(), warnings.catch_warnings():
            # Of reusing processes, which is not wanted here.
            warnings.filterwarnings("ignore", "Consider boosting PBT")
            if population != []:
                tuner.fit()
    try:
        _close(trials)
    except OSError as error:
        ending.problem = ending.problem or _unwritable(trials, error)
    except UsageError as error:
        ending.problem = ending.problem or str(error)


@contextmanager
def _record_of_tune(place: Directory) -> Iterator[dict[str, Any]]:
    """Where Tune keeps its own record, as its `RunConfig` takes it.

    It is not read again, for trials.py has one that anybody can read; but through it trials take each other's weights,
    from node to node.
    """
    name = f".ray-{secrets.token_hex(4)}"
    if place.uri:
        filesystem, path = storage.locate(storage.join(place.uri, name))
        found = {"storage_path": path, "storage_filesystem": filesystem}
    else:
        found = {"storage_path": str(place.path / name)}
    try:
        yield found
    finally:
        # The next command deletes what stays.
        with suppress(OSError):
            place.remove(name)


def _unwritable(trials: Experiment, error: OSError) -> str:
    return f"{error.filename or trials.place}: cannot be written: {storage.describe(error)}"


def _tune_config(trials: Experiment, share: TrialResources, source: Any) -> tune.TuneConfig:
    """How Tune draws trials from a queue, or from the population that it knows."""
    drawn = isinstance(source, Searcher)
    return tune.TuneConfig(
        search_alg=source,
        scheduler=schedulers.make(trials.search, trials),
        num_samples=trials.search.trials + 1 if drawn else 1,
        max_concurrent_trials=share.concurrent if drawn else None,
        # A process that ends its trial for certain, before another goes on from its weights or in its place.
        reuse_actors=False,
    )


def _close(trials: Experiment) -> None:
    """What the end leaves to do, for all trials. Raises `OSError`, `UsageError` where storage fails."""
    for trial in trials.trials.values():
        trials.catch_up(trial)
        if trial.status == RUNNING:
            trial.status = CUT_OFF
        if trial.status == STOPPED and trial.done > WHOLE:
            # It was through before it heard of it.
            trial.status = FINISHED
        trials.save(trial)
        if trial.status in (FINISHED, STOPPED):
            # They would be gigabytes, and nothing goes on from them.
            trials.place.remove(f"trials/{trial.name}/checkpoints")
        if trial.scores:
            logs = trials.directory(trial.name) / "logs"
            logs.mkdir(exist_ok=True)
            run_log.write_hyperparameters(logs, trials.values_of(trial), trial.scores)
    trials.place.push()


class Queue(Searcher):
    """Hands out the trials: first the base, then what an earlier command left open, then new ones."""

    def __init__(self, trials: Experiment, sampler: Sampler):
        super().__init__()
        self._trials, self._sampler = trials, sampler
        self._open = [trial.name for trial in trials.trials.values() if trial.status not in ENDED]
        if BASE not in trials.trials:
            self._open.insert(0, BASE)
        known = [trial.number for trial in trials.trials.values()]
        self._new = iter(range(max(known, default=0) + 1, trials.search.trials + 1))

    def rest(self) -> list[dict]:
        """All trials that are still to be handed out, as Tune's configuration has them."""
        return list(iter(self._next, None))

    def suggest(self, trial_id: str) -> dict | str:
        found = self._next()
        return Searcher.FINISHED if found is None else {"trial": found}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """`Watcher` hears of it too, and tells the sampler."""

    def _next(self) -> dict | None:
        if self._open:
            name = self._open.pop(0)
        elif (number := next(self._new, None)) is not None:
            name = str(number)
        else:
            return None
        if name not in self._trials.trials:
            values = {} if name == BASE else self._sampler.ask(int(name))
            self._trials.add(Trial(name, values))
        return {"name": name, "values": self._trials.trials[name].values}


class ResultRecorder(tune.Callback):
    """Writes down and shows what becomes of the trials."""

    def __init__(self, trials: Experiment, sampler: Sampler, board: TrialTable, ending: "SearchStopper"):
        self._trials, self._sampler, self._board, self._ending = trials, sampler, board, ending

    def _of(self, trial: TuneTrial) -> Trial:
        return self._trials.trials[schedulers.name_of(trial)]

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        found = self._of(trial)
        found.status = RUNNING
        self._save(found)
        self._board.refresh()

    def _save(self, found: Trial) -> None:
        try:
            self._trials.save(found)
        except OSError as error:
            self._ending.problem = _unwritable(self._trials, error)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict, **info: Any
    ) -> None:
        found = self._of(trial)
        found.node = result["node"]
        if "evaluation" in result:
            self._take_evaluation(found, result)
        elif "stalls" in result:
            self._board.line(f"trial {found.name}: {result['stalls']}")
        elif result.get("progress"):
            found.done = result["progress"]["share"]
        elif "error" in result:
            self._take_end(found, result)
        self._board.refresh()

    def _take_end(self, found: Trial, result: dict) -> None:
        if result.get("can_go_on"):
            # What stopped this trial would stop the others too.
            self._ending.problem = f"trial {found.name}: {result['error']}"
            return
        found.error = result["error"] or ""
        found.status = FAILED if found.error else FINISHED

    def _take_evaluation(self, found: Trial, result: dict) -> None:
        record = result["evaluation"]
        if result["took_over"]:
            found.took_over.append(f"{result['took_over']} at {100 * record['share']:.0f} %")
        found.values = result["values"]
        # A trial that was started anew tells some of them again.
        found.evaluations = [each for each in found.evaluations if each["step"] < record["step"]] + [record]
        found.done, found.minutes = record["share"], record["seconds"] / 60
        self._save(found)
        self._board.evaluated(found)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        found = self._of(trial)
        if found.status == RUNNING and not self._ending.stop_all():
            found.status = FINISHED if found.done > WHOLE else STOPPED
        self._end(found)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        found = self._of(trial)
        found.status, found.error = FAILED, _last_failure(trial)
        self._end(found)

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._board.line(f"trial {self._of(trial).name} broke off, and goes on from its last checkpoint if it has one")

    def _end(self, found: Trial) -> None:
        self._save(found)
        if found.status in ENDED:
            self._sampler.tell(found.number, found.values, found.scores if found.status != FAILED else None)
            self._board.ended(found)
        self._board.refresh()


def _last_failure(trial: TuneTrial) -> str:
    """Why the last attempt at a trial ended.

    By the file in which Tune notes it first: its own `get_error` reads a copy, which may be yet to come.
    """
    return cause_of(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))


def cause_of(text: str) -> str:
    """What the last of the stack traces in Tune's file of errors ends in."""
    lines = text.rpartition("Failure # ")[2].strip().splitlines()
    named = [number for number, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
    return "\n".join(lines[named[-1] :] if named else lines[-1:])


class SearchStopper(tune.Stopper):
    """Ends the search when its time is up, or when somebody presses Ctrl-C: trials stop with a checkpoint."""

    def __init__(self, deadline: float | None, stop: StopRequest):
        self._deadline, self._stop = deadline, stop
        self._said = False
        self.problem = ""
        """of writing, for which the search ends"""

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    @property
    def interrupted(self) -> bool:
        return self._stop.requested

    def stop_all(self) -> bool:
        if self.interrupted and not self._said:
            self._said = True
            logger.info("stopping after the steps that run, with checkpoints; Ctrl-C again stops at once")
        in_time = self._deadline is None or time.time() <= self._deadline
        return self.interrupted or bool(self.problem) or not in_time
