"""Which rows of CSVs can be used, by their labels and the sizes of their images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from raycrnn import config
from raycrnn.data import bidi, csv_files, generated_lines, image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.bidi import TextDirection
from raycrnn.data.orientation import horizontal_size
from raycrnn.data.rejections import Rejected, Rejection
from raycrnn.data.unusual_images import UnusualImages

Size = tuple[int, int]
"""Upright width and height of an image in pixels."""

COLUMNS = ("row", "source", "line", "frames", "width")
"""The columns of a usable row that are numbers, which `ingest.sample_table.SAMPLES` describes."""


@dataclass
class CheckedRows:
    """The rows of CSVs: the usable ones by column, and the rejected ones."""

    unusual: UnusualImages
    columns: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    """The values of each usable row by column: one of `COLUMNS`."""
    paths: list[str] = field(default_factory=list)
    """The absolute path or the URI of the image of each usable row."""
    labels: list[tuple[str, ...]] = field(default_factory=list)
    """The units of each usable row in display order."""
    rejections: list[Rejection] = field(default_factory=list)
    decoded_pixels: int = 0
    """Pixels that all images have after `image.decode_and_limit`, without generated ones."""


def check_rows(
    files: Sequence[csv_files.CsvFile],
    alphabet: Alphabet | None,
    settings: config.Configuration,
    direction: TextDirection,
    training: bool,
    sizes: Iterable[Size | Rejected],
) -> CheckedRows:
    """Check the labels against the alphabet and the sizes of the images.

    Args:
        files: The CSVs.
        alphabet: Codes of the units; None if they are built from the labels of the usable rows.
        settings: The run's configuration.
        direction: Direction of the labels' text.
        training: Reject rows without a usable label. Otherwise only malformed rows are rejected.
        sizes: The size of the image of each row, or why it cannot be used, in the order of `paths_of`.
    """
    pairs = [(source, row) for source, file in enumerate(files) for row in file.rows]
    shape, augmented = settings.image.input_shape, settings.augmentation.data_augmentation
    orientation = settings.data.line_orientation
    checked = CheckedRows(UnusualImages(shape, orientation))
    for number, ((source, row), path, size) in enumerate(zip(pairs, paths_of(files), sizes, strict=True)):
        try:
            units = _units(row, alphabet, settings.data, direction, training)
            if isinstance(size, Rejected):
                raise size
            checked.unusual.add(row.path, size, len(units))
            size = horizontal_size(size, orientation)
            width = image.fitted_width(size, shape)
            frames = csv_files.min_frames(units)
            if training:
                check_frames(len(units), frames, width)
        except Rejected as rejected:
            rejection = Rejection(files[source].path, row.line, row.path, rejected.reason, rejected.detail)
            checked.rejections.append(rejection)
            continue
        values = (number, source, row.line, frames, width)
        for column, value in zip(checked.columns.values(), values, strict=True):
            column.append(value)
        checked.paths.append(path)
        checked.labels.append(units)
        if not generated_lines.is_recipe(files[source].path):
            checked.decoded_pixels += image.decoded_pixels(size, shape, augmented)
    return checked


def paths_of(files: Iterable[csv_files.CsvFile]) -> list[str]:
    """Return the absolute path or the URI of the image of each row."""
    return [file.resolve(row) for file in files for row in file.rows]


def _units(
    row: csv_files.Row, alphabet: Alphabet | None, settings: config.Data, direction: TextDirection, training: bool
) -> tuple[str, ...]:
    """Return the units of a row's label in display order. Raises `Rejected` if the label cannot be used."""
    if row.problem:
        raise Rejected("malformed row", row.problem)
    units = bidi.display_order(csv_files.units_of(row, settings), direction)
    if training and not units:
        raise Rejected("empty label", "no units")
    if training and alphabet is not None:
        try:
            alphabet.encode(units)
        except ValueError as error:
            raise Rejected("unknown unit", str(error)) from None
    return units


def check_frames(units: int, needed: int, width: int) -> None:
    """Check that an image has as many frames as its label needs.

    Args:
        units: Number of units in the label.
        needed: Number of frames that the label needs.
        width: Width of the fitted image in pixels.

    Raises:
        Rejected: It has fewer.
    """
    available = image.frames(width)
    if needed > available:
        raise Rejected("label too long", f"{units} units need {needed} frames, {width} pixels give {available}")
