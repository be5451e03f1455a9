"""Ray Tune's schedulers, adapted to a search.

The base is never stopped or changed, because the other trials are compared with it. Time is the share of its training
that a trial has done, which makes trials of different settings comparable.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from raycrnn import config
from raycrnn.tuning.experiment import COMPLETE, Experiment
from raycrnn.tuning.sampler import BASE
from raycrnn.tuning.search_space import MODES, Distribution, Search

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

TIME = "share"

LAST_RUNG = 0.5
"""Largest share of the training at which successive halving compares trials, unless its first rung is later. After it,
the learning rate falls, and most of a trial's cost is spent."""

TIE_BREAK = 1e-9
"""Weight of the loss beside the metric, in successive halving. It only decides between trials of the same metric, for
example those whose network still reads every image as empty."""


def name_of(trial: TuneTrial) -> str:
    """Return the name in the search of one of Tune's trials."""
    return trial.config["trial"]["name"]


def make(search: Search, experiment: Experiment) -> TrialScheduler:
    """Make the scheduler that a search file names. It takes the results of an earlier command into account."""
    metric = search.metric[0]
    if search.scheduler.asha:
        asha = search.scheduler.asha
        last = max(LAST_RUNG, asha.grace)
        halving = Halving(TIME, metric, MODES[metric], last, asha.grace, asha.reduction, stop_last_trials=False)  # type: ignore[arg-type]  # Fractions work.
        halving.replay(experiment)
        return halving
    if search.scheduler.pbt:
        pbt = search.scheduler.pbt
        return Population(
            config.parse(experiment.tree).training.seed,
            time_attr=TIME,
            metric=metric,
            mode=MODES[metric],
            # Shares have rounding errors: 0.6 − 0.4 is less than 0.2.
            perturbation_interval=pbt.every - 1e-6,
            quantile_fraction=pbt.quantile,
            resample_probability=pbt.resample,
            hyperparam_mutations={
                "trial": {"values": {key: _domain(distribution) for key, distribution in search.search.items()}}
            },
            custom_explore_fn=_clip_to(search),
            require_attrs=False,
        )
    return FIFOScheduler()


class Halving(AsyncHyperBandScheduler):
    """Asynchronous successive halving."""

    def on_trial_result(self, tune_controller: "TuneController", trial: TuneTrial, result: dict) -> str:
        if TIME not in result:
            return TrialScheduler.CONTINUE
        decision = self._compare(name_of(trial), result)
        # A trial that has done all of its training ends by itself.
        if name_of(trial) == BASE or result[TIME] > COMPLETE:
            return TrialScheduler.CONTINUE
        return decision

    def on_trial_complete(self, tune_controller: "TuneController", trial: TuneTrial, result: dict) -> None:
        """Do nothing: `on_trial_result` has seen the last result."""

    def on_trial_remove(self, tune_controller: "TuneController", trial: TuneTrial) -> None:
        """Do nothing: the results of the trial remain valid for comparison."""

    def _compare(self, name: str, result: dict) -> str:
        """Record a result and decide about its trial, identified by name: Tune's ids change on a resume."""
        loss = result["loss"]
        tie_break = TIE_BREAK * (loss / (1 + loss) if math.isfinite(loss) else 1.0)
        score = self._metric_op * result[self._metric] - tie_break
        return self._brackets[0].on_result(_TrialId(name), result[TIME], score)

    def replay(self, experiment: Experiment) -> None:
        """Record the results of an earlier command, so that later trials are compared with them."""
        for trial in experiment.trials.values():
            for record in trial.evaluations:
                self._compare(trial.name, record)


class _TrialId(TuneTrial):
    """The part of a Tune trial that a bracket uses: its id."""

    def __init__(self, trial_id: str):
        self.trial_id = trial_id


class Population(PopulationBasedTraining):
    """Population-based training."""

    def __init__(self, seed: int, **options: Any):
        super().__init__(**options)
        self._random_state = random.Random(seed).getstate()

    def on_trial_result(self, tune_controller: "TuneController", trial: TuneTrial, result: dict) -> str:
        # A trial that has done all of its training cannot use other weights.
        if name_of(trial) == BASE or result.get(TIME, 0.0) > COMPLETE:
            return TrialScheduler.CONTINUE
        with self._own_random_state():
            return super().on_trial_result(tune_controller, trial, result)

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """Make Python's global generator, which Tune draws from, continue from this scheduler's state."""
        before = random.getstate()
        random.setstate(self._random_state)
        try:
            yield
        finally:
            self._random_state = random.getstate()
            random.setstate(before)

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict, dict]:
        """Return values near those of the cloned trial. The trial keeps its name, and with it its directory."""
        new, operations = super()._get_new_config(trial, trial_to_clone)
        return {"trial": {**new["trial"], "name": name_of(trial)}}, operations


def _domain(distribution: Distribution) -> object:
    """Return a distribution as Tune's mutations take it: a list or one of Tune's domains."""
    match distribution.kind:
        case "choice" | "grid":
            return list(distribution.values)
        case "uniform":
            return tune.uniform(*distribution.values)
        case "loguniform":
            return tune.loguniform(*distribution.values)
        case "randint":
            # Tune excludes the upper bound.
            return tune.randint(distribution.values[0], distribution.values[1] + 1)
        case "quniform":
            return tune.quniform(*distribution.values)
    raise ValueError(f"unknown distribution {distribution.kind!r}")


def _clip_to(search: Search) -> Callable[[dict], dict]:
    """Return a function that moves the values of a configuration into the search space.

    Tune multiplies values by 0.8 or 1.2 without regard to the bounds.
    """

    def clip(config: dict) -> dict:
        values = dict(config["trial"]["values"])
        for key, distribution in search.search.items():
            if distribution.listed:
                continue
            low, high = distribution.values[:2]
            values[key] = min(max(values[key], low), high)
            if distribution.kind == "randint":
                values[key] = round(values[key])
            if distribution.kind == "quniform":
                step = distribution.values[2]
                values[key] = low + round((values[key] - low) / step) * step
        return {"trial": {**config["trial"], "values": values}}

    return clip
