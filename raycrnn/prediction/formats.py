"""The formats of transcriptions: CSV, JSON Lines, Parquet, and labels to train on."""

import codecs
import csv
import functools
import itertools
import json
import logging
import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from raycrnn import storage
from raycrnn.config import Data
from raycrnn.data import csv_files
from raycrnn.data.labels import format_label
from raycrnn.prediction.job import Format

logger = logging.getLogger(__name__)

ALTERNATIVE = {"text": pa.string(), "confidence": pa.float64(), "log_prob": pa.float64()}

EDGES = {name: pa.int32() for name in ("left", "top", "right", "bottom")}

UNIT = {"text": pa.string(), "confidence": pa.float64(), **EDGES}

ROWS = pa.schema(
    {
        "path": pa.string(),
        "text": pa.string(),
        "score": pa.float64(),
        "confidence": pa.float64(),
        "log_prob": pa.float64(),
        "error": pa.string(),
        "alternatives": pa.list_(pa.struct(ALTERNATIVE)),
        "units": pa.list_(pa.struct(UNIT)),
    }
)
"""Columns of a table with one row per image. For an image that cannot be read, all columns except path and error are
null; for any other image, error is null. `alternatives` are the transcriptions after the best one; `units` are those of
the best one, null if not requested."""

ROWS_PER_GROUP = 32_768
"""Rows per row group of Parquet."""

MOST_LEFT_OUT_SHOWN = 5
"""Number of images that are left out of labels with a line of their own."""


@dataclass(frozen=True)
class Layout:
    """The format and the columns of an output."""

    format: Format
    readings: int = 1
    """Transcriptions per image in CSV: text, text_2 and so on."""
    confidence: bool = False
    """Whether CSV has a column with the confidence."""
    spans: bool = False
    """Whether Parquet has the column `units`. JSON Lines has it if a row has units."""
    labels: "LabelFormat | None" = None
    """What the format `labels` needs."""


# --- formats


class Writer(ABC):
    """Writes tables of `ROWS` to an open file."""

    read = 0
    """Images without an error so far."""

    def write(self, table: pa.Table) -> None:
        """Write the next rows; the writer may buffer them. Of no rows, nothing is written, not even a header."""
        if not len(table):
            return
        self.read += table["error"].null_count
        self._write(table)

    def close(self) -> None:  # noqa: B027 (most writers buffer nothing)
        """Write the buffered rows. The file stays open."""

    @abstractmethod
    def _write(self, table: pa.Table) -> None:
        """Write rows, or buffer them."""


@dataclass(frozen=True)
class _LfLines:
    """A file for `csv.writer` that replaces the CRLF at the end of each row by LF."""

    file: IO[str]

    def write(self, row: str) -> None:
        self.file.write(row.removesuffix("\r\n") + "\n")


class CsvWriter(Writer):
    """Writes CSV by RFC 4180 with a header. On stdout, lines end in LF."""

    def __init__(self, file: IO[str], layout: Layout):
        self._layout = layout
        # Not by `lineterminator="\n"`, with which csv.writer would leave a lone CR unquoted.
        self._writer = csv.writer(_LfLines(file) if file is sys.stdout else file)
        confidence = ["confidence"] if layout.confidence else []
        more = [name for number in range(2, layout.readings + 1) for name in (f"text_{number}", f"score_{number}")]
        self._header: list[str] | None = ["path", "text", "score", "error", *confidence, *more]

    def close(self) -> None:
        self._write_header()

    def _write_header(self) -> None:
        # Not before the first rows: a model that cannot be loaded leaves nothing on stdout.
        if self._header is not None:
            self._writer.writerow(self._header)
            self._header = None

    def _write(self, table: pa.Table) -> None:
        self._write_header()
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
    """Writes one JSON object per line. That of an image that cannot be read has only path, text, score and error."""

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
    """Writes Parquet in row groups of at least `ROWS_PER_GROUP` rows."""

    def __init__(self, file: IO[bytes], layout: Layout):
        self._names = [name for name in ROWS.names if name != "units" or layout.spans]
        self._writer = pq.ParquetWriter(file, pa.schema([ROWS.field(name) for name in self._names]))
        self._buffer: list[pa.Table] = []

    def _write(self, table: pa.Table) -> None:
        self._buffer.append(table.select(self._names))
        if sum(map(len, self._buffer)) >= ROWS_PER_GROUP:
            self._write_buffer()

    def _write_buffer(self) -> None:
        if self._buffer:
            self._writer.write_table(pa.concat_tables(self._buffer))
            self._buffer = []

    def close(self) -> None:
        self._write_buffer()
        self._writer.close()


class LabelsWriter(Writer):
    """Writes a CSV of images and labels, as training reads it. Images that cannot be read are left out.

    The rows must have units, because a text does not tell which characters of it make up a unit, and come in the order
    of the layout's images.
    """

    def __init__(self, file: IO[str], labels: "LabelFormat"):
        self._file, self._labels = file, labels
        self._paths = (path for chunk in labels.paths.chunks for path in chunk.to_pylist())
        self._written = self._left_out = 0

    def _write(self, table: pa.Table) -> None:
        paths = itertools.islice(self._paths, len(table))
        for row, path in zip(table.to_pylist(), paths, strict=True):
            try:
                self._file.write(f"{self._labels.line(row, path)}\n")
            except ValueError as error:
                self._left_out += 1
                if self._left_out <= MOST_LEFT_OUT_SHOWN:
                    logger.warning(f"{row['path']}: left out of the labels: {error}")
            else:
                self._written += 1

    def close(self) -> None:
        logger.info(f"labels written: {self._written:,}; images left out: {self._left_out:,}")
        if codecs.lookup(self._labels.settings.encoding).name not in ("utf-8", "utf-8-sig"):
            logger.warning("the labels are written in UTF-8: train on them with data.encoding=utf-8")


@dataclass(frozen=True)
class LabelFormat:
    """How a CSV of images and labels is written."""

    paths: pa.ChunkedArray
    """The absolute path or URI of each image, as bytes."""
    folder: str | None
    """The folder of the CSV, with symbolic links resolved; None in object storage, where paths are absolute."""
    settings: Data
    """The delimiters and the Unicode form with which the CSV will be read."""

    def line(self, row: dict, path: bytes) -> str:
        """Return the line of an image, without a line end.

        Args:
            row: A row of `ROWS`, with units.
            path: The path of the image.

        Raises:
            ValueError: The image was not read, or a CSV cannot hold its path or label.
        """
        if row["error"] is not None:
            raise ValueError(row["error"])
        split, form = self.settings.string_split_delimiter, self.settings.unicode_form
        units = tuple(unit["text"] for unit in row["units"])
        is_plain = csv_files.split_label(row["text"], split, form) == units
        label = format_label(row["text"] if is_plain else units, split)
        try:
            name = path.decode()
        except UnicodeDecodeError:
            raise ValueError("its name is not UTF-8, so a CSV cannot hold it: rename the file") from None
        fields = self._path_in_csv(name, is_absolute=os.path.isabs(row["path"])), label
        delimiter = self.settings.csv_delimiter
        return delimiter.join(csv_files.write_field(field, delimiter) for field in fields)

    def _path_in_csv(self, path: str, is_absolute: bool) -> str:
        if storage.is_uri(path) or is_absolute or self.folder is None:
            return path
        # Not of the whole path: the image may be a link to a file of another name.
        folder, name = os.path.split(path)
        relative = os.path.join(os.path.relpath(_real_path(folder), self.folder), name).removeprefix("./")
        return f"./{relative}" if relative.startswith("~") else relative


_real_path = functools.lru_cache(maxsize=100)(os.path.realpath)


def open_file(path: Path, layout: Layout) -> IO:
    """Open a file to write in a layout. Raises `OSError`."""
    if layout.format == "parquet":
        return path.open("wb")
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def make_writer(file: IO, layout: Layout) -> Writer:
    """Return the writer of a layout to stdout, or to a file that `open_file` opened."""
    if layout.format == "parquet":
        return ParquetWriter(file, layout)
    if layout.format == "labels":
        assert layout.labels is not None
        return LabelsWriter(file, layout.labels)
    return JsonlWriter(file) if layout.format == "jsonl" else CsvWriter(file, layout)
