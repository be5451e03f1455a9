"""The values that a search tries of a key: what a search file may say of them."""

import difflib
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raycrnn import config


@dataclass(frozen=True)
class Distribution:
    """The values to try of one key."""

    kind: str
    values: tuple
    """choice and grid: what to choose from; uniform, loguniform, randint: low, high; quniform: low, high, step.
    Both ends are included"""

    @property
    def listed(self) -> bool:
        return self.kind in ("choice", "grid")

    def probes(self) -> tuple:
        """Values by which to find out whether a key takes what may be drawn."""
        if self.listed:
            return self.values
        low, high, *step = self.values
        if step:
            return low, low + step[0], high
        # A number that is neither whole nor round: a key that takes whole numbers refuses it.
        return (low, high) if self.kind == "randint" else (low, high, low + (high - low) / math.pi)

    def __str__(self) -> str:
        return f"{self.kind} {config.to_json(self.values)}"


def _check_list(values: tuple) -> None:
    if not values:
        raise ValueError("has no value")
    if any((isinstance(a, bool), a) == (isinstance(b, bool), b) for a, b in itertools.combinations(values, 2)):
        raise ValueError("names a value twice")


def _check_range(values: tuple, names: str = "low, high") -> None:
    count = len(names.split(","))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if len(values) != count or not numbers or not all(map(math.isfinite, values)):
        raise ValueError(f"needs {count} numbers: [{names}]")
    if values[0] >= values[1]:
        raise ValueError(f"[{names}]: low must be below high")


def _check_log_range(values: tuple) -> None:
    _check_range(values)
    if values[0] <= 0:
        raise ValueError("[low, high]: low must be above 0, for its logarithm")


def _check_whole_range(values: tuple) -> None:
    _check_range(values)
    if not all(isinstance(value, int) for value in values):
        raise ValueError("[low, high] must be whole numbers")


def _check_steps(values: tuple) -> None:
    _check_range(values, "low, high, step")
    low, high, step = values
    if not 0 < step <= high - low:
        raise ValueError("[low, high, step]: step must be above 0 and at most high − low")
    if not math.isclose((high - low) / step, round((high - low) / step), abs_tol=1e-9):
        raise ValueError(f"[low, high, step]: steps of {step:g} do not lead from {low:g} to {high:g}")


CHECKS: dict[str, Callable[[tuple], None]] = {
    "choice": _check_list,
    "grid": _check_list,
    "uniform": _check_range,
    "loguniform": _check_log_range,
    "randint": _check_whole_range,
    "quniform": _check_steps,
}
"""Every kind of distribution, and what raises `ValueError` if it cannot be one of that kind."""


def check_json(value: Any) -> Any:
    """The value, if a configuration can hold it. Raises `ValueError`."""
    try:
        json.dumps(value)
    except TypeError:
        raise ValueError(f"{value!r} is no value that a configuration holds: put it in quotes") from None
    return value


def read(written: Any) -> Distribution:
    """What a search file says of a key, such as `{choice: [128, 256]}`. Raises `ValueError`."""
    kinds = ", ".join(CHECKS)
    if not isinstance(written, dict) or len(written) != 1:
        raise ValueError(f"is no distribution: write one of {kinds}, such as {{choice: [128, 256]}}")
    [(kind, values)] = written.items()
    if kind not in CHECKS:
        close = difflib.get_close_matches(str(kind), CHECKS, n=1)
        raise ValueError(f"unknown distribution {kind!r}{f'; did you mean {close[0]}?' if close else f': {kinds}'}")
    if not isinstance(values, list):
        raise ValueError(f"{kind} needs a list [ … ]")
    check_json(values)
    CHECKS[kind](tuple(values))
    return Distribution(kind, tuple(values))
