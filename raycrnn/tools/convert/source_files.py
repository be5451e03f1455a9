"""The files of a source: those in a folder, lines of text, JSON, and images that a source names."""

import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from raycrnn import storage
from raycrnn.data.image_files import SUFFIXES
from raycrnn.errors import UsageError
from raycrnn.tools.convert.records import Items, LabelledImage, LeftOut, UnusableLine, decoded, shown

logger = logging.getLogger(__name__)

NumberedLine = tuple[str, str] | LeftOut
"""The place, such as "line 3", and the text of a line; or why the line cannot be read."""

LineParser = Callable[[str, str], Iterable[LabelledImage]]

MAX_LINE_BYTES = 2**20
"""Longer lines of a text file are not read."""

MAX_JSON_BYTES = 2**30
"""Larger JSON files are not read, because they are held in memory."""

MAX_IMAGE_BYTES = 2**28
"""Larger images in an archive are not read."""

ALL_SUFFIXES = (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))
"""Suffixes of images in lower case and in upper case."""


def files_in(source: Path, pattern: str, written: Sequence[Path]) -> Iterator[Path]:
    """Yield a file, or those files which `walk` finds in a folder whose names match a pattern."""
    if not source.is_dir():
        yield source
        return
    for folder, names in walk(source, written):
        yield from (folder / name for name in names if fnmatch(name, pattern))


def walk(folder: Path, written: Sequence[Path], logs: bool = True) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and its subfolders, each with the names of its files, sorted.

    Hidden files and folders are left out, and links to folders are not followed.

    Args:
        folder: The folder.
        written: Resolved paths of subfolders that are left out, because the command writes to them.
        logs: Whether to log which links and how many hidden names are left out.

    Raises:
        UsageError: A folder cannot be read.
    """
    # Here, because it imports pyarrow, which `--help` does not need.
    from raycrnn.data.inputs import SkippedNames, printable

    skipped = SkippedNames()

    def fail(error: OSError) -> None:
        raise UsageError(f"{error.filename}: the folder cannot be read: {error.strerror}")

    def is_entered(path: Path) -> bool:
        if Path(os.path.realpath(path)) in written or skipped.skips(printable(path)):
            return False
        if path.is_symlink() and logs:
            logger.warning(f"{printable(path)}: skipped, because it is a link to a folder; name it to read it")
        return not path.is_symlink()

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if is_entered(Path(parent, name)))
        yield Path(parent), sorted(name for name in names if not skipped.skips(printable(os.path.join(parent, name))))
    if logs:
        skipped.log(printable(folder))


def line_in(data: bytes) -> bytes:
    """Return the line in a text file of one line, without a byte order mark and the line end that editors add."""
    return data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").removesuffix(b"\r")


def images_of_lines(file: Path, lines: Iterable[NumberedLine], parse: LineParser) -> Items:
    """Yield the images that the lines of a list name, and the lines that cannot be used.

    Args:
        file: The list.
        lines: The lines of `numbered_lines`, or some of them.
        parse: Returns the images for the place and the text of a line. May raise `UnusableLine`.
    """
    for line in lines:
        if isinstance(line, LeftOut):
            yield line
            continue
        place, text = line
        try:
            yield from parse(place, text)
        except UnusableLine as error:
            yield LeftOut.because(error, file, place)


def numbered_lines(file: Path) -> Iterator[NumberedLine]:
    """Yield the place ("line 3") and the text of each line of a text file in UTF-8 that is not empty.

    A byte order mark and line ends (LF or CRLF) are removed and nothing else. A line that is not UTF-8 is left out.
    """
    with file.open("rb") as stream:
        for number in range(1, 2**62):
            line = stream.readline(MAX_LINE_BYTES)
            place = f"line {number}"
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    yield LeftOut(file, "", "not UTF-8", "the file is in UTF-16: save it as UTF-8")
                    return
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) == MAX_LINE_BYTES:
                yield LeftOut(file, place, "not a text file", f"a line of more than {MAX_LINE_BYTES:,} bytes")
                return
            if not line:
                return
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if line:
                try:
                    yield place, decoded(line)
                except UnusableLine as error:
                    yield LeftOut.because(error, file, place)


def read_json(file: Path) -> object:
    """Return the value in a JSON file, with objects as lists of (key, value), because keys may be repeated.

    Raises:
        UnusableLine: The file is too large, or not JSON in UTF-8.
    """
    if file.stat().st_size > MAX_JSON_BYTES:
        raise UnusableLine("the file is too large", f"more than {MAX_JSON_BYTES:,} bytes of JSON")
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"), object_pairs_hook=JsonObject)
    except UnicodeDecodeError:
        raise UnusableLine("not UTF-8", "convert the file to UTF-8") from None
    except RecursionError:
        raise UnusableLine("not a JSON file", "too many nested brackets") from None
    except ValueError as error:
        raise UnusableLine("not a JSON file", f"{error}; the file may be incomplete: export it again") from None


class JsonObject(list[tuple[str, object]]):
    """The (key, value) pairs of a JSON object."""

    def get(self, key: str) -> object:
        """Return the last value of a key, or None."""
        return next((value for name, value in reversed(self) if name == key), None)


# --- images that a source names


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file below a folder.

    Raises:
        UnusableLine: The name is empty, is no name of a file, or leads out of the folder.
    """
    parts = name.split("/")
    if not name or "\0" in name:
        raise UnusableLine("no name of an image", shown(name))
    if name.startswith("/") or ".." in parts or storage.is_uri(name):
        raise UnusableLine("the path leads out of the folder of the images", shown(name))
    return folder / name


def find_image(folder: Path, name: str) -> Path:
    """Return the path of an image below a folder, whose suffix the name may lack.

    Raises:
        UnusableLine: The name leads out of the folder, or there is no such image.
    """
    path = inside(folder, name)
    # Not with_suffix(), which would replace the end of "line.001".
    found = first_file([path, *(path.parent / f"{path.name}{suffix}" for suffix in ALL_SUFFIXES)])
    if found is None:
        raise no_such_image(name, [folder])
    return found


def first_file(paths: Sequence[Path]) -> Path | None:
    """Return the first of the paths at which there is a file; None if there is none.

    A file whose name differs only in its Unicode normal form counts if there is no other.
    """
    others = (Path(other) for path in paths if (other := storage.in_other_form(str(path))))
    return next(filter(is_file, itertools.chain(paths, others)), None)


def is_file(path: Path) -> bool:
    """Return whether there is a file at a path; False also if the path is too long for any file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def no_such_image(name: str, folders: list[Path]) -> UnusableLine:
    """Return the error of an image that is in none of the folders."""
    where = ", ".join(map(str, folders))
    return UnusableLine("no such image", f"{shown(name)} in {where}: name the folder of the images with --images")


def check_not_written(image: Path, written: Sequence[Path]) -> None:
    """Raise `UsageError` if an image, or the file to which it is a link, is in a folder that is replaced."""
    found = first_file([image]) or image
    for place in (os.path.realpath(found.parent), os.path.realpath(found)):
        if any(Path(place).is_relative_to(folder) for folder in written):
            raise UsageError(f"{image}: is in the folder that is replaced: use another one")


def last_part(name: str) -> str:
    """Return the name of a file without its folders, which Windows separates by backslashes."""
    return re.split(r"[/\\]", name)[-1]
