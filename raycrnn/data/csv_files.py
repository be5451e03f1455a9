"""CSV files that list images and labels.

A row is `path;label`. The first delimiter separates the two, so a label can contain the delimiter. A field that starts
with `"` is quoted as in RFC 4180, but never spans lines; elsewhere, quotes are plain characters. Blank lines are
ignored. A header, that is, a first row that names columns instead of an image, is left out.
"""

import codecs
import hashlib
import itertools
import logging
import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raycrnn import config, storage
from raycrnn.data import characters, file_kinds, generated_lines
from raycrnn.data.alphabet import UnicodeForm
from raycrnn.data.image_files import has_image_suffix
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: ("utf-8-sig", "utf-8"),
    # Before UTF-16, whose little-endian mark begins with the same two bytes.
    codecs.BOM_UTF32_LE: ("utf-32", "utf-32-le"),
    codecs.BOM_UTF32_BE: ("utf-32", "utf-32-be"),
    codecs.BOM_UTF16_LE: ("utf-16", "utf-16-le"),
    codecs.BOM_UTF16_BE: ("utf-16", "utf-16-be"),
}
"""The encodings of a file that begins with a byte order mark, and of its text after the mark."""

LIST_SUFFIXES = (".csv", ".tsv", ".txt")
"""Suffixes of the files that list images."""

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
    reference: str | None = None
    """The path of an image that is not a file of its own, for `image_files`."""
    size: tuple[int, int] | None = None
    """The upright width and height in pixels, if they are known."""


@dataclass(frozen=True)
class CsvFile:
    """A CSV file, or a packed data set, and its rows."""

    path: str
    rows: list[Row]
    """The rows without the header."""
    header: Row | None = None
    """The first row, if it names columns instead of an image."""

    def resolve(self, row: Row) -> str:
        """Return the absolute path or the URI of a row's image: relative paths are relative to the CSV's folder."""
        return row.reference or storage.resolve_relative(self.path, row.path)


def read_csv(path: str | Path, delimiter: str = ";", encoding: str = "utf-8") -> CsvFile:
    """Read all rows of a CSV file, including malformed ones.

    Args:
        path: Path or URI.
        delimiter: The character between path and label.
        encoding: A Python encoding; with UTF-8, a byte order mark is removed.

    Raises:
        UsageError: The file does not exist, cannot be read, or is not in the encoding.
    """
    header, rows = _parse(path, read_text(path, encoding)[0], delimiter)
    return CsvFile(str(path), list(rows), header)


def iter_list(path: str | Path, settings: config.Data) -> Iterator[Row]:
    """Yield the rows of a list of images, which need no label, with little more memory than the file's text.

    The delimiter is the configured one, unless the first row has a tab and no such character before it.

    Raises:
        UsageError: The file does not exist, cannot be read, or is not in the encoding.
    """
    text, _ = read_text(path, settings.encoding)
    first = next((line for line in split_lines(text) if line.strip()), "")
    before, tab, _ = first.partition("\t")
    is_tabbed = bool(tab) and settings.csv_delimiter not in before
    yield from _parse(path, text, "\t" if is_tabbed else settings.csv_delimiter)[1]


def _parse(path: str | Path, text: str, delimiter: str) -> tuple[Row | None, Iterator[Row]]:
    """Return the header in the text of a CSV file, or None, and its other rows."""
    lines = enumerate(split_lines(text), 1)
    rows = (parse_row(line, number, delimiter) for number, line in lines if line.strip())
    first_two = list(itertools.islice(rows, 2))
    if len(first_two) < 2 or not _is_header(CsvFile(str(path), first_two)):
        return None, itertools.chain(first_two, rows)
    header = first_two[0]
    columns = header.path if header.label is None else f"{header.path}{delimiter}{header.label}"
    logger.info(f"{path}, line {header.line}: {columns!r} is left out as a header, because it names no image")
    return header, itertools.chain(first_two[1:], rows)


def _is_header(file: CsvFile) -> bool:
    """Return whether the first of a file's rows names columns: it names no image, but the second row does."""
    first, second = file.rows
    if first.problem or second.problem or has_image_suffix(first.path):
        return False
    return not _exists(file.resolve(first)) and (has_image_suffix(second.path) or _exists(file.resolve(second)))


def _exists(path: str) -> bool:
    try:
        return storage.exists(path)
    except OSError:
        # Storage is unreachable; reading the image reports it.
        return False


SAVE_AS_CSV = "name a text file with one row per image; save a spreadsheet as CSV"

SET_ENCODING = "set data.encoding (--encoding of convert, labels and split) to {}"


def read_text(
    path: str | Path,
    encoding: str = "utf-8",
    kind: str = "CSV",
    remedy: str = SAVE_AS_CSV,
    encoding_remedy: str = SET_ENCODING,
) -> tuple[str, str]:
    """Return the text of a file without a byte order mark, and the encoding that the file is in.

    The encoding is the given one, unless that is UTF-8 and a byte order mark indicates another one.

    Args:
        kind: What the file should be, for messages.
        remedy: What to do if it is a document instead.
        encoding_remedy: What to do if it has another encoding, whose name replaces {}.

    Raises:
        UsageError: The file does not exist, cannot be read, is no text file, or is not in the encoding.
    """
    try:
        data = storage.read(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such {kind} file{characters.notes_on(str(path))}") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; name a {kind} file") from None
    except OSError as error:
        raise UsageError(f"{path}: the {kind} file cannot be read: {storage.describe(error)}") from None
    if document := file_kinds.describe_document(data[: file_kinds.HEAD_BYTES], remedy):
        raise UsageError(f"{path}: not a {kind} file, but {document}")
    data, encoding = _skip_mark(path, data, encoding, encoding_remedy)
    if found := _utf_16_without_mark(data, encoding):
        remedy = encoding_remedy.format(found)
        raise UsageError(f"{path}: every other byte is NUL, as in {found} without a byte order mark: {remedy}")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        remedy = encoding_remedy.format("the file's encoding, such as cp1252")
        raise UsageError(f"{path}, line {line}: the text is not {encoding}: {remedy}") from None
    if "\r" in text and "\n" not in text:
        raise UsageError(f"{path}: the lines end in CR alone, as on old Macs: save the file with LF or CRLF")
    return text, encoding


def _skip_mark(path: str | Path, data: bytes, encoding: str, encoding_remedy: str) -> tuple[bytes, str]:
    """Return the bytes of a text file without a byte order mark that would be decoded as text, and their encoding.

    Raises:
        UsageError: The mark is that of another encoding than the given one, which is not UTF-8.
    """
    mark = next(filter(data.startswith, BYTE_ORDER_MARKS), None)
    if mark is None:
        return data, encoding
    name = codecs.lookup(encoding).name
    of_file, of_text = BYTE_ORDER_MARKS[mark]
    if name in ("utf-8", "utf-8-sig", of_file):
        return data, of_file
    if name == of_text:
        return data[len(mark) :], encoding
    found = of_file.removesuffix("-sig")
    remedy = encoding_remedy.format(found)
    raise UsageError(f"{path}: begins with the byte order mark of {found}, so it is not {encoding}: {remedy}")


def _utf_16_without_mark(data: bytes, encoding: str) -> str | None:
    """Return the encoding of text in UTF-16 that would be decoded as an encoding of bytes; None if it is none.

    In UTF-16, every other byte of Latin text is NUL. Other NULs are damage to single rows.
    """
    head = data[: file_kinds.HEAD_BYTES]
    odd, even = head[1::2].count(0), head[::2].count(0)
    if abs(odd - even) <= len(head) / 4 or codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def split_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text without their ends: LF, CRLF, or the CR CR LF of some programs on Windows."""
    # Not splitlines(), which also splits at U+2028, form feeds and other characters that labels can contain.
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end].rstrip("\r")
        start = end + 1
    yield text[start:].rstrip("\r")


def parse_row(line: str, number: int, delimiter: str = ";") -> Row:
    """Parse one line, with its number in the file, to a row."""
    if "\r" in line:
        return Row(line, None, number, "a carriage return in the line")
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


def units_of(row: Row, settings: config.Data) -> tuple[str, ...]:
    """Return the normalised units of a row's label; none if it has no label."""
    return split_label(row.label or "", settings.string_split_delimiter, settings.unicode_form)


def min_frames(codes: Sequence[Hashable]) -> int:
    """Return the number of frames that CTC needs for a label.

    A label needs a frame for every unit and one for a blank between every two equal neighbours (Graves et al. 2006).
    """
    return len(codes) + sum(a == b for a, b in itertools.pairwise(codes))


def read_labelled_csvs(csvs: Sequence[str], settings: config.Data) -> list[CsvFile]:
    """Read CSV files, packed data sets or recipes, each of which must have rows and at least one label.

    Raises:
        UsageError: A file cannot be read, has no rows, or has no labels.
    """
    files = [_read_source(path, settings) for path in csvs]
    for file in files:
        if not file.rows:
            raise UsageError(f"{file.path}: the CSV has no rows; a row is path{settings.csv_delimiter}label")
        if all(row.problem for row in file.rows):
            first = file.rows[0]
            raise UsageError(f"{file.path}, line {first.line}: {first.problem}; no row of this CSV can be read")
        if all(row.label is None for row in file.rows):
            raise UsageError(
                f"{file.path}: no row has a label; a row is path{settings.csv_delimiter}label "
                f"({_delimiter_hint(file.rows)})"
            )
    return files


def find_packed(path: str) -> list[str]:
    """Return the files of a packed data set, or none if a path or URI is that of a CSV. Raises `UsageError`."""
    name = path.partition("?")[0] if storage.is_uri(path) else path
    if name.lower().endswith(LIST_SUFFIXES) or generated_lines.is_recipe(name):
        return []
    from raycrnn.data import packed_images

    try:
        return packed_images.find_files(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {storage.describe(error)}") from None


def _read_source(path: str, settings: config.Data) -> CsvFile:
    """Read a CSV, a packed data set, or a recipe, whose rows are numbered from 1."""
    if generated_lines.is_recipe(path):
        lines = enumerate(generated_lines.read_rows(path), 1)
        return CsvFile(path, [Row(name, label, line, None, name, size) for line, (name, label, size) in lines])
    files = find_packed(path)
    if not files:
        return read_csv(path, settings.csv_delimiter, settings.encoding)
    from raycrnn.data import packed_images

    rows = enumerate(packed_images.read_rows(files), 1)
    return CsvFile(path, [Row(row.path, row.label, line, None, row.reference, row.size) for line, row in rows])


def digest(path: str) -> str:
    """Return the SHA-256 of a CSV or recipe, or of the images and labels in a packed data set. Raises `UsageError`."""
    if files := find_packed(path):
        from raycrnn.data import packed_images

        return packed_images.digest(files)
    return hashlib.sha256(storage.read(path)).hexdigest()


def _delimiter_hint(rows: Sequence[Row]) -> str:
    """Return which setting reads rows that have no label."""
    for delimiter, name, value in (("\t", "a tab", "tab"), (",", "a comma", ","), (";", "a semicolon", "';'")):
        if all(delimiter in row.path for row in rows if not row.problem):
            return f"every row contains {name}: if it separates path and label, set data.csv_delimiter={value}"
    return "data.csv_delimiter sets the delimiter"
