"""Benchmarks: `raycrnn bench NAME` measures figures and prints each next to its limit."""

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
    """The limit that the value should meet, as text."""

    def __str__(self) -> str:
        return f"{self.name:<44}{self.value:>10.2f} {self.unit:<8}{self.limit}"


def report(title: str, figures: Sequence[Figure], as_json: bool) -> None:
    """Print a table of the figures, and with `as_json` also one line of JSON."""
    print(f"{title} ({platform.machine()}, {platform.system()})")
    for figure in figures:
        print(f"  {figure}")
    if as_json:
        print(json.dumps({figure.name.replace(" ", "_"): figure.value for figure in figures}))


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the median of the pairwise ratios. The two figures of a pair are measured in turn, under the same load."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
