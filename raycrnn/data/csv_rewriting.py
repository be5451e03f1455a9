"""Write CSV files with rows of another one: the lines as they are, or with other paths and labels."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from raycrnn import storage
from raycrnn.data.csv_files import CsvFile, Row, read_text, write_field
from raycrnn.errors import RaycrnnError, UsageError


def raw_lines(path: str | Path, encoding: str) -> tuple[list[str], str]:
    """Return the lines with their line ends, one of which is added to the last line, and the file's encoding."""
    text, encoding = read_text(path, encoding)
    if not text.endswith("\n"):
        text += "\r\n" if "\r\n" in text else "\n"
    # `split` returns an empty string behind the last line end.
    return [line + "\n" for line in text.split("\n")[:-1]], encoding


def folder_prefix(csv: CsvFile, target: Path) -> str:
    """Return what to put before a relative path of a CSV, so that it names the same file in a CSV elsewhere.

    Args:
        csv: The file that is read.
        target: The file that is written.
    """
    here, there = (os.path.realpath(storage.as_on_disk(folder)) for folder in (Path(csv.path).parent, target.parent))
    return os.path.relpath(here, there)


def moved_path(path: str, prefix: str) -> str:
    """Return a row's path with `prefix` joined to it, if it is relative.

    The path is not normalised: `a/../b` is not `b` if `a` is a symbolic link.
    """
    if prefix == os.curdir or "://" in path or os.path.isabs(storage.with_home(path)):
        return path
    return os.path.join(prefix, path)


def with_moved_path(csv: CsvFile, row: Row, line: str, delimiter: str, prefix: str) -> str:
    """Return a row's line with another path (see `moved_path`) and all else unchanged.

    Raises:
        UsageError: The new path contains a line end.
    """
    path = moved_path(row.path, prefix)
    if path == row.path:
        return line
    raw = '"' + row.path.replace('"', '""') + '"' if line.startswith('"') else row.path
    try:
        return write_field(path, delimiter) + line[len(raw) :]
    except ValueError as error:
        raise UsageError(f"{csv.path}, line {row.line}: the path cannot be rewritten: {error}") from None


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files of one folder, none of which is replaced before all have been written completely.

    Raises:
        RaycrnnError: A file or the folder cannot be written.
    """
    folder = next(iter(contents)).parent
    for file in contents:
        if file.is_dir():
            # Checked first: a new training CSV beside an old evaluation CSV could have rows in common with it.
            raise RaycrnnError(f"{file}: cannot be written: it is a directory")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for file, content in contents.items():
                stack.enter_context(storage.replacing_file(file)).write_bytes(content)
    except OSError as error:
        raise RaycrnnError(f"{folder}: the CSVs cannot be written: {error.strerror}") from None
