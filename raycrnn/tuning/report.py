"""report.html of a search: the best trial, the curves of all trials, and how values relate to scores.

The page is one file and loads nothing from the network.
"""

import math
from collections.abc import Sequence
from importlib import resources

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from raycrnn import __version__
from raycrnn.tuning import console
from raycrnn.tuning.experiment import Experiment, Trial
from raycrnn.tuning.sampler import BASE, importances
from raycrnn.tuning.search_space import MODES, Distribution

BASE_COLOUR, TRIAL_COLOUR, BEST_COLOUR = "#888888", "rgba(70,120,180,0.45)", "#d1495b"

TITLES = {
    "cer": "character error rate, %",
    "wer": "word error rate, %",
    "accuracy": "exact transcriptions, %",
    "loss": "loss",
    "speed": "lines per second",
}


TICKS = [digit * 10.0**power for power in range(-6, 6) for digit in (1, 2, 5)]
LOGARITHMIC = {"type": "log", "tickvals": TICKS}
"""A logarithmic axis with ticks at 1, 2 and 5 times the powers of ten."""


def render(experiment: Experiment) -> str:
    """Return the page as HTML."""
    template = resources.files("raycrnn.tuning").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"score": console.format_score, "value": console.format_value}
    best, search = experiment.best(), experiment.search
    metrics = console.displayed_metrics(search)
    with_scores = [trial for trial in experiment.ranked() if trial.scores]
    return environment.from_string(template).render(
        script=get_plotlyjs(),
        figures={name: figure.to_json() for name, figure in _figures(experiment).items()},
        best=best,
        base=experiment.base,
        trials=experiment.ranked(),
        values_of=experiment.values_of,
        failed=[trial for trial in experiment.trials.values() if trial.error],
        keys=list(search.search),
        distributions={key: str(distribution) for key, distribution in search.search.items()},
        fixed=search.fixed,
        metrics=metrics,
        titles={metric: console.COLUMNS[metric] for metric in metrics},
        front={trial.name for trial in experiment.pareto_front()} if search.metric[1:] else set(),
        scored=len(with_scores),
        version=__version__,
        search=search,
    )


def _figures(experiment: Experiment) -> dict[str, go.Figure]:
    with_scores = [trial for trial in experiment.ranked() if trial.scores]
    figures = {"curves": _curves(experiment)}
    if experiment.search.metric[1:]:
        figures["front"] = _front(experiment)
    searched = [trial for trial in with_scores if trial.name != BASE]
    if len(searched) > 1:
        figures["parallel"] = _parallel(experiment, searched)
    shares = importances(experiment.search, [(trial.values, trial.scores or {}) for trial in searched])
    if shares:
        figures["importance"] = _importance(shares)
    for name, figure in figures.items():
        # Parallel coordinates have the names of their axes above the plot.
        margin = {"l": 60, "r": 60, "t": 70 if name == "parallel" else 20, "b": 50}
        figure.update_layout(template="plotly_white", margin=margin, font={"family": "system-ui, sans-serif"})
    return figures


def _in_percent(metric: str, values: Sequence[float]) -> list[float]:
    return [100 * value for value in values] if metric in ("cer", "wer", "accuracy") else list(values)


def _curves(experiment: Experiment) -> go.Figure:
    """Plot the first metric of each trial over the share of its training."""
    metric, best = experiment.search.metric[0], experiment.best()
    figure = go.Figure()
    # The base and the best trial last, so that they are drawn on top of the others.
    for trial in sorted(experiment.trials.values(), key=lambda trial: (trial is best, trial.name == BASE)):
        if not trial.evaluations:
            continue
        kind = "best" if trial is best else "base" if trial.name == BASE else "other"
        colour = {"best": BEST_COLOUR, "base": BASE_COLOUR, "other": TRIAL_COLOUR}[kind]
        what = "<br>".join(f"{key} {console.format_value(value)}" for key, value in trial.values.items())
        width, dash = (1.5 if kind == "other" else 3), ("dot" if kind == "base" else "solid")
        figure.add_scatter(
            x=[100 * record["share"] for record in trial.evaluations],
            y=_in_percent(metric, [record[metric] for record in trial.evaluations]),
            mode="lines+markers",
            name=_name(trial) + (" (best)" if kind == "best" else ""),
            line={"color": colour, "width": width, "dash": dash},
            marker={"size": 5},
            hovertemplate=f"{_name(trial)}: %{{y:.2f}}<br>{what}<extra></extra>",
            showlegend=kind != "other",
        )
    figure.update_xaxes(title="share of the training, %", range=[0, 102])
    scores = [record[metric] for trial in experiment.trials.values() for record in trial.evaluations]
    # A logarithmic axis cannot show zero.
    logarithmic = MODES[metric] == "min" and min(scores) > 0
    figure.update_yaxes(title=TITLES[metric], **(LOGARITHMIC if logarithmic else {}))
    figure.update_layout(legend={"orientation": "h", "y": 1.1})
    return figure


def _front(experiment: Experiment) -> go.Figure:
    """Plot each trial by both metrics, with a line through those that no other trial beats in both."""
    first, second = experiment.search.metric
    front = experiment.pareto_front()
    figure = go.Figure()
    for name, chosen, style in (
        ("trials", [trial for trial in experiment.trials.values() if trial.scores], {"mode": "markers+text"}),
        ("not beaten in both", front, {"mode": "lines", "line": {"color": BEST_COLOUR, "shape": "hv"}}),
    ):
        figure.add_scatter(
            x=_in_percent(second, [trial.scores[second] for trial in chosen if trial.scores]),
            y=_in_percent(first, [trial.scores[first] for trial in chosen if trial.scores]),
            text=[trial.name for trial in chosen],
            textposition="top center",
            name=name,
            marker={"color": TRIAL_COLOUR, "size": 9},
            **style,
        )
    figure.update_xaxes(title=TITLES[second])
    figure.update_yaxes(title=TITLES[first])
    figure.update_layout(legend={"orientation": "h", "y": 1.1})
    return figure


def _parallel(experiment: Experiment, searched: Sequence[Trial]) -> go.Figure:
    """Plot each trial as a line across one axis per key and one for the score."""
    metric = experiment.search.metric[0]
    scores = [trial.scores[metric] for trial in searched if trial.scores]
    axes = [
        _axis(key, distribution, [trial.values[key] for trial in searched])
        for key, distribution in experiment.search.search.items()
    ]
    axes.append({"label": TITLES[metric], **_score_axis(metric, scores)})
    # Good scores are dark, whether low or high is better.
    colours = {"color": axes[-1]["values"], "colorscale": "Viridis", "reversescale": MODES[metric] == "max"}
    return go.Figure(go.Parcoords(dimensions=axes, line={**colours, "showscale": False}))


def _axis(key: str, distribution: Distribution, values: Sequence) -> dict:
    """Return the axis of a key, linear or logarithmic like its distribution."""
    label = {"label": key.rpartition(".")[2]}
    if distribution.listed:
        names = [console.format_value(value) for value in distribution.values]
        places = [distribution.values.index(value) for value in values]
        ends = [0, max(1, len(names) - 1)]
        return {**label, "values": places, "range": ends, "tickvals": list(range(len(names))), "ticktext": names}
    if distribution.kind == "loguniform":
        return {**label, **_logarithmic(values, *distribution.values)}
    low, high = distribution.values[:2]
    ticks = {"tickvals": list(range(low, high + 1))} if distribution.kind == "randint" and high - low < 20 else {}
    return {**label, "values": values, "range": [low, high], **ticks}


def _score_axis(metric: str, scores: Sequence[float]) -> dict:
    shown = _in_percent(metric, scores)
    if MODES[metric] == "min" and min(shown) > 0:
        return _logarithmic(shown, min(shown), max(shown))
    return {"values": shown}


def _logarithmic(values: Sequence[float], low: float, high: float) -> dict:
    """Return an axis of logarithms with labelled ticks: parallel coordinates have no logarithmic axis."""
    inside = [tick for tick in TICKS if low <= tick <= high]
    ticks = sorted({low, *inside, high})
    return {
        "values": [math.log10(value) for value in values],
        "range": [math.log10(low), math.log10(high)],
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [f"{tick:.3g}" for tick in ticks],
    }


def _importance(shares: dict[str, float]) -> go.Figure:
    keys = list(reversed(shares))
    figure = go.Figure(go.Bar(x=[100 * shares[key] for key in keys], y=keys, orientation="h", marker_color="#4678b4"))
    figure.update_xaxes(title="share of the importance, %", range=[0, 100])
    figure.update_yaxes(automargin=True)
    figure.update_layout(height=120 + 36 * len(keys))
    return figure


def _name(trial: Trial) -> str:
    return "the base" if trial.name == BASE else f"trial {trial.name}"
