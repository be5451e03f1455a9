"""Rows of a CSV that show the same image."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from raycrnn import storage
from raycrnn.data.csv_files import CsvFile, Row


def same_images(csv: CsvFile) -> list[list[Row]]:
    """Return the groups of two or more rows that show the same image, in the order of the file.

    Paths are compared, and the contents of local files that are not empty. Files that do not exist have no contents.
    """
    rows = [row for row in csv.rows if not row.problem]
    path_of = {row.line: _real_path(csv.resolve(row)) for row in rows}
    by_path = _grouped(rows, lambda row: path_of[row.line])
    # One row for each path. A file is only read if another one has the same size.
    firsts = [group[0] for group in by_path]
    sizes = _grouped(firsts, lambda row: _size(path_of[row.line]))
    candidates = [row for group in sizes if len(group) > 1 for row in group]
    contents = _grouped(candidates, lambda row: _digest(path_of[row.line]))
    first_of = {row.line: group[0].line for group in contents for row in group}
    of_path = {path_of[group[0].line]: first_of.get(group[0].line, group[0].line) for group in by_path}
    return [group for group in _grouped(rows, lambda row: of_path[path_of[row.line]]) if len(group) > 1]


def _grouped(rows: Iterable[Row], key: Callable[[Row], Hashable | None]) -> list[list[Row]]:
    """Return rows with the same key in one list. A row with the key None has no group."""
    groups: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        value = key(row)
        if value is not None:
            groups[value].append(row)
    return list(groups.values())


def _real_path(path: str) -> str:
    """Return a URI as it is, and a local path without links and in the Unicode normal form of the file's name."""
    if storage.is_uri(path):
        return path
    try:
        return os.path.realpath(storage.as_on_disk(path))
    except ValueError:
        # No file can have this name, for example because it contains a NUL.
        return path


def _size(path: str) -> int | None:
    """Return the size of a local file in bytes, or None if it is empty or cannot be read."""
    try:
        return None if storage.is_uri(path) else os.stat(path).st_size or None
    except (OSError, ValueError):
        return None


def _digest(path: str) -> bytes | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:
        return None


def conflicting_labels(groups: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Return, for each group of rows that show one image and have different labels, the first row with each label."""
    conflicts = []
    for rows in groups:
        first = {row.label: row for row in reversed(rows)}
        if len(first) > 1:
            conflicts.append(sorted(first.values(), key=lambda row: row.line))
    return conflicts
