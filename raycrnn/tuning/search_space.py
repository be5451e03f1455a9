"""The content of a search file: distributions of values, metrics, schedulers and resources."""

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
    """The values to try for one key."""

    kind: str
    values: tuple
    """The options of choice and grid; low and high of uniform, loguniform and randint; low, high and step of quniform.
    Both ends are included."""

    @property
    def listed(self) -> bool:
        """Whether the values are a list of options."""
        return self.kind in ("choice", "grid")

    def probes(self) -> tuple:
        """Return sample values, to check whether a key accepts what may be drawn."""
        if self.listed:
            return self.values
        low, high, *step = self.values
        if step:
            return low, low + step[0], high
        # The third value is not an integer, so that a key for integers rejects it.
        return (low, high) if self.kind == "randint" else (low, high, low + (high - low) / math.pi)

    def __str__(self) -> str:
        return f"{self.kind} {config.to_json(self.values)}"


def _check_list(values: tuple) -> None:
    if not values:
        raise ValueError("the list is empty")
    if any((isinstance(a, bool), a) == (isinstance(b, bool), b) for a, b in itertools.combinations(values, 2)):
        raise ValueError("the list contains a value twice")


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
        raise ValueError("[low, high]: low must be above 0, because of the logarithm")


def _check_whole_range(values: tuple) -> None:
    _check_range(values)
    if not all(isinstance(value, int) for value in values):
        raise ValueError("[low, high] must be integers")


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
"""The kinds of distributions. Each function raises `ValueError` if the values do not suit the kind."""


def check_json(value: object) -> object:
    """Return the value if it is a JSON value. Raises `ValueError`."""
    try:
        json.dumps(value)
    except TypeError:
        raise ValueError(f"{value!r} is not a JSON value: put it in quotes") from None
    return value


def read(written: object) -> Distribution:
    """Read a distribution such as `{choice: [128, 256]}`. Raises `ValueError`."""
    kinds = ", ".join(CHECKS)
    if not isinstance(written, dict) or len(written) != 1:
        raise ValueError(f"is not a distribution: use one of {kinds}, such as {{choice: [128, 256]}}")
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
    "output_model_dir": "each trial has its own directory",
    "restore_model": "use --resume to resume a search",
    "training.n_epochs": "all trials have the same budget; set it under fixed",
    "training.max_minutes": "all trials have the same budget; set it under fixed",
    "cluster": "set resources, or set it for all trials under fixed",
    "decoding.readings": "the network reads each image once for all trials; compare numbers of readings with raycrnn "
    "evaluate",
}
"""Keys and groups that cannot be searched, and why."""


class Asha(Group):
    """Asynchronous successive halving (Li et al. 2018): stops the trials with bad scores early."""

    grace: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the training before which no trial is stopped: the first rung. Earlier, many networks still read every
    image as empty."""
    reduction: Annotated[float, Field(gt=1)] = 3.0
    """One of this many trials continues at each rung. Each rung is this many times as far as the one before, up to half
    of the training."""


class Pbt(Group):
    """Population-based training (Jaderberg et al. 2017): bad trials continue from the weights of good ones."""

    every: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training between two comparisons of a trial with the others."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the trials that continue from the weights of the best ones."""
    resample: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Probability that a value is drawn again, instead of being multiplied by 0.8 or 1.2."""


class Scheduler(Group):
    """The scheduler, which stops or changes running trials: asha, pbt or none. Its settings are optional."""

    asha: Asha | None = None
    """Asynchronous successive halving stops the trials with bad scores early. Settings: grace (0.3), the share of the
    training before which no trial is stopped; reduction (3), of so many trials one continues at each rung, of which the
    last is at half of the training. Where the metric is the same, the loss decides."""
    pbt: Pbt | None = None
    """With population-based training, bad trials continue from the weights of good ones. Settings: every (0.2), the
    share of the training between two comparisons; quantile (0.25), the share of the trials that continue from others;
    resample (0.25), the probability that a value is drawn again instead of being multiplied by 0.8 or 1.2."""

    @model_validator(mode="after")
    def _one_scheduler(self) -> "Scheduler":
        if self.asha and self.pbt:
            raise ValueError("choose asha or pbt, not both")
        return self


class Resources(Group):
    """The resources of each training worker of a trial."""

    cpus: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """CPUs, including those for decoding images. auto: an equal share for each trial that runs at the same time."""
    gpus: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """GPUs, or a fraction of one. auto: one, if the cluster has GPUs."""


def _scheduler(written: object) -> object:
    """Expand the short forms: `asha` means `{asha: {}}`, and none means `{}`."""
    if written in (None, "none"):
        return {}
    if isinstance(written, str):
        return {written: {}}
    return (
        {name: {} if settings is None else settings for name, settings in written.items()}
        if isinstance(written, dict)
        else written
    )


Metric = Literal["cer", "wer", "accuracy", "loss", "speed"]


class Search(Group):
    """The content of a search file."""

    search: Annotated[dict[str, Annotated[Any, BeforeValidator(read)]], Field(min_length=1)]
    """Values to try, by dotted key of the configuration."""
    fixed: dict[str, Annotated[Any, BeforeValidator(check_json)]] = Field({})
    """Values for the base and all trials, by dotted key of the configuration."""
    metric: Annotated[tuple[Metric, ...], BeforeValidator(config.one_as_several), Field(min_length=1, max_length=2)] = (
        "cer",
    )
    """Metric to optimise: cer, wer or loss (lowest), accuracy or speed in lines per second (highest). With two metrics
    the report shows the trials that no other trial beats in both."""
    algorithm: Literal["random", "tpe"] = "random"
    """How values are drawn. tpe: tree-structured Parzen estimator (Bergstra et al. 2011), which learns from finished
    trials."""
    scheduler: Annotated[Scheduler, BeforeValidator(_scheduler)] = Scheduler()
    """asha, pbt or none, with settings if needed: {asha: {reduction: 2}}."""
    samples: Annotated[Positive, Field(le=100_000)] = 1
    """Number of trials besides the base. With grid keys: number of trials for each point of the grid."""
    max_minutes: Annotated[float, Field(ge=0.5)] | None = None
    """Time limit, counted from the start of the command. Running trials are stopped then and keep their scores."""
    concurrent: Literal["auto"] | Positive = "auto"
    """Trials that run at the same time. auto: as many as fit on the cluster."""
    resources: Resources = Resources()
    """Resources of each training worker of a trial."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Search":
        if len(set(self.metric)) < len(self.metric):
            raise ValueError("metric: the list contains a metric twice")
        if len(self.metric) == 2 and (self.scheduler.asha or self.scheduler.pbt):
            raise ValueError("metric: a scheduler uses one metric; two metrics need scheduler: none")
        if self.scheduler.pbt and self.algorithm != "random":
            raise ValueError("algorithm: pbt draws values itself: set algorithm: random")
        return self

    @property
    def grid(self) -> list[dict[str, object]]:
        """The points of the grid, in order. Without grid keys: a single empty point."""
        keys = [key for key, distribution in self.search.items() if distribution.kind == "grid"]
        points = itertools.product(*(self.search[key].values for key in keys))
        return [dict(zip(keys, point, strict=True)) for point in points]

    @property
    def drawn(self) -> dict[str, Distribution]:
        """The keys that are not part of the grid."""
        return {key: distribution for key, distribution in self.search.items() if distribution.kind != "grid"}

    @property
    def trials(self) -> int:
        """Number of trials without the base: at most the number of different points."""
        points = math.prod(len(drawn.values) if drawn.listed else math.inf for drawn in self.drawn.values())
        return len(self.grid) * (self.samples if self.scheduler.pbt else int(min(self.samples, points)))

    @property
    def decoding_only(self) -> bool:
        """Whether only decoding is searched, so that all trials share one network."""
        return all(key.startswith("decoding.") for key in self.search)


MODES = {"cer": "min", "wer": "min", "loss": "min", "accuracy": "max", "speed": "max"}
"""Whether the lowest or the highest value of a metric is best."""
