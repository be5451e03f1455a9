"""Synthetic lines as the images of a training set: an endless source, because each pass over them looks different.

A recipe of `raycrnn words`, a JSON file, stands for `LINES` texts. The path of an image is `RECIPE.json#ROW`, or
`RECIPE.json#ROW.VARIANT`: the text and the size depend on the row, and the look on the row and the variant.
"""

import io
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from raycrnn import storage

if TYPE_CHECKING:
    from raycrnn.data.synthetic.generator import LineGenerator

LINES = 10_000
"""Number of texts that a recipe stands for. Their sizes are computed when training starts, which takes seconds."""

SEED = 0
"""Seed of the texts and of the looks. A change of the training seed changes their order."""

REFERENCE = re.compile(r"(?P<recipe>.*\.json)#(?P<row>\d+)(?:\.(?P<variant>\d+))?", re.DOTALL)


class GeneratedLine(NamedTuple):
    """A line of a recipe in one of its variants."""

    recipe: str
    row: int
    variant: int = 0


def is_recipe(path: str) -> bool:
    """Return whether a path is that of a recipe."""
    return path.lower().endswith(".json")


def parse_reference(path: str) -> GeneratedLine | None:
    """Return the line that a path names, or None if it is the path of a file."""
    match = REFERENCE.fullmatch(path)
    return GeneratedLine(match["recipe"], int(match["row"]), int(match["variant"] or 0)) if match else None


def with_variant(path: str, variant: int) -> str:
    """Return the path of another variant of a line; the path of a file unchanged."""
    line = parse_reference(path)
    return path if line is None else f"{line.recipe}#{line.row}.{variant}"


def read_rows(recipe: str) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Yield the path, the label and the size, (width, height) in pixels, of each line of a recipe.

    Raises:
        UsageError: The recipe cannot be read, or stands for no lines.
    """
    recipe = storage.absolute(recipe)
    generator = _generator(recipe)
    for row in range(LINES):
        yield f"{recipe}#{row}", *generator.describe(row)


def sources_of(recipe: str) -> list[str]:
    """Return the files and folders on a disk that the lines of a recipe are drawn from: itself, its texts and fonts.

    Raises:
        UsageError: The recipe cannot be read.
    """
    from raycrnn.data.synthetic import recipe as recipes

    settings = recipes.load(recipe)
    return [path for path in (recipe, *settings.text.files, *settings.fonts.files) if not storage.is_uri(path)]


def draw(line: GeneratedLine) -> bytes:
    """Return a line as the bytes of an image file. Raises `UsageError`."""
    file = io.BytesIO()
    # The fastest format to write and to read.
    _generator(line.recipe).draw(line.row, line.variant).save(file, "PPM")
    return file.getvalue()


@lru_cache(maxsize=8)
def _generator(recipe: str) -> "LineGenerator":
    from raycrnn.data.synthetic import generator
    from raycrnn.data.synthetic import recipe as recipes

    return generator.LineGenerator(recipes.load(recipe), SEED)
