"""The values that a search tries of a key: what a search file may say of them."""

import difflib
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from raycrnn import config
from raycrnn.config import Group, Positive


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


NOT_SEARCHED = {
    "output_model_dir": "each trial has a directory of its own",
    "restore_model": "a search is resumed by --resume",
    "training.n_epochs": "all trials have the same budget; fixed may set it",
    "training.max_minutes": "all trials have the same budget; fixed may set it",
    "cluster": "resources says what a trial takes; fixed may set it for all trials",
}
"""Keys, or groups, of which a search cannot try values, and why."""


class Asha(Group):
    """Asynchronous successive halving (Li et al. 2018): stops trials that are behind."""

    grace: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of its training before which no trial is stopped"""
    reduction: Annotated[float, Field(gt=1)] = 3.0
    """of so many trials one goes on at each rung; the rungs lie this factor apart"""


class Pbt(Group):
    """Population-based training (Jaderberg et al. 2017): trials behind go on from the weights of those ahead."""

    every: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of its training after which a trial is compared"""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """share of the trials that is replaced, by as many of the best"""
    resample: Annotated[float, Field(ge=0, le=1)] = 0.25
    """probability that a value is drawn anew, rather than changed by a fifth"""


class Scheduler(Group):
    """What ends or changes trials while they run; all None: nothing."""

    asha: Asha | None = None
    pbt: Pbt | None = None

    @model_validator(mode="after")
    def _one_scheduler(self) -> "Scheduler":
        if self.asha and self.pbt:
            raise ValueError("asha or pbt, not both")
        return self


class Resources(Group):
    """What each training worker of a trial takes."""

    cpus: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """CPUs, decoding included; auto: an equal share for as many trials as run at a time"""
    gpus: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """GPUs, or a part of one; auto: one, where the cluster has them"""


def _scheduler(written: Any) -> Any:
    """`asha` is short for `{asha: {}}`, and none for `{}`."""
    if written in (None, "none"):
        return {}
    if isinstance(written, str):
        return {written: {}}
    return {name: {} if of is None else of for name, of in written.items()} if isinstance(written, dict) else written


Metric = Literal["cer", "wer", "accuracy", "loss", "speed"]


class Search(Group):
    """What a search file says."""

    search: Annotated[dict[str, Annotated[Any, BeforeValidator(read)]], Field(min_length=1)]
    """values to try, by dotted key of the configuration"""
    fixed: dict[str, Annotated[Any, BeforeValidator(check_json)]] = Field({})
    """values of dotted keys, for the base and every trial"""
    metric: Annotated[tuple[Metric, ...], BeforeValidator(config.one_as_several), Field(min_length=1, max_length=2)] = (
        "cer",
    )
    """what is best: cer, wer, loss (the lowest), accuracy, speed (the highest: lines read a second); two of them: the
    trials that none other beats in both"""
    algorithm: Literal["random", "tpe"] = "random"
    """tpe: tree-structured Parzen estimator (Bergstra et al. 2011, Optuna's), which learns from finished trials"""
    scheduler: Annotated[Scheduler, BeforeValidator(_scheduler)] = Scheduler()
    """asha, pbt, none"""
    samples: Annotated[Positive, Field(le=100_000)] = 1
    """trials, beside the base; with grid keys so many for each point of the grid"""
    max_minutes: Annotated[float, Field(ge=0.5)] | None = None
    """wall time from the command's start; what runs then is stopped, and counts with what it has reached"""
    concurrent: Literal["auto"] | Positive = "auto"
    """trials at a time; auto: as many as the cluster has room for"""
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _fits_together(self) -> "Search":
        if len(set(self.metric)) < len(self.metric):
            raise ValueError("metric: names one twice")
        if len(self.metric) == 2 and (self.scheduler.asha or self.scheduler.pbt):
            raise ValueError("metric: a scheduler goes by one; two need scheduler: none")
        if self.scheduler.pbt and self.algorithm != "random":
            raise ValueError("algorithm: pbt draws the values itself: set algorithm: random")
        return self

    @property
    def grid(self) -> list[dict[str, Any]]:
        """The points of the grid, in order; one without keys where no key is of a grid."""
        keys = [key for key, of in self.search.items() if of.kind == "grid"]
        points = itertools.product(*(self.search[key].values for key in keys))
        return [dict(zip(keys, point, strict=True)) for point in points]

    @property
    def drawn(self) -> dict[str, Distribution]:
        """The keys whose values are drawn."""
        return {key: of for key, of in self.search.items() if of.kind != "grid"}

    @property
    def trials(self) -> int:
        """Trials, the base not counted: no more than there are points, where keys have but a few values."""
        points = math.prod(len(of.values) if of.listed else math.inf for of in self.drawn.values())
        return len(self.grid) * (self.samples if self.scheduler.pbt else int(min(self.samples, points)))

    @property
    def decoding_only(self) -> bool:
        """Whether every trial would decode what the same network gives."""
        return all(key.startswith("decoding.") for key in self.search)


MODES = {"cer": "min", "wer": "min", "loss": "min", "accuracy": "max", "speed": "max"}
"""Which way each metric is better."""
