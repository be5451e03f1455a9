"""Tables of samples in Ray's object store: labels encoded, images measured, unusable rows listed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from raycrnn import config
from raycrnn.data import csv_files, csv_warnings, generated_lines, usable_rows
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.bidi import TextDirection
from raycrnn.data.csv_files import UNKNOWN
from raycrnn.data.rejections import Rejected, Rejection
from raycrnn.data.usable_rows import Size
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

    def without_lists(self) -> "SampleTable":
        """Return the same table for tasks, which do not need the rejections and warnings. These may be long."""
        return replace(self, rejections=(), warnings=())


def put_samples(
    files: Sequence[csv_files.CsvFile],
    alphabet: Alphabet | None,
    settings: config.Configuration,
    direction: TextDirection = "visual",
    training: bool = True,
    sizes: ImageSizes | None = None,
    more_units: Sequence[str] = (),
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
        more_units: Units that an alphabet built from the labels has besides theirs.

    Returns:
        The table and the alphabet. If no row is usable, the alphabet has the units of all labels.

    Raises:
        StorageError: Object storage fails while images are measured.
    """
    measured = _measure(files, sizes or ImageSizes())
    rows = usable_rows.check_rows(files, alphabet, settings, direction, training, measured)
    if alphabet is None:
        labels = (csv_files.units_of(row, settings.data) for file in files for row in file.rows)
        alphabet = Alphabet.from_labels([*(rows.labels or labels), more_units])
    alphabet = replace(alphabet, text_direction=direction)
    codes = [alphabet.encode_known(units, UNKNOWN) for units in rows.labels]
    table = pa.table({**rows.columns, "path": rows.paths, "codes": codes}, SAMPLES)
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
        packed=packed_files.put(rows.paths),
        rejections=tuple(rows.rejections),
        warnings=tuple(warnings),
    )
    return samples, alphabet


def _measure(files: Sequence[csv_files.CsvFile], sizes: ImageSizes) -> Iterator[Size | Rejected]:
    """Yield the size of the image of each row. Packed data sets have the sizes of their images."""
    known = [row.size for file in files for row in file.rows]
    paths = usable_rows.paths_of(files)
    measured = iter(sizes.measure([path for path, size in zip(paths, known, strict=True) if size is None]))
    return (size or next(measured) for size in known)


def some_paths(samples: SampleTable, count: int) -> list[str]:
    """Return the paths of about `count` images, evenly spread over a table."""
    paths = ray.get(samples.table)["path"]
    return [str(paths[index]) for index in range(0, len(paths), max(1, len(paths) // count))]


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
