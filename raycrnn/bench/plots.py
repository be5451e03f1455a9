"""Plots of error rates, drawn by matplotlib, which the extra `plots` installs."""

import importlib.util
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raycrnn.bench.run_summaries import Point
from raycrnn.bench.training_runs import RunResult
from raycrnn.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_CER = 1e-3
"""Lower end of the logarithmic axis, where a CER of 0 is drawn."""


def require() -> None:
    """Raise `UsageError` if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("the plot needs matplotlib: pip install 'raycrnn[plots]'")


def training_curves(results: Sequence[RunResult], path: Path) -> None:
    """Draw the CER over the epochs for each set: the mean over the seeds, and the range."""
    figure, axes = _grid(list(dict.fromkeys(result.set for result in results)))
    for name, axis in axes.items():
        axis.set_xlabel("epoch")
        for setting in dict.fromkeys(result.setting for result in results):
            curves = [result.curve for result in results if (result.set, result.setting) == (name, setting)]
            columns = list(zip(*curves, strict=False))
            # With a plan's `min_steps`, the epochs of a seed depend on how many rows it holds back.
            epochs = [statistics.fmean(point["epoch"] for point in column) for column in columns]
            cers = [[max(LEAST_CER, point["cer"]) for point in column] for column in columns]
            [line] = axis.plot(epochs, [statistics.fmean(column) for column in cers], label=setting)
            lowest, highest = [min(column) for column in cers], [max(column) for column in cers]
            axis.fill_between(epochs, lowest, highest, color=line.get_color(), alpha=0.15, linewidth=0)
    _save(figure, axes, path)


def learning_curves(
    curves: Mapping[tuple[str, str], Sequence[Point]], references: Mapping[str, Mapping[str, float]], path: Path
) -> None:
    """Draw the CER over the number of training rows for each set, and the CERs of other recognisers as lines.

    Args:
        curves: The points by set and setting.
        references: The CERs of other recognisers, by set and name.
    """
    figure, axes = _grid(list(dict.fromkeys(name for name, _ in curves)))
    for name, axis in axes.items():
        own = {setting: points for (set_name, setting), points in curves.items() if set_name == name}
        rows = sorted({point["rows"] for points in own.values() for point in points})
        axis.set_xlabel("training rows")
        axis.set_xscale("log")
        # Before the ticks, because the axis would have no extent with a single number of rows.
        axis.set_xlim(rows[0] / 1.3, rows[-1] * 1.3)
        axis.set_xticks(rows, [f"{number:g}" for number in rows], minor=False)
        axis.minorticks_off()
        for setting, points in own.items():
            cers = [max(LEAST_CER, point["cer"]) for point in points]
            deviations = [point["cer_deviation"] for point in points]
            axis.errorbar([point["rows"] for point in points], cers, deviations, marker="o", label=setting)
        for label, cer in references.get(name, {}).items():
            axis.axhline(cer, color="grey", linestyle="dashed", linewidth=1)
            axis.annotate(label, (1, cer), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="grey")
    _save(figure, axes, path)


def _grid(names: Sequence[str]) -> tuple["Figure", dict[str, "Axes"]]:
    """Return a figure with a plot for each name, in up to three columns."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    axes = {}
    for number, name in enumerate(names, start=1):
        axis = axes[name] = figure.add_subplot(rows, columns, number)
        axis.set_title(name)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_ylabel("CER")
        axis.grid(alpha=0.3)
    return figure, axes


def _save(figure: "Figure", axes: Mapping[str, "Axes"], path: Path) -> None:
    next(iter(axes.values())).legend()
    # Without the date, which would make every version differ.
    figure.savefig(path, metadata={"Date": None})
