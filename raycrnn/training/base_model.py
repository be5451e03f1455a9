"""Which of the models that come with raycrnn suits a new run. Importing it does not import torch."""

import logging
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
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
from raycrnn.data.unusual_images import MAX_REDUCTION
from raycrnn.model import model_files
from raycrnn.model.model_names import NAMES, directory_of
from raycrnn.training import network_keys

if TYPE_CHECKING:
    from raycrnn.data.csv_files import CsvFile
    from raycrnn.data.labelled_csvs import LabelledCsvs

logger = logging.getLogger(__name__)

MOST_ROWS = 10_000
"""Number of training rows up to which `auto` chooses such a model. With more, its gain was not measured."""

MOST_ROWS_FOR_HIGHER_IMAGES = 2_500
"""Number of training rows up to which `auto` chooses a model for higher images, with which training takes longer. With
more, its gain was not measured."""

LEAST_KNOWN = 0.7
"""Share of the units of the labels that such a model must have. It helped with number plates, of whose 44 units it has
34; with less, and with other scripts, its gain was not measured."""

LEAST_LETTERS = 20
"""Number of letters among these units. For digits alone, its gain was not measured."""

HIGHEST = 64
"""Height in `image.input_shape` up to which `auto` chooses a model, whose weights are adapted to it. With more, the
gain was not measured."""

MOST_MEASURED = 100
"""Number of images by which their usual height is judged."""

INITIAL_MODEL = "training.initial_model"

INITIAL_ALPHABET = "training.initial_alphabet"

INPUT_SHAPE = "image.input_shape"

CHOSEN_KEYS = (INITIAL_MODEL, INITIAL_ALPHABET)
"""The keys that `choose` sets. A resumed run keeps the values that they had when it started."""


def choose(configuration: Configuration, csvs: "LabelledCsvs") -> Configuration:
    """Return the configuration of a new run, in which `auto` has become the model that suits it, or null.

    A line says which model was chosen, or what is in the way of one that has the units. All folds of a cross-validation
    have the same choice.

    Raises:
        StorageError: Object storage fails, in which images are measured.
    """
    if configuration.training.initial_model != AUTO:
        return configuration
    files = [*csvs.train, *csvs.eval] if configuration.training.fold else csvs.train
    # As many lines as wanted can be drawn by a recipe: they say nothing about what the user has.
    real = [file for file in files if not generated_lines.is_recipe(file.path)]
    units = {unit for file in files for row in file.rows for unit in csv_files.units_of(row, configuration.data)}
    rows = sum(len(file.rows) for file in real)
    choice = suitable(units, rows, configuration, lambda: usual_height(real, configuration))
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

    It is judged by at most `MOST_MEASURED` images, and None if the sizes of these cannot be read.

    Raises:
        StorageError: Object storage fails.
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

    def describe(self, units: Collection[str]) -> str:
        """Return what the model is, and how many of the units of some labels it has."""
        known = sum(unit in self.alphabet for unit in units)
        return f"{self.name}, a model that comes with raycrnn, has {known} of the {len(units)} units of the labels"


def suitable(
    units: Collection[str], rows: int, configuration: Configuration, measure_height: Callable[[], float | None]
) -> Choice:
    """Return which of the models suits a run that may start from any.

    Args:
        units: The different units of the labels.
        rows: Number of rows to train on, without those that a recipe draws.
        configuration: The configuration of the run.
        measure_height: Returns the usual height of the images, as `usual_height` does. It is called if it matters.
    """
    models = [model for model in map(_Candidate.read, NAMES) if model.suits(units)]
    if not models:
        return Choice()
    has = models[0].describe(units)
    others = _needs_another(configuration, models[0].configuration)
    if rows > MOST_ROWS and others:
        return Choice()
    if rows > MOST_ROWS:
        return Choice(
            line=f"{has}: with more than {MOST_ROWS:,} rows, training starts from random weights "
            f"(training.initial_model={models[0].name}: from it)"
        )
    if others:
        return Choice(
            line=f"{has}: starting from it usually leads to fewer errors in fewer epochs; for that, remove "
            f"{', '.join(others)}"
        )
    return _by_height(models, units, rows, configuration, measure_height())


def _needs_another(configuration: Configuration, model: Configuration) -> list[str]:
    """Return the keys that a configuration sets and for which a run cannot start from a model."""
    keys = [conflict.key for conflict in network_keys.conflicts(configuration, model)]
    set_keys, form = config.set_keys(configuration), "data.unicode_form"
    if form in set_keys and configuration.data.unicode_form != model.data.unicode_form:
        keys.append(form)
    if INPUT_SHAPE in set_keys and configuration.image.input_shape[0] > HIGHEST:
        keys.append(INPUT_SHAPE)
    return list(dict.fromkeys(keys))


def _by_height(
    models: Sequence[_Candidate],
    units: Collection[str],
    rows: int,
    configuration: Configuration,
    height: float | None,
) -> Choice:
    """Return the choice between models that differ only in the height to which they scale images.

    Args:
        models: In the order of these heights.
        units: The different units of the labels.
        rows: Number of rows to train on.
        configuration: The configuration of the run.
        height: The usual height of the images in pixels; None if it is unknown.
    """
    lowest, suited = models[0], _suited(models, height or 0)
    is_set, are_few = INPUT_SHAPE in config.set_keys(configuration), rows <= MOST_ROWS_FOR_HIGHER_IMAGES
    if is_set:
        model, used = _suited(models, configuration.image.input_shape[0]), configuration.image.input_shape[0]
    else:
        model = suited if are_few else lowest
        used = model.height
    line = f"{model.describe(units)}: training starts from it (training.initial_model=null: from random weights)"
    if used < suited.height and (are_few or not is_set):
        remedy = "without image.input_shape" if is_set else f"with training.initial_model={suited.name}"
        line += (
            f"; the median height of the images is {height:.0f} pixels: {remedy}, they are scaled to {suited.height} "
            f"instead of {used}, which takes longer and usually leads to fewer errors"
        )
    elif model != lowest and not is_set:
        line += (
            f"; it scales images to a height of {model.height} pixels, because their median height is {height:.0f}: "
            f"training.initial_model={lowest.name} scales them to {lowest.height}, which takes about half of the time "
            "and usually leads to more errors"
        )
    return Choice(model.name, line)


def _suited(models: Sequence[_Candidate], height: float) -> _Candidate:
    """Return the first model whose height suits images of a height, or the last one."""
    return next((model for model in models if height <= MAX_REDUCTION * model.height), models[-1])
