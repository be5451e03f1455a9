"""Read the texts that language models are estimated from, and put them into the order in which networks read them."""

from collections.abc import Sequence

from raycrnn import config, storage
from raycrnn.data import csv_files, generated_lines
from raycrnn.data.bidi import TextDirection, direction_of, display_order
from raycrnn.data.image_files import has_image_suffix
from raycrnn.errors import UsageError

Line = tuple[str, ...]
"""The units of a line."""


def read_lines(path: str, settings: config.Data) -> list[Line]:
    """Return the units of the lines in a text file, or of the labels in a CSV, a packed data set or a recipe.

    A file is a CSV if its name ends in .csv or .tsv. The lines of a text file are read like labels. Empty lines and
    labels, and malformed rows, are left out.

    Args:
        path: Path or URI.
        settings: How CSVs and labels are read.

    Raises:
        UsageError: The file cannot be read, or has no text.
    """
    name = (path.partition("?")[0] if storage.is_uri(path) else path).lower()
    if name.endswith((".csv", ".tsv", ".parquet")) or generated_lines.is_recipe(name) or storage.is_folder(path):
        (file,) = csv_files.read_labelled_csvs([path], settings)
        lines = [csv_files.units_of(row, settings) for row in file.rows if not row.problem]
    else:
        text, _ = csv_files.read_text(path, settings.encoding, kind="text", remedy="save it as plain text")
        labels = list(csv_files.split_lines(text))
        _check_no_csv(path, labels[0], settings)
        form, delimiter = settings.unicode_form, settings.string_split_delimiter
        lines = [csv_files.split_label(label, delimiter, form) for label in labels]
    lines = [line for line in lines if line]
    if not lines:
        raise UsageError(f"{path}: has no text")
    return lines


def _check_no_csv(path: str, line: str, settings: config.Data) -> None:
    """Raise a `UsageError` if the first line of a text file looks like a row of a CSV."""
    remedies = {"\t": "name it .tsv and set data.csv_delimiter=tab", settings.csv_delimiter: "name it so"}
    for delimiter, remedy in remedies.items():
        if has_image_suffix(line.partition(delimiter)[0]):
            raise UsageError(f"{path}: its first line begins with the name of an image: if it is a CSV, {remedy}")


def in_display_order(lines: Sequence[Line], direction: TextDirection) -> list[Line]:
    """Return lines with their units in the order in which they stand in images, from left to right."""
    return [display_order(line, direction) for line in lines]


def resolve_direction(lines: Sequence[Line], settings: config.Data) -> TextDirection:
    """Return the direction that the setting `data.text_direction` means for some lines."""
    if settings.text_direction == "auto":
        return direction_of(map("".join, lines))
    return settings.text_direction
