"""Tables of samples in Ray's object store: labels encoded, images measured, unusable rows listed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from raycrnn import config
from raycrnn.data import bidi, csv_files, csv_warnings, generated_lines, image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.bidi import TextDirection
from raycrnn.data.csv_files import UNKNOWN
from raycrnn.data.orientation import horizontal_size
from raycrnn.data.rejections import Rejected, Rejection
from raycrnn.data.unusual_images import UnusualImages
from raycrnn.ingest import packed_files
from raycrnn.ingest.image_sizes import ImageSizes
from raycrnn.ingest.packed_files import PackedFiles

SAMPLES = pa.schema(
    {
        "row": pa.int64(),
        "path": pa.string(),
        "source": pa.int32(),
        "line": pa.int32(),
        "codes": pa.list_(pa.int32()),
        "frames": pa.int32(),
        "width": pa.int32(),
    }
)
"""Schema of a sample table. `row` is the number of the row among all rows of all CSVs, so that a row that is left out
does not change the augmentation of the others. `source` is the number of the CSV, `frames` the number of frames that
the label needs at least, and `width` the width of the fitted image in pixels."""

UNITS_PER_WARNING = 20


@dataclass(frozen=True)
class SampleTable:
    """The usable rows of one or more CSVs, in the object store. Small itself; can be sent to any process."""

    table: ray.ObjectRef
    """A table with the schema `SAMPLES`."""
    csv_paths: tuple[str, ...]
    rows: int
    """Number of rows in the CSVs."""
    usable: int
    """Number of rows in the table, without the rejected ones."""
    rows_of_source: tuple[int, ...]
    """Number of rows of each CSV in the table."""
    endless: tuple[bool, ...]
    """Whether each CSV is a recipe, whose rows are generated."""
    mean_width: float
    """Mean width of the fitted images in pixels."""
    decoded_bytes: int
    """Bytes that all images take after `image.decode_and_limit`, without generated ones."""
    packed: PackedFiles
    """The files of packed data sets that are in the object store."""
    rejections: tuple[Rejection, ...]
    """Rows that cannot be used, by their label or by the header of their image."""
    warnings: tuple[str, ...]


def put_samples(
    files: Sequence[csv_files.CsvFile],
    alphabet: Alphabet | None,
    settings: config.Configuration,
    direction: TextDirection = "visual",
    training: bool = True,
    sizes: ImageSizes | None = None,
) -> tuple[SampleTable, Alphabet]:
    """Encode the labels, measure the images and put the rows into the object store.

    Images are read only as far as their header.

    Args:
        files: The CSVs.
        alphabet: Codes of the units; None to build it from the labels of the usable rows.
        settings: The run's configuration.
        direction: Direction of the labels' text. Codes are in display order.
        training: Reject rows without a usable label. Otherwise only malformed rows are rejected, and unknown units
            become `csv_files.UNKNOWN`, which counts as an error.
        sizes: Measures the images; None to measure all of them and keep nothing.

    Returns:
        The table and the alphabet. If no row is usable, the alphabet has the units of all labels.

    Raises:
        StorageError: Object storage fails while images are measured.
    """
    rows = _check_rows(files, alphabet, settings, direction, training, sizes or ImageSizes())
    if alphabet is None:
        labels = (csv_files.units_of(row, settings.data) for file in files for row in file.rows)
        alphabet = Alphabet.from_labels(rows.labels or labels)
    alphabet = replace(alphabet, text_direction=direction)
    codes = [alphabet.encode_known(units, UNKNOWN) for units in rows.labels]
    table = pa.table({**rows.columns, "codes": codes}, SAMPLES)
    warnings = [warning for file in files for warning in csv_warnings.warnings_of(file, settings.data, direction)]
    if not training:
        warnings += _unknown_units(rows.labels, alphabet)
    warnings += [f"{'train' if training else 'eval'} set: {warning}" for warning in rows.unusual.warnings()]
    samples = SampleTable(
        table=ray.put(table),
        csv_paths=tuple(file.path for file in files),
        rows=sum(len(file.rows) for file in files),
        usable=len(table),
        rows_of_source=tuple(np.bincount(table["source"].to_numpy(), minlength=len(files)).tolist()),
        endless=tuple(generated_lines.is_recipe(file.path) for file in files),
        mean_width=pc.mean(table["width"]).as_py() or 0.0,
        decoded_bytes=rows.decoded_pixels * settings.image.input_channels,
        packed=packed_files.put(table["path"].to_pylist()),
        rejections=tuple(rows.rejections),
        warnings=tuple(warnings),
    )
    return samples, alphabet


@dataclass
class CheckedRows:
    """The rows of CSVs: the usable ones by column, and the rejected ones."""

    unusual: UnusualImages
    columns: dict[str, list[object]] = field(
        default_factory=lambda: {name: [] for name in SAMPLES.names if name != "codes"}
    )
    """The columns of `SAMPLES`, without the codes."""
    labels: list[tuple[str, ...]] = field(default_factory=list)
    """The units of each usable row in display order."""
    rejections: list[Rejection] = field(default_factory=list)
    decoded_pixels: int = 0
    """Pixels that all images have after `image.decode_and_limit`, without generated ones."""


def _check_rows(
    files: Sequence[csv_files.CsvFile],
    alphabet: Alphabet | None,
    settings: config.Configuration,
    direction: TextDirection,
    training: bool,
    sizes: ImageSizes,
) -> CheckedRows:
    """Measure the images and check the labels. The arguments are those of `put_samples`."""
    pairs = [(source, row) for source, file in enumerate(files) for row in file.rows]
    paths = [files[source].resolve(row) for source, row in pairs]
    shape, augmented = settings.image.input_shape, settings.augmentation.data_augmentation
    orientation = settings.data.line_orientation
    checked = CheckedRows(UnusualImages(shape, orientation))
    measured = iter(sizes.measure([path for (_, row), path in zip(pairs, paths, strict=True) if row.size is None]))
    for number, ((source, row), path) in enumerate(zip(pairs, paths, strict=True)):
        size = row.size or next(measured)
        try:
            units = _units(row, alphabet, settings.data, direction, training)
            if isinstance(size, Rejected):
                raise size
            width = image.fitted_width(horizontal_size(size, orientation), shape)
            checked.unusual.add(row.path, size, len(units))
            frames = csv_files.min_frames(units)
            if training:
                check_frames(len(units), frames, width)
        except Rejected as rejected:
            rejection = Rejection(files[source].path, row.line, row.path, rejected.reason, rejected.detail)
            checked.rejections.append(rejection)
            continue
        values = (number, path, source, row.line, frames, width)
        for column, value in zip(checked.columns.values(), values, strict=True):
            column.append(value)
        checked.labels.append(units)
        if not generated_lines.is_recipe(files[source].path):
            checked.decoded_pixels += image.decoded_pixels(horizontal_size(size, orientation), shape, augmented)
    return checked


def some_paths(samples: SampleTable, count: int) -> list[str]:
    """Return the paths of about `count` images, evenly spread over a table."""
    paths = ray.get(samples.table)["path"]
    return [str(paths[index]) for index in range(0, len(paths), max(1, len(paths) // count))]


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


def _unknown_units(labels: Sequence[Sequence[str]], alphabet: Alphabet) -> list[str]:
    """Return a warning if labels of the evaluation set have units that the alphabet lacks."""
    unknown = [{unit for unit in units if unit not in alphabet} for units in labels]
    rows = sum(map(bool, unknown))
    if not rows:
        return []
    units = sorted(set().union(*unknown))
    listed = ", ".join(map(repr, units[:UNITS_PER_WARNING]))
    more = f" and {len(units) - UNITS_PER_WARNING:,} more" if len(units) > UNITS_PER_WARNING else ""
    return [
        f"{rows:,} of {len(labels):,} evaluation rows have units that the alphabet lacks ({listed}{more}): the model "
        "cannot read these units, and each counts as an error: add training rows with them"
    ]


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
