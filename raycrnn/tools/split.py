"""`raycrnn split`: divide the rows of a CSV into a training CSV and an evaluation CSV.

Rows are copied unchanged, except that relative paths are rewritten if the new CSVs are in another folder. Both CSVs
get the header, if there is one.
"""

import json
import logging
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import storage
from raycrnn.cli import Command, LocalPath, Metavar
from raycrnn.config.schema import Delimiter, Encoding, RegularExpression
from raycrnn.data import grouping
from raycrnn.data.csv_files import CsvFile, Row, read_csv
from raycrnn.data.csv_rewriting import folder_prefix, raw_lines, with_moved_path, write_files
from raycrnn.data.duplicates import conflicting_labels, same_images
from raycrnn.data.rejections import REMEDIES
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)


class Split(Command):
    """Divide the rows of a CSV into a training CSV and an evaluation CSV.

    Text lines of one receipt, one book or one writer resemble each other. If such lines are in both CSVs, the
    evaluation is too optimistic: keep them together with --group. Rows with the same image are always kept together;
    images are compared by their paths and, on local disks, by their contents.
    """

    epilog: ClassVar[str] = (
        "Example: raycrnn split data.csv --group '([^/_]+)_[^/]*$' puts 017_001.png and 017_002.png into the same CSV"
    )

    csv: CliPositionalArg[LocalPath]
    """CSV with rows `path;label`."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the rows for evaluation, met as closely as whole groups allow."""
    group: Annotated[RegularExpression | None, Metavar("REGEX")] = None
    """Regular expression that is searched in each path. The text that its first (group) matches, or the whole match if
    it has no group, is the name of the row's group. Groups are never divided. Default: every row by itself."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random choice."""
    output: Annotated[Path | None, Metavar("DIR")] = None
    """Directory for NAME_train.csv and NAME_eval.csv, in which relative paths are rewritten. Default: the directory of
    the input."""
    overwrite: bool = False
    """Replace the two CSVs if they exist."""
    delimiter: Annotated[Delimiter, Metavar("CHAR")] = ";"
    """Character between path and label; tab for a tab."""
    encoding: Annotated[Encoding, Metavar("NAME")] = "utf-8"
    """Encoding of the input and of the two CSVs."""
    as_json: Annotated[bool, Field(alias="json")] = False
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        train_file, eval_file = self._files()
        csv = read_csv(self.csv, self.delimiter, self.encoding)
        same = same_images(csv)
        groups = group_rows(csv, self.group, same)
        held_back = hold_back([len(rows) for rows in groups], self.share, self.seed)
        train = [rows for group, rows in enumerate(groups) if group not in held_back]
        evaluation = [rows for group, rows in enumerate(groups) if group in held_back]
        parts = [Part(train_file, train), Part(eval_file, evaluation)]
        write_parts(csv, parts, self.delimiter, self.encoding)
        _log_duplicates(csv.path, same)
        self._print(parts)

    def _files(self) -> list[Path]:
        """Return the paths of the training CSV and the evaluation CSV."""
        folder = self.csv.parent if self.output is None else self.output
        if os.path.isfile(folder):
            raise UsageError(f"{folder}: is a file; name a folder")
        names = [f"{self.csv.stem}_{name}{self.csv.suffix}" for name in ("train", "eval")]
        files = [Path(storage.as_on_disk(folder / name)) for name in names]
        existing = ", ".join(str(file) for file in files if os.path.exists(file))
        if existing and not self.overwrite:
            raise UsageError(
                f"{existing}: already exists; use --overwrite to replace it, or --output for another folder"
            )
        return files

    def _print(self, parts: Sequence["Part"]) -> None:
        total = sum(len(part.rows) for part in parts)
        print(f"{'set':5} {'rows':>8} {'groups':>8} {'share':>7}  file")
        for name, part in zip(("train", "eval"), parts, strict=True):
            rows, groups = len(part.rows), len(part.groups)
            print(f"{name:5} {rows:8} {groups:8} {rows / total:7.1%}  {part.file}")
        if self.as_json:
            train, evaluation = (part.summary() for part in parts)
            print(json.dumps({"train": train, "eval": evaluation}))


@dataclass(frozen=True)
class Part:
    """One of the two CSVs to write."""

    file: Path
    groups: list[list[Row]]

    @property
    def rows(self) -> list[Row]:
        """The rows in the order of the input."""
        return sorted((row for rows in self.groups for row in rows), key=lambda row: row.line)

    def summary(self) -> dict[str, str | int]:
        """Return the values that are printed as JSON."""
        return {"file": str(self.file), "rows": len(self.rows), "groups": len(self.groups)}


def _log_duplicates(path: str, same: Sequence[Sequence[Row]]) -> None:
    """Log how many rows share an image with another row, and which of them have different labels."""
    if not same:
        return
    rows = sum(map(len, same))
    logger.info(f"{path}: {rows:,} rows show {len(same):,} images; rows with the same image are in the same CSV")
    conflicts = conflicting_labels(same)
    for firsts in conflicts[: grouping.MAX_LISTED]:
        labels = ", ".join(f"{row.label!r} in line {row.line}" for row in firsts)
        logger.warning(f"{path}: one image has different labels: {labels} ({firsts[0].path})")
    if len(conflicts) > grouping.MAX_LISTED:
        logger.warning(f"{path}: {len(conflicts) - grouping.MAX_LISTED:,} more images have different labels")


def group_rows(csv: CsvFile, pattern: str | None, same: Sequence[Sequence[Row]] = ()) -> list[list[Row]]:
    """Return the rows by group.

    Args:
        csv: The input.
        pattern: The regular expression of --group; None: every row is a group.
        same: Rows with the same image, which must be in one group: the groups of each are joined.

    Raises:
        UsageError: A row is malformed, the pattern does not match a path, or there are fewer than two groups.
    """
    malformed = [f"line {row.line}: {row.problem}: {row.path!r}" for row in csv.rows if row.problem]
    grouping.check_no_rows(csv.path, malformed, f"malformed: {REMEDIES['malformed row']}")
    groups: dict[str | int, list[Row]] = {}
    unnamed = []
    for row in csv.rows:
        name = row.line if pattern is None else grouping.group_name(pattern, row.path)
        if name:
            groups.setdefault(name, []).append(row)
        else:
            unnamed.append(f"line {row.line}: {row.path!r}")
    grouping.check_no_rows(csv.path, unnamed, f"in no group: --group {pattern!r} must match a part of every path")
    if len(groups) < 2:
        raise UsageError(f"{csv.path}: {_too_few(groups)}")
    joined = grouping.join(list(groups.values()), same)
    if len(joined) < 2:
        raise UsageError(f"{csv.path}: all rows show the same image, or images of one group; a split needs two groups")
    return joined


def _too_few(groups: dict[str | int, list[Row]]) -> str:
    rows = sum(map(len, groups.values()))
    if rows < 2:
        return f"{rows or 'no'} row{'s' * (rows != 1)}; a split needs at least two"
    return f"all {rows} rows are in the group {next(iter(groups))!r}; use a --group with at least two groups"


def hold_back(sizes: Sequence[int], share: float, seed: int) -> set[int]:
    """Choose the groups for evaluation, whose rows are as close to the share of all rows as possible.

    At least one group is chosen, and not all. Groups are considered in random order until a subset of them has the
    right number of rows, which is found by dynamic programming (the subset sum problem).

    Args:
        sizes: Number of rows in each of at least two groups.
        share: Share of the rows for evaluation.
        seed: Seed of the random order.

    Returns:
        Indices of the groups.
    """
    total = sum(sizes)
    nearest = min(max(round(share * total), 1), total - 1)
    # Bit n of `reachable` is set if a subset of the groups considered so far has n rows; `last_of[n]` is the group of
    # the subset that was considered last. Using integers as sets keeps this fast for 100,000 rows.
    reachable = 1
    last_of: dict[int, int] = {}
    for group in random.Random(seed).sample(range(len(sizes)), len(sizes)):
        new = reachable << sizes[group] & ~reachable
        last_of |= dict.fromkeys(_bits(new), group)
        reachable |= new
        if nearest in last_of:
            break
    rows = min((n for n in last_of if n < total), key=lambda n: abs(n - share * total))
    held_back = set()
    while rows:
        held_back.add(last_of[rows])
        rows -= sizes[last_of[rows]]
    return held_back


def _bits(number: int) -> Iterator[int]:
    """Yield the positions of the bits that are set."""
    while number:
        bit = number.bit_length() - 1
        yield bit
        number ^= 1 << bit


def write_parts(csv: CsvFile, parts: Sequence[Part], delimiter: str, encoding: str) -> None:
    """Write the two CSVs. Neither is replaced before both have been written completely.

    Raises:
        UsageError: A rewritten path cannot be written in a row or in the encoding.
        RaycrnnError: A file or folder cannot be written.
    """
    lines, encoding = raw_lines(csv.path, encoding)
    header = [lines[csv.header.line - 1]] if csv.header else []
    prefix = folder_prefix(csv, parts[0].file)
    contents = {}
    for part in parts:
        rows = [with_moved_path(csv, row, lines[row.line - 1], delimiter, prefix) for row in part.rows]
        try:
            contents[part.file] = "".join([*header, *rows]).encode(encoding)
        except UnicodeEncodeError as error:
            problem = f"{error.object[error.start]!r} in a rewritten path does not exist in {encoding}"
            raise UsageError(f"{part.file}: {problem}; use another --output") from None
    write_files(contents)


if __name__ == "__main__":
    Split.main()
