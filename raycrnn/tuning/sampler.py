"""Which values the next trial of a search tries: by chance, over a grid, or by what finished trials taught.

Optuna proposes and learns; which trials a search has is decided here, so that one that was killed goes on with the
very trials it had.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from raycrnn.tuning.search_space import MODES, Distribution, Search

MOST_DRAWS = 100
"""for values that were not tried yet"""

BASE = "base"
"""Name of the trial of the configuration as it is, the first of every search."""


class Sampler:
    """Proposes the values of trials `1` … `search.trials`, and learns from their scores."""

    def __init__(self, search: Search, seed: int):
        """
        Args:
            seed: a resumed search must give another one, or draws what it has drawn before.
        """
        self._search = search
        self._spaces = {key: _space(of) for key, of in search.drawn.items()}
        self._study = _study(search.metric, _SAMPLERS[search.algorithm](seed))
        self._open: dict[int, optuna.Trial] = {}
        self._known: set[str] = set()
        """values that were tried, as JSON"""

    def ask(self, number: int) -> dict[str, Any]:
        """Values for a trial that has none yet: others than those of any before, if there are others."""
        for draw in range(MOST_DRAWS):
            trial = self._study.ask(self._spaces)
            values = self._values_of(trial, number)
            if json.dumps(values) not in self._known or draw == MOST_DRAWS - 1:
                break
            self._study.tell(trial, state=TrialState.FAIL)
        self._open[number] = trial
        self._known.add(json.dumps(values))
        return values

    def _values_of(self, trial: optuna.Trial, number: int) -> dict[str, Any]:
        values = {key: _value(self._search.search[key], drawn) for key, drawn in trial.params.items()}
        point = self._search.grid[(number - 1) % len(self._search.grid)]
        # In the order of the file, whatever kind each is of.
        return {key: {**values, **point}[key] for key in self._search.search}

    def tell(self, number: int, values: Mapping[str, Any], scores: Mapping[str, float] | None) -> None:
        """The scores of a trial, which an earlier command may have asked for; None: it has none."""
        if number == 0:
            # The base, whose values may lie outside of what is searched.
            return
        self._known.add(json.dumps(values))
        trial = self._open.pop(number, None)
        if trial is not None and scores is not None:
            self._study.tell(trial, [scores[metric] for metric in self._search.metric])
        elif trial is not None:
            self._study.tell(trial, state=TrialState.FAIL)
        elif scores is not None:
            self._study.add_trial(_frozen(self._search, self._spaces, values, scores))


def importances(search: Search, trials: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]) -> dict[str, float]:
    """How much each key decides the first metric, as shares that add up to 1 (PED-ANOVA, Watanabe et al. 2023).

    Args:
        trials: values and scores of each; fewer than four tell nothing, and give an empty result.
    """
    metric = search.metric[0]
    spaces = {key: _space(of) for key, of in search.search.items()}
    if len(trials) < 4:
        return {}
    study = _study([metric])
    for values, scores in trials:
        study.add_trial(_frozen(search, spaces, values, {metric: scores[metric]}, (metric,)))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(spaces))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _study(metrics: Sequence[str], sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    # It logs a line a trial otherwise.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = ["minimize" if MODES[metric] == "min" else "maximize" for metric in metrics]
    return optuna.create_study(directions=directions, sampler=sampler)


def _frozen(
    search: Search,
    spaces: Mapping[str, BaseDistribution],
    values: Mapping[str, Any],
    scores: Mapping[str, float],
    metrics: Sequence[str] | None = None,
) -> optuna.trial.FrozenTrial:
    return optuna.create_trial(
        params={key: _drawn(search.search[key], values[key]) for key in spaces},
        distributions=dict(spaces),
        values=[scores[metric] for metric in metrics or search.metric],
    )


# The seeds of both are drawn from by each trial in turn.
_SAMPLERS = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    # Trials that run count as bad ones, so that those beside each other differ.
    "tpe": lambda seed: optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=6, multivariate=True, constant_liar=True
    ),
}


def _space(of: Distribution) -> BaseDistribution:
    match of.kind:
        case "choice" | "grid":
            # By number: Optuna's categories cannot be lists.
            return CategoricalDistribution(range(len(of.values)))
        case "uniform":
            return FloatDistribution(*of.values)
        case "loguniform":
            return FloatDistribution(*of.values, log=True)
        case "randint":
            return IntDistribution(*of.values)
        case "quniform":
            low, high, step = of.values
            return FloatDistribution(low, high, step=step)
    raise ValueError(f"no distribution {of.kind!r}")


def _value(of: Distribution, drawn: Any) -> Any:
    return of.values[drawn] if of.listed else drawn


def _drawn(of: Distribution, value: Any) -> Any:
    return of.values.index(value) if of.listed else value
