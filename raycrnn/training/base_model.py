"""The models that come with raycrnn, and which of them suits a new run. Importing it does not import torch."""

import logging
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from raycrnn import config
from raycrnn.config import Configuration
from raycrnn.config.schema import AUTO
from raycrnn.data.alphabet import Alphabet
from raycrnn.model import model_files
from raycrnn.training import network_keys

if TYPE_CHECKING:
    from raycrnn.data.labelled_csvs import LabelledCsvs

logger = logging.getLogger(__name__)

NAMES = ("latin",)

MOST_ROWS = 10_000
"""Number of training rows up to which `auto` chooses such a model. With more, its gain was not measured."""

LEAST_KNOWN, LEAST_LETTERS = 0.7, 20
"""Share of the units of a run that such a model must have, and number of letters among them. It was measured for number
plates with 10 Chinese characters among 44 units; for digits alone, and for other scripts, it was not."""


def directory_of(location: str) -> AbstractContextManager[str | Path]:
    """Return the model directory at a path or URI, or the one in the package of a name in `NAMES`."""
    if location in NAMES:
        return resources.as_file(resources.files("raycrnn.training") / "base_models" / location)
    return nullcontext(location)


def choose(configuration: Configuration) -> "tuple[Configuration, LabelledCsvs | None]":
    """Return the configuration of a new run with the model that `training.initial_model=auto` stands for, or null.

    A line says which model was chosen, or which one would suit another configuration.

    Returns:
        The configuration, and the CSVs if they had to be read.

    Raises:
        UsageError: A CSV cannot be read or has no usable label.
    """
    if configuration.training.initial_model != AUTO:
        return configuration, None
    from raycrnn.data import csv_files, labelled_csvs

    csvs, data = labelled_csvs.read(configuration), configuration.data
    if csvs.alphabet is not None:
        units: Collection[str] = csvs.alphabet.units
    else:
        units = {unit for file in csvs.train for row in file.rows for unit in csv_files.units_of(row, data)}
    choice = suitable(units, sum(len(file.rows) for file in csvs.train), configuration)
    if choice.line:
        logger.info(choice.line)
    values: dict[str, object] = {"training.initial_model": choice.name}
    if choice.name is not None and csvs.alphabet is not None:
        # The alphabet of the user stays as it is.
        values["training.initial_alphabet"] = "new"
    return config.completed(configuration, values), csvs


@dataclass(frozen=True)
class Choice:
    """Which of the models suits a run."""

    name: str | None = None
    """One of `NAMES`, or None."""
    line: str | None = None
    """What the user should know about it."""


def suitable(units: Collection[str], rows: int, configuration: Configuration) -> Choice:
    """Return which of the models suits a run that may start from any.

    Args:
        units: The different units of the run.
        rows: Number of rows to train on.
        configuration: The configuration of the run.
    """
    if rows > MOST_ROWS:
        return Choice()
    for name in NAMES:
        with directory_of(name) as folder:
            own = model_files.configuration_of(Path(folder), name, ())
            alphabet = Alphabet.load(Path(folder) / model_files.ALPHABET, own.data.unicode_form)
        known = [unit for unit in units if unit in alphabet]
        letters = sum(unit.isalpha() for unit in known)
        if len(known) < LEAST_KNOWN * len(units) or letters < LEAST_LETTERS:
            continue
        has = f"{name}, a model that comes with raycrnn, has {len(known)} of the {len(units)} units"
        if not (others := _needs_another(configuration, own)):
            return Choice(name, f"{has}: training starts from it (training.initial_model=null: from random weights)")
        return Choice(
            line=f"{has}: with so few rows, starting from it usually leads to fewer errors in fewer epochs; for that, "
            f"remove {', '.join(others)}"
        )
    return Choice()


def _needs_another(configuration: Configuration, model: Configuration) -> list[str]:
    """Return the keys that a configuration sets and that do not allow to start from a model."""
    keys = [conflict.key for conflict in network_keys.conflicts(configuration, model)]
    form = "data.unicode_form"
    if form in config.set_keys(configuration) and configuration.data.unicode_form != model.data.unicode_form:
        keys.append(form)
    return list(dict.fromkeys(keys))
