"""Mean scores over the seeds of a comparison."""

import statistics
from collections.abc import Sequence

from raycrnn.bench.training_runs import RunResult


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample, and 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def summary(results: Sequence[RunResult]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the mean scores by set and setting, with the standard deviation of the CER over the seeds."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name in dict.fromkeys(result.set for result in results):
        for setting in dict.fromkeys(result.setting for result in results):
            chosen = [result for result in results if (result.set, result.setting) == (name, setting)]
            rows.setdefault(name, {})[setting] = {
                "cer": statistics.fmean(result.cer for result in chosen),
                "cer_deviation": deviation([result.cer for result in chosen]),
                "accuracy": statistics.fmean(result.accuracy for result in chosen),
                "seconds": statistics.fmean(result.seconds for result in chosen),
            }
    return rows


Point = dict[str, float]
"""`rows`, `cer` and `cer_deviation`."""


def points(results: Sequence[RunResult]) -> dict[tuple[str, str], list[Point]]:
    """Return the points of the curve of each set and setting: the mean CER over the seeds at each number of rows."""
    cers: dict[tuple[str, str], dict[int, list[float]]] = {}
    for result in results:
        assert result.rows is not None
        cers.setdefault((result.set, result.setting), {}).setdefault(result.rows, []).append(result.cer)
    return {
        key: [
            {"rows": rows, "cer": statistics.fmean(values), "cer_deviation": deviation(values)}
            for rows, values in sorted(by_rows.items())
        ]
        for key, by_rows in cers.items()
    }
