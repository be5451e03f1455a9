"""What predict writes: CSV, JSON lines or Parquet, whole or not at all, and the shards of an output that is under way.

Shards hold finished rows in `.NAME.parts` beside the output NAME, whatever its format: `FIRST_STOP.parquet` the rows
FIRST … STOP − 1 of the input's order, `job.json` what a resumed run must have in common with the one that began. In
object storage they are copies of those on this machine, uploaded as they are finished.
"""

import csv
import json
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

READING = {"text": pa.string(), "confidence": pa.float64(), "log_prob": pa.float64()}

UNIT = {"text": pa.string(), "confidence": pa.float64(), "left": pa.int32(), "right": pa.int32()}

ROWS = pa.schema(
    {
        "path": pa.string(),
        "text": pa.string(),
        "score": pa.float64(),
        "confidence": pa.float64(),
        "log_prob": pa.float64(),
        "error": pa.string(),
        "alternatives": pa.list_(pa.struct(READING)),
        "units": pa.list_(pa.struct(UNIT)),
    }
)
"""A row an image. Where there is an error all but the path is null, else the error. `alternatives` are the readings
after the best one, `units` the best one's, null where they were not asked for."""

ROWS_A_GROUP = 32_768
"""of Parquet: readers take a file by its row groups"""

Format = Literal["csv", "jsonl", "parquet"]


@dataclass(frozen=True)
class Layout:
    """What an output looks like."""

    format: Format
    readings: int = 1
    """of an image, in CSV: text, text_2 …"""
    confidence: bool = False
    """whether CSV has a column of it"""
    spans: bool = False
    """whether Parquet has a column of units"""


# --- formats


class Writer(ABC):
    """Writes tables of `ROWS` to an open file, as they come."""

    read = 0
    """images so far that have no error"""

    def write(self, table: pa.Table) -> None:
        self.read += table["error"].null_count
        self._write(table)

    def close(self) -> None:  # noqa: B027 (most hold nothing back)
        """Write what is still held back. The file stays open."""

    @abstractmethod
    def _write(self, table: pa.Table) -> None:
        """Write rows, or hold them back until there are enough."""


@dataclass(frozen=True)
class _LfLines:
    """Takes rows that end in CRLF, one at a time, and ends them in LF."""

    file: IO[str]

    def write(self, row: str) -> None:
        self.file.write(row.removesuffix("\r\n") + "\n")


class CsvWriter(Writer):
    """RFC 4180 with a header; LF as line end on stdout, where people read it."""

    def __init__(self, file: IO[str], layout: Layout):
        self._layout = layout
        # Not by another `lineterminator`, with which it would leave a lone CR unquoted.
        self._writer = csv.writer(_LfLines(file) if file is sys.stdout else file)
        confidence = ["confidence"] if layout.confidence else []
        more = [name for number in range(2, layout.readings + 1) for name in (f"text_{number}", f"score_{number}")]
        self._writer.writerow(["path", "text", "score", "error", *confidence, *more])

    def _write(self, table: pa.Table) -> None:
        self._writer.writerows(map(self._fields, table.to_pylist()))

    def _fields(self, row: dict) -> list[str | None]:
        fields = [row["path"], row["text"], _number(row["score"]), row["error"]]
        if self._layout.confidence:
            fields.append(_number(row["confidence"]))
        others = row["alternatives"] or []
        for other in others[: self._layout.readings - 1]:
            fields += [other["text"], _number(other["log_prob"] - row["log_prob"])]
        missing = self._layout.readings - 1 - len(others)
        return fields + [""] * (2 * missing)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


class JsonlWriter(Writer):
    """An object a line; of an image that could not be read the path and the error."""

    def __init__(self, file: IO[str]):
        self._file = file

    def _write(self, table: pa.Table) -> None:
        self._file.writelines(json.dumps(_record(row), ensure_ascii=False) + "\n" for row in table.to_pylist())


def _record(row: dict) -> dict:
    if row["error"] is not None:
        return {key: row[key] for key in ("path", "text", "score", "error")}
    if row["units"] is None:
        del row["units"]
    return row


class ParquetWriter(Writer):
    """Row groups of `ROWS_A_GROUP`."""

    def __init__(self, file: IO[bytes], layout: Layout):
        self._names = [name for name in ROWS.names if name != "units" or layout.spans]
        self._writer = pq.ParquetWriter(file, pa.schema([ROWS.field(name) for name in self._names]))
        self._held: list[pa.Table] = []

    def _write(self, table: pa.Table) -> None:
        self._held.append(table.select(self._names))
        if sum(map(len, self._held)) >= ROWS_A_GROUP:
            self._write_held()

    def _write_held(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held))
            self._held = []

    def close(self) -> None:
        self._write_held()
        self._writer.close()


def open_file(path: Path, layout: Layout) -> IO:
    """A file to write in a layout. Raises `OSError`."""
    if layout.format == "parquet":
        return path.open("wb")
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def make_writer(file: IO, layout: Layout) -> Writer:
    """The writer of a layout, to a file as `open_file` opens it, or to stdout."""
    if layout.format == "parquet":
        return ParquetWriter(file, layout)
    return JsonlWriter(file) if layout.format == "jsonl" else CsvWriter(file, layout)
