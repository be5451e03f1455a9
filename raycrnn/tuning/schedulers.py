"""Ray Tune's schedulers, as a search needs them: the base is never stopped or changed, so that it stays the measure.

They go by the share of its training that a trial has done, which is what trials of all kinds have in common.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from raycrnn.tuning.experiment import WHOLE, Experiment
from raycrnn.tuning.sampler import BASE
from raycrnn.tuning.search_space import MODES, Distribution, Search

TIME = "share"


def name_of(trial: TuneTrial) -> str:
    """The name that a trial of Tune's has in the search."""
    return trial.config["trial"]["name"]


def make(search: Search, trials: Experiment) -> TrialScheduler:
    """The scheduler that a search file asks for; it knows what trials of an earlier command reached."""
    metric = search.metric[0]
    if search.scheduler.asha:
        asha = search.scheduler.asha
        halving = Halving(TIME, metric, MODES[metric], 1.0, asha.grace, asha.reduction, stop_last_trials=False)
        halving.replay(trials)
        return halving
    if search.scheduler.pbt:
        pbt = search.scheduler.pbt
        return Population(
            time_attr=TIME,
            metric=metric,
            mode=MODES[metric],
            # Sums of shares are rounded: 0.6 − 0.4 is less than 0.2.
            perturbation_interval=pbt.every - 1e-6,
            quantile_fraction=pbt.quantile,
            resample_probability=pbt.resample,
            hyperparam_mutations={"trial": {"values": {key: _domain(of) for key, of in search.search.items()}}},
            custom_explore_fn=_within(search),
            require_attrs=False,
        )
    return FIFOScheduler()


class Halving(AsyncHyperBandScheduler):
    """Asynchronous successive halving."""

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        if TIME not in result:
            return TrialScheduler.CONTINUE
        decision = self._hold(name_of(trial), result)
        # One that has done all of its training ends by itself.
        spared = name_of(trial) == BASE or result[TIME] > WHOLE
        return TrialScheduler.CONTINUE if spared else decision

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict) -> None:
        """Its last result was judged when it came."""

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        """What it reached stays the mark for others."""

    def _hold(self, name: str, result: dict) -> str:
        """Judge a trial by its name: to Tune one that is resumed is another."""
        return self._brackets[0].on_result(_Named(name), result[TIME], self._metric_op * result[self._metric])

    def replay(self, trials: Experiment) -> None:
        """Take what trials reached under an earlier command as the marks that later ones are held to."""
        for trial in trials.trials.values():
            for record in trial.evaluations:
                self._hold(trial.name, record)


@dataclass(frozen=True)
class _Named:
    """Of a trial of Tune's all that a bracket asks for."""

    trial_id: str


class Population(PopulationBasedTraining):
    """Population-based training."""

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        # One that has done all of its training has no use for other weights.
        if name_of(trial) == BASE or result.get(TIME, 0.0) > WHOLE:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict, dict]:
        """Values near those of the trial that is taken over; the name stays, for with it goes the directory."""
        new, operations = super()._get_new_config(trial, trial_to_clone)
        return {"trial": {**new["trial"], "name": name_of(trial)}}, operations


def _domain(of: Distribution) -> Any:
    """What Tune draws from, and steps along."""
    match of.kind:
        case "choice" | "grid":
            return list(of.values)
        case "uniform":
            return tune.uniform(*of.values)
        case "loguniform":
            return tune.loguniform(*of.values)
        case "randint":
            # Tune leaves the upper end out.
            return tune.randint(of.values[0], of.values[1] + 1)
        case "quniform":
            return tune.quniform(*of.values)
    raise ValueError(f"no distribution {of.kind!r}")


def _within(search: Search) -> Callable[[dict], dict]:
    """Tune changes a value by a fifth wherever that leads; it stays within what the search file says."""

    def explore(config: dict) -> dict:
        values = dict(config["trial"]["values"])
        for key, of in search.search.items():
            if not of.listed:
                low, high = of.values[:2]
                values[key] = min(max(values[key], low), high)
            if of.kind == "randint":
                values[key] = round(values[key])
            if of.kind == "quniform":
                step = of.values[2]
                values[key] = low + round((values[key] - low) / step) * step
        return {"trial": {**config["trial"], "values": values}}

    return explore
