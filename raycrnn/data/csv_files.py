"""CSV files that list images and labels.

A row is `path;label`. The first delimiter separates the two, so a label can contain the delimiter. A field that starts
with `"` is quoted as in RFC 4180, but never spans lines; elsewhere, quotes are plain characters. There is no header,
and blank lines are ignored.
"""

import codecs
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raycrnn import config, storage
from raycrnn.data.alphabet import Alphabet, UnicodeForm
from raycrnn.errors import UsageError

UNKNOWN = -1
"""Code of a unit that is not in the alphabet, in references that are only scored."""


@dataclass(frozen=True)
class Row:
    """A row of a CSV file."""

    path: str
    """The path of the image, as written in the row; of a malformed row, the line."""
    label: str | None
    """The label; None if the row has only a path or is malformed."""
    line: int
    """Line number in the file, from 1."""
    problem: str | None = None
    """Why the row is malformed; None if it is well-formed."""


@dataclass(frozen=True)
class CsvFile:
    """A CSV file and its rows."""

    path: str
    rows: list[Row]

    def resolve(self, field: str) -> str:
        """Return the absolute path or the URI for a row's path: relative paths are relative to the CSV's folder."""
        return storage.resolve_relative(self.path, field)


def read_csv(path: str | Path, delimiter: str = ";", encoding: str = "utf-8") -> CsvFile:
    """Read all rows of a CSV file, including malformed ones.

    Args:
        path: Path or URI.
        delimiter: The character between path and label.
        encoding: A Python encoding; with UTF-8, a byte order mark is removed.

    Raises:
        UsageError: The file does not exist, cannot be read, or contains bytes that are invalid in the encoding.
    """
    return CsvFile(str(path), list(iter_rows(path, delimiter, encoding)))


def iter_rows(path: str | Path, delimiter: str = ";", encoding: str = "utf-8") -> Iterator[Row]:
    """Yield the rows of `read_csv` one by one, which needs little more memory than the file's text."""
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
            f"{path}, line {line}: the text is not {encoding}: set data.encoding (--encoding of split) to the file's "
            "encoding, such as cp1252"
        ) from None
    if "\r" in text and "\n" not in text:
        raise UsageError(f"{path}: the lines end in CR alone, as on old Macs: save the file with LF or CRLF")
    return text


def _lines(text: str) -> Iterator[str]:
    # Not splitlines(), which also splits at U+2028, form feeds and other characters that labels can contain.
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end].removesuffix("\r")
        start = end + 1
    yield text[start:].removesuffix("\r")


def parse_row(line: str, number: int, delimiter: str = ";") -> Row:
    """Parse one line, with its number in the file, to a row."""
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
    """Split a text into its first field and the rest after the delimiter, which is None if there is no delimiter.

    Without a delimiter, the field extends to the end of the text.
    """
    if not text.startswith('"'):
        field, found, rest = text.partition(delimiter) if delimiter else (text, "", "")
        return field, rest if found else None
    end = 1
    while True:
        end = text.find('"', end)
        if end < 0:
            raise ValueError("a quote is not closed on this line")
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
    """Return a field as it is written to a CSV file, quoted if necessary.

    Raises:
        ValueError: The text contains a line end.
    """
    if "\n" in text or "\r" in text:
        raise ValueError(f"{text!r} contains a line end; a row is one line")
    return '"' + text.replace('"', '""') + '"' if delimiter in text or text.startswith('"') else text


def split_label(label: str, split_delimiter: str = "|", unicode_form: UnicodeForm = "NFC") -> tuple[str, ...]:
    """Split a label into normalised units.

    A label that starts with the split delimiter is a sequence of units between delimiters; empty units are ignored:
    `|d|i|e| |quondam|` has five units. In any other label, every character is a unit.
    """
    if label.startswith(split_delimiter):
        units = label.split(split_delimiter)
        return tuple(unicodedata.normalize(unicode_form, unit) for unit in units if unit)
    return tuple(unicodedata.normalize(unicode_form, label))


def mixes_label_forms(rows: Sequence[Row], split_delimiter: str = "|") -> bool:
    """Return whether some labels are sequences between delimiters and others are plain, which is usually a mistake."""
    forms = {row.label.startswith(split_delimiter) for row in rows if row.label}
    return len(forms) == 2


def min_frames(codes: Sequence[int]) -> int:
    """Return the number of frames that CTC needs for a label.

    A label needs a frame for every unit and one for a blank between every two equal neighbours (Graves et al. 2006).
    """
    return len(codes) + sum(a == b for a, b in itertools.pairwise(codes))


def read_labelled_csvs(csvs: Sequence[str], settings: config.Data) -> list[CsvFile]:
    """Read CSV files, each of which must have rows and at least one label.

    Raises:
        UsageError: A file cannot be read, has no rows, or has no labels.
    """
    files = [read_csv(path, settings.csv_delimiter, settings.encoding) for path in csvs]
    for file in files:
        if not file.rows:
            raise UsageError(f"{file.path}: the CSV has no rows; a row is path{settings.csv_delimiter}label")
        if all(row.label is None for row in file.rows):
            raise UsageError(
                f"{file.path}: no row has a label; a row is path{settings.csv_delimiter}label "
                "(data.csv_delimiter sets the delimiter)"
            )
    return files


def load_or_build_alphabet(files: Sequence[CsvFile], settings: config.Data) -> Alphabet:
    """Load the configured alphabet, or build one from the labels if none is configured.

    Raises:
        UsageError: The alphabet cannot be read, or all labels are empty.
    """
    if settings.lookup_alphabet_file is not None:
        return Alphabet.load(settings.lookup_alphabet_file, settings.unicode_form)
    labels = {row.label for file in files for row in file.rows if row.label}
    units = [split_label(label, settings.string_split_delimiter, settings.unicode_form) for label in labels]
    if not any(units):
        names = ", ".join(file.path for file in files)
        raise UsageError(f"{names}: all labels are empty; a row is path{settings.csv_delimiter}label")
    return Alphabet.from_labels(units)
