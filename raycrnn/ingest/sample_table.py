"""CSV -> rows in Ray's object store: labels encoded, images measured, what cannot be used told apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import ray

from raycrnn import config, storage
from raycrnn.data import csv_files, image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.csv_files import UNKNOWN
from raycrnn.data.rejections import Rejected, Rejection

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
"""`row` numbers all rows of all CSVs, so that one left out does not shift the others' augmentation; `source` is the
number of the CSV, `frames` what the label needs at least, `width` the fitted image's in pixels."""

ROWS_PER_MEASURING_TASK = 20_000
"""Opening an image's header takes some 0.1 ms: larger sets are measured by several tasks."""


@dataclass(frozen=True)
class SampleTable:
    """The usable rows of one or more CSVs, in the object store. Small itself, and safe to send anywhere."""

    table: ray.ObjectRef
    csvs: tuple[str, ...]
    rows: int
    usable: int
    """rows less those rejected at once"""
    mean_width: float
    """of the fitted images in pixels"""
    decoded_bytes: int
    """that all images take as `image.begin` makes them, at most; of those behind a URI the greatest is assumed"""
    rejections: tuple[Rejection, ...]
    """rows that the label or the image's header rules out"""
    warnings: tuple[str, ...]


def put_samples(
    files: Sequence[csv_files.CsvFile], alphabet: Alphabet, settings: config.Configuration, training: bool
) -> SampleTable:
    """Encode the labels, measure the images and put the rows into the object store.

    In training a row without a usable label is rejected. In evaluation only a malformed row is; unknown units
    are kept as `samples.UNKNOWN` and cost errors. Images are opened as far as their header.
    """
    pairs = [(source, row) for source, file in enumerate(files) for row in file.rows]
    paths = [files[source].resolve(row.path) for source, row in pairs]
    sizes = _measure_all(paths)
    shape = settings.image.input_shape
    augmented = settings.augmentation.data_augmentation
    columns: dict[str, list] = {name: [] for name in SAMPLES.names}
    rejections, decoded = [], 0
    for number, ((source, row), path, size) in enumerate(zip(pairs, paths, sizes, strict=True)):
        try:
            codes = _codes(row, alphabet, settings.data, training)
            if isinstance(size, Rejected):
                raise size
            # A request for each image behind a URI before the first step would cost more than padding does.
            width = shape[1] if size is None else image.fitted_width(size, shape)
            frames = csv_files.min_frames(codes)
            if training:
                check_frames(len(codes), frames, width)
            for name, value in zip(SAMPLES.names, (number, path, source, row.line, codes, frames, width), strict=True):
                columns[name].append(value)
            decoded += image.decoded_pixels(size or (2 * shape[1], 2 * shape[0]), shape, augmented)
        except Rejected as rejected:
            rejections.append(Rejection(files[source].path, row.line, row.path, rejected.reason, rejected.detail))
    table = pa.table(columns, SAMPLES)
    return SampleTable(
        table=ray.put(table),
        csvs=tuple(file.path for file in files),
        rows=len(pairs),
        usable=len(table),
        mean_width=pc.mean(table["width"]).as_py() or 0.0,
        decoded_bytes=decoded * settings.image.input_channels,
        rejections=tuple(rejections),
        warnings=_warnings(files, settings.data.string_split_delimiter),
    )


def some_paths(sample_set: SampleTable, count: int) -> list[str]:
    """Paths of about so many of a set's images, from all over it."""
    paths = ray.get(sample_set.table)["path"]
    return [str(paths[place]) for place in range(0, len(paths), max(1, len(paths) // count))]


def _warnings(files: Sequence[csv_files.CsvFile], split_delimiter: str) -> tuple[str, ...]:
    return tuple(
        f"{file.path}: some labels begin with {split_delimiter!r} and are sequences of units, others "
        "are plain text: is that meant?"
        for file in files
        if csv_files.mixes_label_forms(file.rows, split_delimiter)
    )


def _codes(row: csv_files.Row, alphabet: Alphabet, settings: config.Data, training: bool) -> list[int]:
    if row.problem:
        raise Rejected("malformed row", row.problem)
    units = csv_files.split_label(row.label or "", settings.string_split_delimiter, settings.unicode_form)
    if not training:
        return [alphabet.encode([unit])[0] if unit in alphabet else UNKNOWN for unit in units]
    if not units:
        raise Rejected("empty label", "no units")
    try:
        return alphabet.encode(units)
    except ValueError as error:
        raise Rejected("unknown unit", str(error)) from None


Size = tuple[int, int]


def _measure_all(paths: Sequence[str]) -> list[Size | Rejected | None]:
    """Width and height of each image in pixels, None behind a URI, or why there is none."""
    if len(paths) <= ROWS_PER_MEASURING_TASK:
        return _measure(paths)
    starts = range(0, len(paths), ROWS_PER_MEASURING_TASK)
    # Ray's default, a whole CPU, may not be free beside other runs; none at all may be had on a head too.
    measure: Callable = ray.remote(num_cpus=0.1)(_measure).remote
    chunks = [measure(paths[start : start + ROWS_PER_MEASURING_TASK]) for start in starts]
    return [size for chunk in chunks for size in ray.get(chunk)]


def _measure(paths: Sequence[str]) -> list[Size | Rejected | None]:
    sizes: list[Size | Rejected | None] = []
    for path in paths:
        try:
            sizes.append(None if storage.is_uri(path) else image.measure(path))
        except Rejected as rejected:
            sizes.append(rejected)
    return sizes


def check_frames(units: int, needed: int, width: int) -> None:
    """Raises `Rejected` if an image of this width has fewer frames than a label of so many units needs."""
    available = image.frames(width)
    if needed > available:
        raise Rejected("label too long", f"{units} units need {needed} frames, {width} pixels give {available}")
