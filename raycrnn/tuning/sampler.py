"""Choose the values of trials: at random, from a grid, or based on the scores of finished trials.

Optuna proposes values and learns from scores. The list of trials is kept outside of Optuna, so that an interrupted
search continues with the trials that it had.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from raycrnn.tuning.search_space import MODES, Distribution, Search

MAX_DRAWS = 100
"""Attempts to draw values that no earlier trial had."""

BASE = "base"
"""Name of the first trial of every search, which trains with the unchanged configuration."""


class Sampler:
    """Proposes the values of trials 1 to `search.trials`, and learns from their scores."""

    def __init__(self, search: Search, seed: int):
        """
        Args:
            seed: A resumed search must pass a different one, or it draws the same values again.
        """
        self._search = search
        self._spaces = {key: _space(distribution) for key, distribution in search.drawn.items()}
        self._study = _study(search.metric, _SAMPLERS[search.algorithm](seed))
        self._open: dict[int, optuna.Trial] = {}
        self._known: set[str] = set()
        """The values of all trials so far, as JSON."""

    def ask(self, number: int) -> dict[str, object]:
        """Return the values for a new trial. They differ from those of all earlier trials if that is possible."""
        for draw in range(MAX_DRAWS):
            trial = self._study.ask(self._spaces)
            values = self._values_of(trial, number)
            if json.dumps(values) not in self._known or draw == MAX_DRAWS - 1:
                break
            self._study.tell(trial, state=TrialState.FAIL)
        self._open[number] = trial
        self._known.add(json.dumps(values))
        return values

    def _values_of(self, trial: optuna.Trial, number: int) -> dict[str, object]:
        values = {key: _from_optuna(self._search.search[key], drawn) for key, drawn in trial.params.items()}
        point = self._search.grid[(number - 1) % len(self._search.grid)]
        # In the order of the search file.
        return {key: {**values, **point}[key] for key in self._search.search}

    def tell(self, number: int, values: Mapping[str, object], scores: Mapping[str, float] | None) -> None:
        """Record the scores of a trial, which may come from an earlier command. None: it has no scores."""
        if number == 0:
            # The values of the base may lie outside the search space.
            return
        self._known.add(json.dumps(values))
        trial = self._open.pop(number, None)
        if trial is not None and scores is not None:
            self._study.tell(trial, [scores[metric] for metric in self._search.metric])
        elif trial is not None:
            self._study.tell(trial, state=TrialState.FAIL)
        elif scores is not None:
            self._study.add_trial(_past_trial(self._search, self._spaces, values, scores))


def importances(search: Search, trials: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]) -> dict[str, float]:
    """Return the importance of each key for the first metric, as shares that add up to 1.

    The method is PED-ANOVA (Watanabe et al. 2023). Fewer than four trials give an empty result.

    Args:
        trials: Values and scores of each trial.
    """
    metric = search.metric[0]
    spaces = {key: _space(distribution) for key, distribution in search.search.items()}
    if len(trials) < 4:
        return {}
    study = _study([metric])
    for values, scores in trials:
        study.add_trial(_past_trial(search, spaces, values, {metric: scores[metric]}, (metric,)))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(spaces))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _study(metrics: Sequence[str], sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    directions: list[Literal["minimize", "maximize"]] = [
        "minimize" if MODES[metric] == "min" else "maximize" for metric in metrics
    ]
    return optuna.create_study(directions=directions, sampler=sampler)


def _past_trial(
    search: Search,
    spaces: Mapping[str, BaseDistribution],
    values: Mapping[str, object],
    scores: Mapping[str, float],
    metrics: Sequence[str] | None = None,
) -> optuna.trial.FrozenTrial:
    return optuna.create_trial(
        params={key: _to_optuna(search.search[key], values[key]) for key in spaces},
        distributions=dict(spaces),
        values=[scores[metric] for metric in metrics or search.metric],
    )


_SAMPLERS = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    # constant_liar: running trials count as bad ones, so that trials that run at the same time differ.
    "tpe": lambda seed: optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=6, multivariate=True, constant_liar=True
    ),
}


def _space(distribution: Distribution) -> BaseDistribution:
    match distribution.kind:
        case "choice" | "grid":
            # By index: Optuna's categories cannot be lists.
            return CategoricalDistribution(range(len(distribution.values)))
        case "uniform":
            return FloatDistribution(*distribution.values)
        case "loguniform":
            low, high = distribution.values
            return FloatDistribution(low, high, log=True)
        case "randint":
            return IntDistribution(*distribution.values)
        case "quniform":
            low, high, step = distribution.values
            return FloatDistribution(low, high, step=step)
    raise ValueError(f"unknown distribution {distribution.kind!r}")


def _from_optuna(distribution: Distribution, drawn: Any) -> object:
    return distribution.values[drawn] if distribution.listed else drawn


def _to_optuna(distribution: Distribution, value: object) -> object:
    return distribution.values.index(value) if distribution.listed else value
