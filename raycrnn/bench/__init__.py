"""Benchmarks: `python -m raycrnn.bench NAME` measures a figure beside the limit it is held against, in one run."""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    name: str
    value: float
    unit: str
    limit: str = ""
    """what it is held against"""

    def __str__(self) -> str:
        return f"{self.name:<44}{self.value:>10.2f} {self.unit:<8}{self.limit}"


def report(title: str, figures: Sequence[Figure], as_json: bool) -> None:
    """Print the table and, if asked for, the same as one JSON line."""
    print(f"{title} ({platform.machine()}, {platform.system()})")
    for figure in figures:
        print(f"  {figure}")
    if as_json:
        print(json.dumps({figure.name.replace(" ", "_"): figure.value for figure in figures}))


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Median of the ratios pair by pair: measured in turn, both sides meet the same noise."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
