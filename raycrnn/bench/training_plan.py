"""The plan of a comparison: sets, settings and seeds to train with, read from a JSON file."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from raycrnn import config
from raycrnn.config import Group
from raycrnn.config.group import Location, Positive
from raycrnn.config.schema import RegularExpression

Overrides = tuple[str, ...]
"""Texts `key=value`, as on the command line of `raycrnn train`."""

SET_BY_THE_PLAN = (
    *("output_model_dir", "restore_model", "data.csv_files_train", "data.csv_files_eval", "data.csv_delimiter"),
    *("data.encoding", "training.n_epochs", "training.evaluate_every_epoch", "training.seed"),
    *("training.folds", "training.fold"),
)
"""Keys that no setting may override: the plan says on what and how long is trained."""


class PlannedSet(Group):
    """A set of labelled images, of which a part is held back for evaluation."""

    csv: Location
    """CSV with rows `path;label`, relative to the folder of the data."""
    epochs: Positive
    """Epochs of each training."""
    group: RegularExpression | None = None
    """Regular expression that names the group of a path, as in `raycrnn split --group`: groups are never divided."""
    eval_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the rows that is held back."""
    settings: Overrides = ()
    """Overrides for all trainings on this set."""
    reference: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Error rates (CER) of other recognisers on this set, by name; the plot of a curve shows them as lines."""


def _only_defaults() -> dict[str, Overrides]:
    return {"default": ()}


class Plan(Group):
    """What is trained: each set with each setting, each number of rows and each seed."""

    sets: Annotated[dict[str, PlannedSet], Field(min_length=1)]
    settings: Annotated[dict[str, Overrides], Field(min_length=1)] = Field(default_factory=_only_defaults)
    """Overrides by the name of the setting. The others are compared with the first."""
    common: Overrides = ()
    """Overrides for all trainings."""
    seeds: Positive = 3
    """Number of trainings with the same set and setting. Seeds 0, 1, … choose the rows that are held back, the initial
    weights and the order of the samples."""
    rows: tuple[Positive, ...] = ()
    """Numbers of training rows; larger selections contain the smaller ones. Default: all rows."""
    min_steps: Annotated[int, Field(ge=0)] = 0
    """Least number of steps of a training: on few rows, it takes more epochs than the set says."""


@dataclass(frozen=True)
class PlannedRun:
    """A training of a plan."""

    set: str
    setting: str
    rows: int | None
    """Number of training rows; None for all."""
    seed: int

    @property
    def name(self) -> str:
        rows = "all rows" if self.rows is None else f"{self.rows} rows"
        return f"{self.set}, {self.setting}, {rows}, seed {self.seed}"


def load(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        UsageError: The file is missing or is not JSON, or a key is unknown or has a wrong type or value.
    """
    return config.validated(config.read_json_object(path), Plan, str(path), "plan")


def runs_of(plan: Plan) -> Iterator[PlannedRun]:
    """Yield the trainings of a plan. All of one seed come before those of the next, so that early results compare."""
    for seed in range(plan.seeds):
        for name in plan.sets:
            for rows in plan.rows or (None,):
                for setting in plan.settings:
                    yield PlannedRun(name, setting, rows, seed)


def overrides_of(plan: Plan, run: PlannedRun) -> Overrides:
    """Return the overrides of a training; later ones win."""
    return plan.common + plan.sets[run.set].settings + plan.settings[run.setting]


def epochs_of(plan: Plan, run: PlannedRun, rows: int, batch_size: int) -> int:
    """Return the number of epochs of a training on a number of rows."""
    return max(plan.sets[run.set].epochs, math.ceil(plan.min_steps / math.ceil(rows / batch_size)))


def csv_of(plan: Plan, run: PlannedRun, data: str) -> Path:
    """Return the path of the CSV of a training, given the folder of the data."""
    return Path(os.path.abspath(os.path.join(data, plan.sets[run.set].csv)))
