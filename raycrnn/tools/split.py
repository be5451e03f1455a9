"""`raycrnn split`: divide a CSV's rows into one CSV to train on and one that is held back for evaluation.

Rows are copied as they stand; only relative paths are rewritten, when the new CSVs go to another folder.
"""

import codecs
import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg

from raycrnn.cli import Command
from raycrnn.data.csv_files import CsvFile, Row, read_csv, write_field
from raycrnn.data.rejections import REMEDIES
from raycrnn.errors import RaycrnnError, UsageError

MOST_LISTED = 20
"""Rows that an error lists one by one; of the others it says how many there are."""


class Split(Command):
    """Divide the rows of a CSV into a training CSV and an evaluation CSV that is held back.

    Lines of one receipt, one book or one writer resemble each other. Where such lines stand on both sides,
    the evaluation flatters: name what belongs together with --group.
    """

    epilog: ClassVar[str] = (
        "example: raycrnn split data.csv --group '([^/_]+)_[^/]*$' keeps 017_001.png and 017_002.png together"
    )

    csv: CliPositionalArg[Path]
    """rows `path;label`"""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the rows to hold back, approached as closely as whole groups allow"""
    group: str | None = None
    """regular expression, searched in each row's path: what its first (group) matches, or all of it where it
    has none, names the row's group, and groups stay whole; without it each row stands alone"""
    seed: Annotated[int, Field(ge=0)] = 0
    """which rows are held back comes from it"""
    output: Path | None = None
    """folder for the two CSVs, where relative paths are rewritten to fit; without it they stand beside the
    input as NAME_train.csv and NAME_eval.csv"""
    overwrite: bool = False
    """replace the two CSVs where they exist"""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ";"
    """character between path and label"""
    encoding: str = "utf-8"
    """encoding of the CSV, read and written"""
    as_json: Annotated[bool, Field(alias="json")] = False
    """print the result once more, as one JSON object on stdout's last line"""

    @field_validator("group")
    @classmethod
    def _regular_expression(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from None
        return group

    @field_validator("delimiter")
    @classmethod
    def _can_split(cls, delimiter: str) -> str:
        if delimiter in '"\r\n':
            raise ValueError("a quote or a line end cannot be a delimiter")
        return delimiter

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError:
            raise ValueError("must be an encoding that Python knows, such as utf-8 or cp1252") from None
        return codecs.lookup(encoding).name

    def run(self) -> None:
        train_file, eval_file = self._files()
        csv = read_csv(self.csv, self.delimiter, self.encoding)
        groups = group_rows(csv, self.group)
        held_back = hold_back([len(rows) for rows in groups], self.share, self.seed)
        train = [rows for group, rows in enumerate(groups) if group not in held_back]
        evaluation = [rows for group, rows in enumerate(groups) if group in held_back]
        parts = [Part(train_file, train), Part(eval_file, evaluation)]
        write_parts(csv, parts, self.delimiter, self.encoding)
        self._print(parts)

    def _files(self) -> list[Path]:
        """Where the training and the evaluation CSV go."""
        folder = self.csv.parent if self.output is None else self.output
        if os.path.isfile(folder):
            raise UsageError(f"{folder}: is a file; name a folder")
        files = [folder / f"{self.csv.stem}_{name}{self.csv.suffix}" for name in ("train", "eval")]
        existing = ", ".join(str(file) for file in files if os.path.exists(file))
        if existing and not self.overwrite:
            raise UsageError(f"{existing}: already there; --overwrite replaces, --output writes elsewhere")
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
        """In the order of the input."""
        return sorted((row for rows in self.groups for row in rows), key=lambda row: row.line)

    def summary(self) -> dict:
        return {"file": str(self.file), "rows": len(self.rows), "groups": len(self.groups)}


def group_rows(csv: CsvFile, pattern: str | None) -> list[list[Row]]:
    """The rows that must stay together, group by group; at least two groups.

    Raises:
        UsageError: a malformed row, a path in which the pattern matches nothing, fewer than two groups.
    """
    malformed = [f"line {row.line}: {row.problem}: {row.path!r}" for row in csv.rows if row.problem]
    _refuse(csv.path, malformed, f"malformed: {REMEDIES['malformed row']}")
    names = [row.line if pattern is None else _group_name(pattern, row.path) for row in csv.rows]
    named = list(zip(names, csv.rows, strict=True))
    unnamed = [f"line {row.line}: {row.path!r}" for name, row in named if not name]
    _refuse(csv.path, unnamed, f"without a group: --group {pattern!r} must match a part of every path")
    groups: dict[str | int, list[Row]] = {}
    for name, row in named:
        groups.setdefault(name, []).append(row)
    if len(groups) < 2:
        raise UsageError(f"{csv.path}: {_too_few(groups)}; neither of the two CSVs may be empty")
    return list(groups.values())


def _refuse(path: str, rows: Sequence[str], reason: str) -> None:
    if rows:
        more = [f"and {len(rows) - MOST_LISTED} more"] if len(rows) > MOST_LISTED else []
        lines = [f"{path}: rows that are {reason}", *(f"{path}, {row}" for row in rows[:MOST_LISTED]), *more]
        raise UsageError("\n  ".join(lines))


def _group_name(pattern: str, path: str) -> str | None:
    match = re.search(pattern, path)
    return match and match.group(min(1, match.re.groups))


def _too_few(groups: dict[str | int, list[Row]]) -> str:
    rows = sum(map(len, groups.values()))
    if rows < 2:
        return f"{rows or 'no'} row{'s' * (rows != 1)}, and a split needs two or more"
    return f"all {rows} rows are of the group {next(iter(groups))!r}: give a --group that tells more apart"


def hold_back(sizes: Sequence[int], share: float, seed: int) -> set[int]:
    """Which groups to hold back: at least one, not all, with a count of rows as near to the share as can be.

    Groups are taken in a random order, until some of those taken have the right count together.

    Args:
        sizes: rows of each group, at least two groups.
    """
    total = sum(sizes)
    nearest = min(max(round(share * total), 1), total - 1)
    # Bit n of `reached` is set where some of the groups taken have n rows together; `last_of[n]` is the last
    # taken of these. Integers as sets keep this fast for 100,000 rows.
    reached, last_of = 1, {}
    for group in random.Random(seed).sample(range(len(sizes)), len(sizes)):
        new = reached << sizes[group] & ~reached
        last_of |= dict.fromkeys(_bits(new), group)
        reached |= new
        if nearest in last_of:
            break
    rows = min((n for n in last_of if n < total), key=lambda n: abs(n - share * total))
    held_back = set()
    while rows:
        held_back.add(last_of[rows])
        rows -= sizes[last_of[rows]]
    return held_back


def _bits(number: int) -> Iterator[int]:
    while number:
        bit = number.bit_length() - 1
        yield bit
        number ^= 1 << bit


def write_parts(csv: CsvFile, parts: Sequence[Part], delimiter: str, encoding: str) -> None:
    """Write the CSVs, each whole or not at all, the rows as they stand in the input but for relative paths.

    Raises:
        UsageError: a rewritten path that a row or the encoding cannot hold.
        RaycrnnError: a file or folder that cannot be written.
    """
    mark, lines = _raw_lines(csv.path, encoding)
    prefix = os.path.relpath(os.path.realpath(Path(csv.path).parent), os.path.realpath(parts[0].file.parent))
    contents = {}
    for part in parts:
        rows = [_seen_from(prefix, csv, row, lines[row.line - 1], delimiter) for row in part.rows]
        try:
            contents[part.file] = (mark + "".join(rows)).encode(encoding)
        except UnicodeEncodeError as error:
            problem = f"{error.object[error.start]!r} of the rewritten paths does not exist in {encoding}"
            raise UsageError(f"{part.file}: {problem}: give an --output of another name") from None
    _write_files(contents)


def _raw_lines(path: str, encoding: str) -> tuple[str, list[str]]:
    """The byte order mark, if any, and the lines, each with its end, so that the last may stand anywhere."""
    text = Path(path).read_bytes().decode(encoding)
    mark = "\ufeff" if encoding == "utf-8" and text.startswith("\ufeff") else ""
    if not text.endswith("\n"):
        text += "\r\n" if "\r\n" in text else "\n"
    return mark, [line + "\n" for line in text.removeprefix(mark).split("\n")]


def _seen_from(prefix: str, csv: CsvFile, row: Row, line: str, delimiter: str) -> str:
    """A row's raw line, its path relative to a folder from which `prefix` leads to the CSV's.

    Folder and path are joined as they are: to fold `a/../b` would go astray where `a` is a symbolic link.
    """
    if prefix == os.curdir or "://" in row.path or os.path.isabs(row.path):
        return line
    raw = '"' + row.path.replace('"', '""') + '"' if line.startswith('"') else row.path
    try:
        return write_field(os.path.join(prefix, row.path), delimiter) + line[len(raw) :]
    except ValueError as error:
        raise UsageError(f"{csv.path}, line {row.line}: the path cannot be rewritten: {error}") from None


def _write_files(contents: dict[Path, bytes]) -> None:
    temporary = {file: file.with_name(f".{file.name}.{os.getpid()}") for file in contents}
    try:
        for file in contents:
            if file.is_dir():
                # Before either is written: rows of an old evaluation CSV beside a new training CSV could be in both.
                raise RaycrnnError(f"{file}: is a directory")
        for file, content in contents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary[file].write_bytes(content)
        for file in contents:
            os.replace(temporary[file], file)
    except OSError as error:
        raise RaycrnnError(f"{file}: cannot be written: {error.strerror}") from None
    finally:
        for part in filter(os.path.exists, temporary.values()):
            part.unlink()


if __name__ == "__main__":
    Split.main()
