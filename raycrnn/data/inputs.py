"""The images that names on a command line stand for: files, folders, URIs, and the rows of CSV files."""

import itertools
import logging
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from raycrnn import storage
from raycrnn.config import Data
from raycrnn.data import csv_files
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)

JPEG, NETPBM = (".jpg", ".jpeg", ".jpe", ".jfif"), (".pbm", ".pgm", ".ppm", ".pnm")
SUFFIXES = (*JPEG, *NETPBM, ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2")
"""Suffixes of the files in a folder that are read as images."""

INPUTS = pa.schema({"name": pa.string(), "path": pa.binary(), "problem": pa.string()})
"""Columns of a table of images: the name as the user gave it; the absolute path or URI, as bytes because file names
need not be valid text; why the image's CSV row is malformed, usually null. For millions of images, an Arrow table
takes a fraction of the memory of Python objects."""

ROWS_PER_BATCH = 10_000

Input = tuple[str, str, str | None]
"""A row of `INPUTS`, with the path as a string and not yet absolute."""


def list_inputs(names: Sequence[str], settings: Data) -> pa.Table:
    """List the images that names stand for.

    Args:
        names: Paths or URIs of images, of folders, which are searched for images, or of CSV files.
        settings: The delimiter and encoding of CSV files.

    Returns:
        A table with the columns of `INPUTS`, in the order of the names, and by name within a folder.

    Raises:
        UsageError: There are no images, or a CSV file or a URI cannot be read.
    """
    table = to_table(row for name in names for row in _inputs_of(name, settings))
    if not len(table):
        what = f"no images in {', '.join(names)}" if names else "name images, folders or CSV files"
        raise UsageError(f"nothing to read: {what}")
    return table


def to_table(inputs: Iterator[Input]) -> pa.Table:
    """Return a table with the columns of `INPUTS`."""
    batches = []
    while rows := list(itertools.islice(inputs, ROWS_PER_BATCH)):
        names, paths, problems = zip(*rows, strict=True)
        columns = [
            pa.array(names, pa.string()),
            pa.array(map(_absolute, paths), pa.binary()),
            pa.array(problems, pa.string()),
        ]
        batches.append(pa.record_batch(columns, INPUTS))
    return pa.Table.from_batches(batches, INPUTS)


def _absolute(path: str) -> bytes:
    return os.fsencode(path if storage.is_uri(path) else os.path.join(os.getcwd(), path))


def _inputs_of(name: str, settings: Data) -> Iterator[Input]:
    # A URI can have options after its name.
    suffix = os.path.splitext(name.partition("?")[0] if storage.is_uri(name) else name)[1].lower()
    if suffix == ".csv":
        file = csv_files.CsvFile(name, [])
        for row in csv_files.iter_rows(name, settings.csv_delimiter, settings.encoding):
            yield row.path, file.resolve(row.path), row.problem
    elif storage.is_uri(name) and suffix not in SUFFIXES:
        for path in _images_below(name):
            yield path, path, None
    elif os.path.isdir(name):
        for path in _images_in(Path(name)):
            yield printable(path), path, None
    else:
        yield printable(name), name, None


def _images_below(uri: str) -> Iterator[str]:
    """Yield the URIs of the images below a URI, sorted by name."""
    try:
        names = sorted(storage.names(uri))
    except OSError as error:
        raise UsageError(f"{uri}: cannot be read: {storage.describe(error)}") from None
    for name in names:
        if os.path.splitext(name)[1].lower() in SUFFIXES:
            yield storage.join(uri, *name.split("/"))


def _images_in(folder: Path) -> Iterator[str]:
    """Yield the paths of the images in a folder and its subfolders, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            children = sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries)
    except OSError as error:
        logger.warning(f"{printable(folder)}: the folder cannot be read: {error.strerror}")
        return
    for name, is_folder, is_link in children:
        if is_folder and is_link:
            # The link may lead to a folder that contains it, or to the whole disk.
            logger.warning(f"{printable(folder / name)}: skipped, because it is a link to a folder; name it to read it")
        elif is_folder:
            yield from _images_in(folder / name)
        elif os.path.splitext(name)[1].lower() in SUFFIXES:
            yield str(folder / name)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or to a folder without permission. If it is named like an image, reading it fails later.
        return False


def is_one_of(location: str | os.PathLike, names: Iterable[str | bytes]) -> bool:
    """Return whether a file is among the files that paths and URIs refer to, through links or other names as well."""
    own = _identity(os.fspath(location))
    return own is not None and any(_identity(os.fsdecode(name)) == own for name in names)


def _identity(name: str) -> tuple[Hashable, Hashable] | None:
    """Return a value that is equal for all names of one file, or None if there is no such file."""
    with suppress(OSError, ValueError):
        if storage.is_uri(name) and not name.startswith("file:"):
            filesystem, key = storage.locate(name)
            return filesystem.type_name, key
        status = os.stat(storage.locate(name)[1] if storage.is_uri(name) else name)
        return status.st_dev, status.st_ino
    return None


def printable(path: str | Path) -> str:
    """Return a path as text, with bytes that are not valid text escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
