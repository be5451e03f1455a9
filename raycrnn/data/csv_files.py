"""CSV rows: a path and a label, and why a sample may have to be left out.

A row is `path;label`. The first delimiter splits, so the label may hold more of them. A field that begins with
`"` is read by RFC 4180's quoting (never across lines), otherwise quotes are plain characters. There is no
header; blank lines are no rows.
"""

import codecs
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raycrnn import config, storage
from raycrnn.data.alphabet import Alphabet
from raycrnn.errors import UsageError

UNKNOWN = -1
"""The code of a unit that the alphabet lacks, in references that are only scored."""


@dataclass(frozen=True)
class Row:
    """One row as it stands in the CSV."""

    path: str
    label: str | None
    """None where the row holds the path alone"""
    line: int
    """line number in the file, from 1"""
    problem: str | None = None
    """what is malformed; path is then the whole line and label None"""


@dataclass(frozen=True)
class CsvFile:
    path: str
    rows: list[Row]

    def resolve(self, field: str) -> str:
        """A row's path as any process takes it: absolute and URIs as they are, else beside the CSV."""
        return storage.resolve_relative(self.path, field)


def read_csv(path: str | Path, delimiter: str = ";", encoding: str = "utf-8") -> CsvFile:
    """Read all rows of a CSV. Malformed rows are rows too, with their `problem`.

    Raises:
        UsageError: no such file, or bytes that are not in the encoding, with the line.
    """
    return CsvFile(str(path), list(iter_rows(path, delimiter, encoding)))


def iter_rows(path: str | Path, delimiter: str = ";", encoding: str = "utf-8") -> Iterator[Row]:
    """`read_csv`, row by row: a file of millions takes little more memory than its text."""
    for number, line in enumerate(_lines(_read_text(path, encoding)), 1):
        if line.strip():
            yield parse_row(line, number, delimiter)


def _read_text(path: str | Path, encoding: str) -> str:
    try:
        data = storage.read(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such CSV file") from None
    except OSError as error:
        raise UsageError(f"{path}: the CSV cannot be read: {storage.describe(error)}") from None
    try:
        text = data.decode("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}, line {line}: the bytes are not {encoding}: name the encoding (data.encoding, or --encoding of "
            "split), such as cp1252"
        ) from None
    if "\r" in text and "\n" not in text:
        raise UsageError(f"{path}: its lines end in CR alone, as on old Macs: write them with LF or CRLF")
    return text


def _lines(text: str) -> Iterator[str]:
    # Not splitlines(): a label may hold U+2028, a form feed and others that it takes for line ends.
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end].removesuffix("\r")
        start = end + 1
    yield text[start:].removesuffix("\r")


def parse_row(line: str, number: int, delimiter: str = ";") -> Row:
    try:
        path, rest = _take_field(line, delimiter)
        label = None
        if rest is not None:
            label, rest = _take_field(rest, None)
    except ValueError as error:
        return Row(line, None, number, str(error))
    if not path:
        return Row(line, None, number, "the path is empty")
    return Row(path, label, number)


def _take_field(text: str, delimiter: str | None) -> tuple[str, str | None]:
    """The first field of a text and what follows its delimiter, None at the end. Without one: the last field."""
    if not text.startswith('"'):
        field, found, rest = text.partition(delimiter) if delimiter else (text, "", "")
        return field, rest if found else None
    end = 1
    while True:
        end = text.find('"', end)
        if end < 0:
            raise ValueError("a quote is opened and not closed on this line")
        if text[end + 1 : end + 2] != '"':
            break
        end += 2
    field, rest = text[1:end].replace('""', '"'), text[end + 1 :]
    if not rest:
        return field, None
    if delimiter is None or not rest.startswith(delimiter):
        raise ValueError("characters follow a closing quote")
    return field, rest[1:]


def write_field(text: str, delimiter: str = ";") -> str:
    """A field as `parse_row` reads it back. Raises `ValueError` on a line end, which no row can hold."""
    if "\n" in text or "\r" in text:
        raise ValueError(f"{text!r} holds a line end; a row is one line")
    return '"' + text.replace('"', '""') + '"' if delimiter in text or text.startswith('"') else text


def split_label(label: str, split_delimiter: str = "|", unicode_form: str = "NFC") -> tuple[str, ...]:
    """A label's units, normalised.

    A label whose first character is the split delimiter is a sequence of units between delimiters, empty ones
    ignored: `|d|i|e| |quondam|` has five. Any other label is one unit a character.
    """
    if label.startswith(split_delimiter):
        units = label.split(split_delimiter)
        return tuple(unicodedata.normalize(unicode_form, unit) for unit in units if unit)
    return tuple(unicodedata.normalize(unicode_form, label))


def mixes_label_forms(rows: Sequence[Row], split_delimiter: str = "|") -> bool:
    """Whether some labels are sequences between delimiters and some are plain: mostly an oversight."""
    forms = {row.label.startswith(split_delimiter) for row in rows if row.label}
    return len(forms) == 2


def min_frames(codes: Sequence[int]) -> int:
    """Frames that CTC needs for a label: one a unit, and a blank between equal neighbours (Graves et al. 2006)."""
    return len(codes) + sum(a == b for a, b in itertools.pairwise(codes))


def read_labelled_csvs(csvs: Sequence[str], settings: config.Data) -> list[CsvFile]:
    """Read CSVs that must have rows and labels. Raises `UsageError`."""
    files = [read_csv(path, settings.csv_delimiter, settings.encoding) for path in csvs]
    for file in files:
        if not file.rows:
            raise UsageError(f"{file.path}: the CSV holds no rows; a row is path{settings.csv_delimiter}label")
        if all(row.label is None for row in file.rows):
            raise UsageError(
                f"{file.path}: no row has a label: a row is path{settings.csv_delimiter}label "
                "(data.csv_delimiter sets what stands between them)"
            )
    return files


def load_or_build_alphabet(files: Sequence[CsvFile], settings: config.Data) -> Alphabet:
    """The configured alphabet, or the one of the labels. Raises `UsageError`."""
    if settings.lookup_alphabet_file is not None:
        return Alphabet.load(settings.lookup_alphabet_file, settings.unicode_form)
    labels = {row.label for file in files for row in file.rows if row.label}
    units = [split_label(label, settings.string_split_delimiter, settings.unicode_form) for label in labels]
    if not any(units):
        names = ", ".join(file.path for file in files)
        raise UsageError(f"{names}: all labels are empty; a row is path{settings.csv_delimiter}label")
    return Alphabet.from_labels(units)
