"""Groups of rows that belong together, such as the lines of a book, and the folds of a cross-validation."""

import os
import random
import re
from collections.abc import Hashable, Sequence
from typing import TypeVar

from raycrnn import storage
from raycrnn.data import generated_lines
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.errors import UsageError

Item = TypeVar("Item", bound=Hashable)

MAX_LISTED = 20
"""Number of rows that an error message lists."""


def group_name(pattern: str, path: str) -> str | None:
    """Return the name of a path's group: what the first (group) of a regular expression matches, else the whole match.

    Returns None if the expression does not match.
    """
    match = re.search(pattern, path)
    return match and match.group(min(1, match.re.groups))


def join(groups: Sequence[list[Item]], same: Sequence[Sequence[Item]]) -> list[list[Item]]:
    """Join the groups that have items which must stay together (union-find).

    Args:
        groups: The items of each group.
        same: Sets of items. The groups of each set's items are joined.
    """
    group_of = {item: index for index, items in enumerate(groups) for item in items}
    parent = list(range(len(groups)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, *others in same:
        for item in others:
            parent[root(group_of[item])] = root(group_of[first])
    joined: dict[int, list[Item]] = {}
    for index, items in enumerate(groups):
        joined.setdefault(root(index), []).extend(items)
    return list(joined.values())


def check_no_rows(path: str, rows: Sequence[str], reason: str) -> None:
    """Raise `UsageError`, with a list of the rows, if there are any."""
    if rows:
        more = [f"and {len(rows) - MAX_LISTED} more"] if len(rows) > MAX_LISTED else []
        lines = [f"{path}: rows that are {reason}", *(f"{path}, {row}" for row in rows[:MAX_LISTED]), *more]
        raise UsageError("\n  ".join(lines))


def assign(sizes: Sequence[int], folds: int, seed: int) -> list[int]:
    """Assign groups to folds of about the same number of rows.

    The groups are taken in random order, large ones first, and each is added to the fold with the fewest rows. Thus the
    numbers of rows of two folds differ by at most those of the largest group.

    Args:
        sizes: Number of rows of each group.
        folds: Number of folds.
        seed: Seed of the random order.

    Returns:
        The fold of each group, from 1.
    """
    order = random.Random(seed).sample(range(len(sizes)), len(sizes))
    rows, fold_of = [0] * folds, [0] * len(sizes)
    for group in sorted(order, key=lambda group: -sizes[group]):
        fold = rows.index(min(rows))
        rows[fold] += sizes[group]
        fold_of[group] = fold + 1
    return fold_of


def folds_of_rows(
    files: Sequence[CsvFile], folds: int, pattern: str | None = None, seed: int = 0
) -> list[list[int | None]]:
    """Return the fold that holds back each row of each file.

    Rows of one group, and rows with the same path, are in the same fold. A malformed row is a group of its own.

    Args:
        files: The CSV files. Lines that a recipe generates are never held back.
        folds: Number of folds.
        pattern: Regular expression that names the group of a row's path. None: every image is a group.
        seed: Seed of the choice.

    Returns:
        The fold, from 1, of each row of each file; None for generated lines.

    Raises:
        UsageError: There are fewer groups than folds, or the pattern does not match a path.
    """
    groups: dict[Hashable, list[tuple[int, int]]] = {}
    by_path: dict[str, list[tuple[int, int]]] = {}
    for number, file in enumerate(files):
        if generated_lines.is_recipe(file.path):
            continue
        unnamed = []
        for index, row in enumerate(file.rows):
            place, key = (number, index), _group_of(file, row, pattern)
            if key is None:
                unnamed.append(f"line {row.line}: {row.path!r}")
                continue
            groups.setdefault(key, []).append(place)
            if not row.problem:
                by_path.setdefault(_place_of(file, row), []).append(place)
        check_no_rows(file.path, unnamed, f"in no group: data.fold_group={pattern!r} must match a part of every path")
    joined = join(list(groups.values()), [places for places in by_path.values() if len(places) > 1])
    if len(joined) < folds:
        what = "images" if pattern is None else "groups (data.fold_group)"
        raise UsageError(
            f"training.folds={folds}: the training CSVs have only {len(joined)} {what}, and each fold needs one"
        )
    result: list[list[int | None]] = [[None] * len(file.rows) for file in files]
    for places, fold in zip(joined, assign(list(map(len, joined)), folds, seed), strict=True):
        for number, index in places:
            result[number][index] = fold
    return result


def _group_of(file: CsvFile, row: Row, pattern: str | None) -> Hashable:
    if row.problem:
        return file.path, row.line
    return _place_of(file, row) if pattern is None else group_name(pattern, row.path) or None


def _place_of(file: CsvFile, row: Row) -> str:
    """Return the URI of a row's image, or its path without `.` and `..`."""
    place = file.resolve(row)
    return place if storage.is_uri(place) else os.path.normpath(place)


def hold_back(
    files: Sequence[CsvFile], fold: int, fold_of: Sequence[Sequence[int | None]]
) -> tuple[list[CsvFile], list[CsvFile]]:
    """Return the files with the rows that a fold trains on, and those with the rows that it holds back.

    Args:
        files: The CSV files.
        fold: The fold, from 1.
        fold_of: The result of `folds_of_rows`.
    """
    train: list[CsvFile] = []
    held_back: list[CsvFile] = []
    for file, own in zip(files, fold_of, strict=True):
        for part, wanted in ((train, False), (held_back, True)):
            rows = [row for row, number in zip(file.rows, own, strict=True) if (number == fold) == wanted]
            part.append(CsvFile(file.path, rows, file.header))
    return train, [file for file in held_back if file.rows]
