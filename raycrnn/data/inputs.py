"""What there is to read: the images that files, folders and CSVs name, as tables of Arrow."""

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycrnn import storage
from raycrnn.config import Data
from raycrnn.data import csv_files
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)


JPEG, NETPBM = (".jpg", ".jpeg", ".jpe", ".jfif"), (".pbm", ".pgm", ".ppm", ".pnm")
SUFFIXES = (*JPEG, *NETPBM, ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2")
"""What of a folder is read as an image."""

INPUTS = pa.schema({"shown": pa.string(), "path": pa.binary(), "problem": pa.string()})
"""An image to read: as the user gave it; as the file system takes it anywhere, in bytes, which file names are; what is
malformed in its row of a CSV, null mostly. As Arrow, for millions of Python's objects would fill the memory."""

INPUTS_AT_A_TIME = 10_000


def list_inputs(names: Sequence[str], settings: Data) -> pa.Table:
    """The images that names stand for, in order. Raises `UsageError` where there is nothing to read."""
    table = to_table(each for name in names for each in _inputs_of(name, settings))
    if not len(table):
        what = f"{', '.join(names)} hold no images" if names else "name images, folders or CSVs"
        raise UsageError(f"nothing to read: {what}")
    return table


def to_table(inputs: Iterator[tuple[str, str, str | None]]) -> pa.Table:
    batches = []
    while some := list(itertools.islice(inputs, INPUTS_AT_A_TIME)):
        shown, paths, problems = zip(*some, strict=True)
        columns = [
            pa.array(shown, pa.string()),
            pa.array(map(_absolute, paths), pa.binary()),
            pa.array(problems, pa.string()),
        ]
        batches.append(pa.record_batch(columns, INPUTS))
    return pa.Table.from_batches(batches, INPUTS)


def _absolute(path: str) -> bytes:
    return os.fsencode(path if storage.is_uri(path) else os.path.join(os.getcwd(), path))


def _inputs_of(name: str, settings: Data) -> Iterator[tuple[str, str, str | None]]:
    # The options of a URI are not part of its name.
    suffix = os.path.splitext(name.partition("?")[0] if storage.is_uri(name) else name)[1].lower()
    if suffix == ".csv":
        file = csv_files.CsvFile(name, [])
        for row in csv_files.iter_rows(name, settings.csv_delimiter, settings.encoding):
            yield row.path, file.resolve(row.path), row.problem
    elif storage.is_uri(name) and suffix not in SUFFIXES:
        for path in _images_behind(name):
            yield path, path, None
    elif os.path.isdir(name):
        for path in _images_in(Path(name)):
            yield printable(path), path, None
    else:
        yield printable(name), name, None


def _images_behind(uri: str) -> Iterator[str]:
    """What below a URI is an image by its name; in the order of the names. Raises `UsageError`."""
    try:
        found = sorted(storage.names(uri))
    except OSError as error:
        raise UsageError(f"{uri}: cannot be read: {storage.describe(error)}") from None
    for name in found:
        if os.path.splitext(name)[1].lower() in SUFFIXES:
            yield storage.join(uri, *name.split("/"))


def _images_in(folder: Path) -> Iterator[str]:
    """What in a folder, and in those below it, is an image by its name; in the order of the names."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries)
    except OSError as error:
        logger.warning(f"{printable(folder)}: the folder cannot be read: {error.strerror}")
        return
    for name, is_folder, is_link in found:
        if is_folder and is_link:
            # It may lead round in a circle, or to the whole disk.
            logger.warning(
                f"{printable(folder / name)}: left out, for it is a link to a folder; name it to read it too"
            )
        elif is_folder:
            yield from _images_in(folder / name)
        elif os.path.splitext(name)[1].lower() in SUFFIXES:
            yield str(folder / name)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or to where we may not look. If it is an image by its name, its row tells.
        return False


def is_one_of(place: str | os.PathLike, names: Iterable[str | bytes]) -> bool:
    """Whether a file is one of those that paths and URIs name, by whatever way they lead to it."""
    own = _identity(os.fspath(place))
    return own is not None and any(_identity(os.fsdecode(name)) == own for name in names)


def _identity(name: str) -> tuple[Any, Any] | None:
    """The same of two names that lead to one file; None where there is nothing to look at."""
    with suppress(OSError, ValueError):
        if storage.is_uri(name) and not name.startswith("file:"):
            filesystem, key = storage.locate(name)
            return filesystem.type_name, key
        found = os.stat(storage.locate(name)[1] if storage.is_uri(name) else name)
        return found.st_dev, found.st_ino
    return None


def printable(path: str | Path) -> str:
    """A file name may hold bytes that are no text; they are shown escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
