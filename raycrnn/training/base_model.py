"""Which of the models that come with raycrnn suits a new run. Importing it does not import torch."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raycrnn import config
from raycrnn.config import Configuration
from raycrnn.config.group import AUTO
from raycrnn.data import csv_files, generated_lines
from raycrnn.data.alphabet import Alphabet
from raycrnn.model import model_files
from raycrnn.model.model_names import NAMES, directory_of
from raycrnn.training import network_keys

if TYPE_CHECKING:
    from raycrnn.data.labelled_csvs import LabelledCsvs

logger = logging.getLogger(__name__)

MOST_ROWS = 10_000
"""Number of training rows up to which `auto` chooses such a model. With more, its gain was not measured."""

LEAST_KNOWN = 0.7
"""Share of the units of the labels that such a model must have. It helped with number plates, of whose 44 units it has
34; with less, and with other scripts, its gain was not measured."""

LEAST_LETTERS = 20
"""Number of letters among these units. For digits alone, its gain was not measured."""

INITIAL_MODEL = "training.initial_model"

INITIAL_ALPHABET = "training.initial_alphabet"

CHOSEN_KEYS = (INITIAL_MODEL, INITIAL_ALPHABET)
"""The keys that `choose` sets. A resumed run keeps the values that they had when it started."""


def choose(configuration: Configuration, csvs: "LabelledCsvs") -> Configuration:
    """Return the configuration of a new run, in which `auto` has become the model that suits it, or null.

    A line says which model was chosen, or what is in the way of one that has the units. All folds of a cross-validation
    have the same choice.
    """
    if configuration.training.initial_model != AUTO:
        return configuration
    files = [*csvs.train, *csvs.eval] if configuration.training.fold else csvs.train
    rows = [row for file in files for row in file.rows]
    # As many lines as wanted can be drawn by a recipe: they say nothing about what the user has.
    real = sum(len(file.rows) for file in files if not generated_lines.is_recipe(file.path))
    units = {unit for row in rows for unit in csv_files.units_of(row, configuration.data)}
    choice = suitable(units, real, configuration)
    if choice.line:
        logger.info(choice.line)
    values: dict[str, object] = {INITIAL_MODEL: choice.name}
    own_alphabet = csvs.alphabet is not None and INITIAL_ALPHABET not in config.set_keys(configuration)
    if choice.name is not None and own_alphabet:
        # The alphabet of the user stays as it is.
        values[INITIAL_ALPHABET] = "new"
    return config.completed(configuration, values)


def as_before(configuration: Configuration, before: Mapping[str, object]) -> Configuration:
    """Return the configuration of a resumed run, in which `auto` stands for what it stood for when the run started.

    Args:
        configuration: The configuration of the command that resumes the run.
        before: The values of `CHOSEN_KEYS` when the run started. A run of an earlier version, which lacks them, has
            started from random weights.
    """
    if configuration.training.initial_model != AUTO:
        return configuration
    values: dict[str, object] = {INITIAL_MODEL: before.get(INITIAL_MODEL)}
    has_model, is_set = values[INITIAL_MODEL] is not None, INITIAL_ALPHABET in config.set_keys(configuration)
    if has_model and not is_set and INITIAL_ALPHABET in before:
        values[INITIAL_ALPHABET] = before[INITIAL_ALPHABET]
    return config.completed(configuration, values)


@dataclass(frozen=True)
class Choice:
    """Which of the models suits a run."""

    name: str | None = None
    """Its name, or None."""
    line: str | None = None
    """What the user should know about it."""


def suitable(units: Collection[str], rows: int, configuration: Configuration) -> Choice:
    """Return which of the models suits a run that may start from any.

    Args:
        units: The different units of the labels.
        rows: Number of rows to train on, without those that a recipe draws.
        configuration: The configuration of the run.
    """
    for name in NAMES:
        folder = Path(directory_of(name))
        own = model_files.configuration_of(folder, name, ())
        alphabet = Alphabet.load(folder / model_files.ALPHABET, own.data.unicode_form)
        known = [unit for unit in units if unit in alphabet]
        letters = sum(unit.isalpha() for unit in known)
        if len(known) < LEAST_KNOWN * len(units) or letters < LEAST_LETTERS:
            continue
        has = f"{name}, a model that comes with raycrnn, has {len(known)} of the {len(units)} units of the labels"
        others = _needs_another(configuration, own)
        if rows > MOST_ROWS and others:
            return Choice()
        if rows > MOST_ROWS:
            return Choice(
                line=f"{has}: with more than {MOST_ROWS:,} rows, training starts from random weights "
                f"(training.initial_model={name}: from it)"
            )
        if others:
            return Choice(
                line=f"{has}: starting from it usually leads to fewer errors in fewer epochs; for that, remove "
                f"{', '.join(others)}"
            )
        return Choice(name, f"{has}: training starts from it (training.initial_model=null: from random weights)")
    return Choice()


def _needs_another(configuration: Configuration, model: Configuration) -> list[str]:
    """Return the keys that a configuration sets and for which a run cannot start from a model."""
    keys = [conflict.key for conflict in network_keys.conflicts(configuration, model)]
    form = "data.unicode_form"
    if form in config.set_keys(configuration) and configuration.data.unicode_form != model.data.unicode_form:
        keys.append(form)
    return list(dict.fromkeys(keys))
