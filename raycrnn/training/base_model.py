"""Which of the models that come with raycrnn suits a new run. Importing it does not import torch."""

import logging
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raycrnn import config
from raycrnn.config import Configuration
from raycrnn.config.group import AUTO
from raycrnn.data import csv_files, generated_lines
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.orientation import horizontal_size
from raycrnn.data.rejections import Rejected
from raycrnn.model import model_files
from raycrnn.model.model_names import NAMES, directory_of
from raycrnn.training import network_keys

if TYPE_CHECKING:
    from raycrnn.data.csv_files import CsvFile
    from raycrnn.data.labelled_csvs import LabelledCsvs

logger = logging.getLogger(__name__)

MOST_ROWS = 10_000
"""Number of training rows up to which `auto` chooses such a model. With more, its gain was not measured."""

LEAST_KNOWN = 0.7
"""Share of the units of the labels that such a model must have. It helped with number plates, of whose 44 units it has
34; with less, and with other scripts, its gain was not measured."""

LEAST_LETTERS = 20
"""Number of letters among these units. For digits alone, its gain was not measured."""

MAX_REDUCTION = 4 / 3
"""An image may be this many times as high as the input before a greater height suits it better."""

MOST_MEASURED = 100
"""Number of images by which their usual height is judged."""

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
    # As many lines as wanted can be drawn by a recipe: they say nothing about what the user has.
    real = [file for file in files if not generated_lines.is_recipe(file.path)]
    units = {unit for file in files for row in file.rows for unit in csv_files.units_of(row, configuration.data)}
    choice = suitable(units, sum(len(file.rows) for file in real), configuration, usual_height(real, configuration))
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


def usual_height(files: "Sequence[CsvFile]", configuration: Configuration) -> float | None:
    """Return the median height of the images of some rows, in pixels, after they have been turned to run horizontally.

    None if the sizes of these images cannot be read. Raises `StorageError` if object storage fails.
    """
    from raycrnn.ingest.image_sizes import ImageSizes

    # Sorted, so that all folds measure the same images.
    known = {file.resolve(row): row.size for file in files for row in file.rows if not row.problem}
    paths = sorted(known)[:: -(-len(known) // MOST_MEASURED) or 1]
    measured = ImageSizes().measure([path for path in paths if known[path] is None])
    sizes = [
        size for size in (*map(known.get, paths), *measured) if size is not None and not isinstance(size, Rejected)
    ]
    heights = [horizontal_size(size, configuration.data.line_orientation)[1] for size in sizes]
    return statistics.median(heights) if heights else None


@dataclass(frozen=True)
class _Candidate:
    """A model that comes with raycrnn."""

    name: str
    configuration: Configuration
    alphabet: Alphabet

    @classmethod
    def read(cls, name: str) -> "_Candidate":
        folder = Path(directory_of(name))
        configuration = model_files.configuration_of(folder, name, ())
        alphabet = Alphabet.load(folder / model_files.ALPHABET, configuration.data.unicode_form)
        return cls(name, configuration, alphabet)

    @property
    def height(self) -> int:
        return self.configuration.image.input_shape[0]

    def suits(self, units: Collection[str]) -> bool:
        """Return whether the model has enough of the units of some labels."""
        known = [unit for unit in units if unit in self.alphabet]
        return len(known) >= LEAST_KNOWN * len(units) and sum(unit.isalpha() for unit in known) >= LEAST_LETTERS


def suitable(units: Collection[str], rows: int, configuration: Configuration, height: float | None) -> Choice:
    """Return which of the models suits a run that may start from any.

    Args:
        units: The different units of the labels.
        rows: Number of rows to train on, without those that a recipe draws.
        configuration: The configuration of the run.
        height: The usual height of the images in pixels; None if it is unknown.
    """
    models = [model for model in map(_Candidate.read, NAMES) if model.suits(units)]
    if not models:
        return Choice()
    model, why = _of_height(models, configuration, height)
    known = sum(unit in model.alphabet for unit in units)
    has = f"{model.name}, a model that comes with raycrnn, has {known} of the {len(units)} units of the labels"
    others = _needs_another(configuration, model.configuration)
    if rows > MOST_ROWS and others:
        return Choice()
    if rows > MOST_ROWS:
        return Choice(
            line=f"{has}: with more than {MOST_ROWS:,} rows, training starts from random weights "
            f"(training.initial_model={model.name}: from it)"
        )
    if others:
        return Choice(
            line=f"{has}: starting from it usually leads to fewer errors in fewer epochs; for that, remove "
            f"{', '.join(others)}"
        )
    return Choice(model.name, f"{has}: training starts from it (training.initial_model=null: from random weights){why}")


def _of_height(models: list[_Candidate], configuration: Configuration, height: float | None) -> tuple[_Candidate, str]:
    """Return the model whose images have the height that suits a run, and the reason if it is not the smallest one."""
    lowest, *higher = models
    is_set = "image.input_shape" in config.set_keys(configuration)
    wanted = configuration.image.input_shape[0] if is_set else height or 0
    if not higher or wanted <= MAX_REDUCTION * lowest.height:
        return lowest, ""
    model = next((each for each in higher if wanted <= MAX_REDUCTION * each.height), higher[-1])
    if is_set:
        return model, ""
    return model, (
        f"; it reads images at a height of {model.height} pixels, because these are {wanted:.0f} high (median). "
        f"training.initial_model={lowest.name} reads them at {lowest.height}, in half of the time and with more errors"
    )


def _needs_another(configuration: Configuration, model: Configuration) -> list[str]:
    """Return the keys that a configuration sets and for which a run cannot start from a model."""
    keys = [conflict.key for conflict in network_keys.conflicts(configuration, model)]
    form = "data.unicode_form"
    if form in config.set_keys(configuration) and configuration.data.unicode_form != model.data.unicode_form:
        keys.append(form)
    return list(dict.fromkeys(keys))
