"""The images that names on a command line stand for: files, folders, URIs, and the rows of CSV files."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from raycrnn import storage
from raycrnn.config import Data, suggestion
from raycrnn.data import csv_files, file_kinds, packed_images
from raycrnn.data.characters import notes_on
from raycrnn.data.image_files import has_image_suffix
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)

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
        names: Paths or URIs of images, of folders, which are searched for images, or of CSV files. Hidden files and
            folders in a folder are left out.
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
    file_name = name.partition("?")[0] if storage.is_uri(name) else name
    folder = name if os.path.lexists(name) else storage.in_other_form(name) or name
    if file_name.lower().endswith(csv_files.LIST_SUFFIXES):
        file = csv_files.CsvFile(name, [])
        for row in csv_files.iter_list(name, settings):
            yield row.path, file.resolve(row), row.problem
    elif packed := _packed_files(name):
        for packed_row in packed_images.read_rows(packed):
            yield packed_row.path, packed_row.reference, None
    elif storage.is_uri(name) and not has_image_suffix(file_name):
        for path in _images_below(name):
            yield path, path, None
    elif os.path.isdir(folder):
        skipped = SkippedNames()
        for path in _images_in(Path(folder), skipped):
            yield printable(path), path, None
        skipped.log(printable(folder))
    elif storage.is_uri(name) or has_image_suffix(file_name) or os.path.lexists(folder):
        yield printable(name), name, None
    else:
        raise UsageError(_describe_missing(name))


def _describe_missing(name: str) -> str:
    key, equals, _ = name.partition("=")
    hint = f", and no key of the configuration{suggestion(key)}" if equals and not storage.is_uri(name) else ""
    return f"{printable(name)!r}: no such image, folder, CSV file or model directory{hint}{notes_on(name)}"


def _packed_files(name: str) -> list[str]:
    """Return the files of a packed data set, or none if a name stands for something else."""
    files = csv_files.find_packed(name)
    # A folder of images may also hold transcriptions in the same format.
    return [] if files and name not in files and not packed_images.is_packed(files[0]) else files


@dataclass
class SkippedNames:
    """The files and folders that were left out of a folder: hidden ones, and files not named like images."""

    count: int = 0
    """Number of hidden files and folders."""
    example: str = ""
    others: Counter[str] = field(default_factory=Counter)
    """Number of files whose names do not end like those of images, by suffix."""
    example_of: dict[str, str] = field(default_factory=dict)

    def skips(self, path: str) -> bool:
        """Return whether to leave out a hidden file or folder, and count it if so.

        Hidden names begin with a dot, such as the `._scan.png` that macOS adds to archives and `.ipynb_checkpoints`.
        `__MACOSX` and `@eaDir` hold copies and thumbnails as well.
        """
        name = path.rpartition("/")[2]
        hidden = name.startswith(".") or name in ("__MACOSX", "@eaDir")
        if hidden:
            self.count += 1
            self.example = self.example or path
        return hidden

    def add_other(self, path: str) -> None:
        """Count a file that is not named like an image."""
        suffix = os.path.splitext(path)[1].lower()
        self.others[suffix] += 1
        self.example_of.setdefault(suffix, path)

    def log(self, folder: str) -> None:
        """Log how many names were left out, if any."""
        if self.count:
            what = "file or folder was" if self.count == 1 else "files and folders were"
            logger.info(f"{folder}: {self.count:,} hidden {what} left out, for example {self.example}")
        for suffix, count in self.others.most_common(SUFFIXES_TO_LOG):
            kind = f"with the suffix {suffix}" if suffix else "without a suffix"
            what = "file" if count == 1 else "files"
            logger.info(f"{folder}: {count:,} {what} {kind} left out, {_describe(self.example_of[suffix])}")


SUFFIXES_TO_LOG = 8
"""Number of suffixes of other files in a folder that are logged, the most frequent ones first."""


def _describe(path: str) -> str:
    """Return an example of files that were left out, and what it is unless it is text or behind a URI."""
    example = f"for example {printable(path)}"
    if not os.path.isfile(path):
        return example
    try:
        with open(path, "rb") as file:
            head, size = file.read(file_kinds.HEAD_BYTES), os.fstat(file.fileno()).st_size
    except OSError:
        return example
    if head.startswith(file_kinds.IMAGES):
        return f"{example}: an image: give its name a suffix of its format, such as .png"
    return example if file_kinds.is_text(head) else f"{example}: {file_kinds.describe(head, size).detail}"


def _images_below(uri: str) -> Iterator[str]:
    """Yield the URIs of the images below a URI, sorted by name."""
    try:
        names = sorted(storage.names(uri))
    except OSError as error:
        raise UsageError(f"{uri}: cannot be read: {storage.describe(error)}") from None
    if not names:
        raise UsageError(_describe_missing(uri))
    skipped = SkippedNames()
    for name in names:
        parts = name.split("/")
        if any(skipped.skips(part) for part in parts):
            continue
        if has_image_suffix(name):
            yield storage.join(uri, *parts)
        else:
            skipped.add_other(storage.join(uri, *parts))
    skipped.log(uri)


def _images_in(folder: Path, skipped: SkippedNames) -> Iterator[str]:
    """Yield the paths of the images in a folder and its subfolders, sorted by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            children = sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries)
    except OSError as error:
        logger.warning(f"{printable(folder)}: the folder cannot be read: {error.strerror}")
        return
    for name, is_folder, is_link in children:
        if skipped.skips(printable(folder / name)):
            continue
        if is_folder and is_link:
            # The link may lead to a folder that contains it, or to the whole disk.
            logger.warning(f"{printable(folder / name)}: skipped, because it is a link to a folder; name it to read it")
        elif is_folder:
            yield from _images_in(folder / name, skipped)
        elif has_image_suffix(name):
            yield str(folder / name)
        else:
            skipped.add_other(str(folder / name))


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
        status = os.stat(storage.as_on_disk(storage.locate(name)[1] if storage.is_uri(name) else name))
        return status.st_dev, status.st_ino
    return None


def printable(path: str | Path) -> str:
    """Return a path as text, with bytes that are not valid text escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
