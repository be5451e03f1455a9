"""The encodings of CSVs: byte order marks, other encodings, and what is no text."""

import re

import pytest

from raycrnn.data import csv_files
from raycrnn.data.csv_files import Row, read_csv
from raycrnn.errors import UsageError
from tests.data.csv_samples import csv


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("latin-1", "a;é\n"),
        ("cp1252", "a;€5\n"),
        ("utf-16", "a;é\nb;Ċ\n"),
        ("utf-16-le", "a;é\nb;2\n"),
        ("shift_jis", "a;日\n"),
    ],
)
def test_the_encoding_is_a_setting(tmp_path, encoding, text):
    rows = read_csv(csv(tmp_path, text.encode(encoding)), encoding=encoding).rows
    assert [f"{row.path};{row.label}\n" for row in rows] == text.splitlines(keepends=True)


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", "UTF8", "utf_8", "utf-8-sig", "U8"])
def test_a_byte_order_mark_is_removed_under_every_name_of_utf_8(tmp_path, encoding):
    assert read_csv(csv(tmp_path, b"\xef\xbb\xbfa;1"), encoding=encoding).rows == [Row("a", "1", 1)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_tells_other_encodings_from_utf_8(tmp_path, encoding):
    """Excel's "Unicode Text" is UTF-16 with tabs."""
    content = "a.png\té\nb.png\t京\n".encode(encoding)
    assert read_csv(csv(tmp_path, content), "\t").rows == [Row("a.png", "é", 1), Row("b.png", "京", 2)]


@pytest.mark.parametrize("encoding", ["UTF-16-LE", "utf_16_be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_that_fits_the_encoding_is_removed(tmp_path, encoding):
    path = csv(tmp_path, "\ufeffa.png;é\n".encode(encoding))
    assert read_csv(path, encoding=encoding).rows == [Row("a.png", "é", 1)]
    assert csv_files.read_text(path, encoding)[1] == encoding


@pytest.mark.parametrize(
    ("of_file", "encoding", "mark"),
    [
        ("utf-8", "cp1252", "utf-8"),
        ("utf-8", "utf-16", "utf-8"),
        ("utf-16-le", "utf-16-be", "utf-16"),
        ("utf-16-be", "latin-1", "utf-16"),
        ("utf-32-le", "utf-16-le", "utf-32"),
    ],
)
def test_a_byte_order_mark_that_contradicts_the_encoding_is_refused(tmp_path, of_file, encoding, mark):
    path = csv(tmp_path, "\ufeffa;1\n".encode(of_file))
    message = f"{path}: begins with the byte order mark of {mark}, so it is not {encoding}: set data.encoding ("
    with pytest.raises(UsageError, match=re.escape(message)):
        read_csv(path, encoding=encoding)
    assert read_csv(path, encoding=mark).rows == [Row("a", "1", 1)]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_byte_order_mark_is_recognised_by_its_nuls(tmp_path, encoding):
    path = csv(tmp_path, "images/a.png;text\nimages/b.png;é\n".encode(encoding))
    with pytest.raises(UsageError, match=rf"as in {encoding} without a byte order mark: set .* to {encoding}"):
        read_csv(path)


@pytest.mark.parametrize("nuls", ["\0", "\0" * 1000])
def test_a_nul_concerns_its_own_row(tmp_path, nuls):
    """A disk that lost power may fill the end of a file with NULs."""
    rows = read_csv(csv(tmp_path, f"a.png;1\nb.png;2{nuls}".encode())).rows
    assert rows == [Row("a.png", "1", 1), Row("b.png", f"2{nuls}", 2)]


@pytest.mark.parametrize(
    ("content", "encoding", "line"),
    [
        (b"\xff", "utf-8", 1),
        (b"a;1\nb;\xe9\nc;3\n", "utf-8", 2),
        (b"a;1\r\nb;2\r\n\xe9", "utf-8", 3),
        (b"\xef\xbb\xbfa\n\xff", "utf-8", 2),
        (b"\xef\xbb\xbf\n\n\xff\n", "utf-8", 3),
        ("a;1\nb;é".encode(), "ascii", 2),
    ],
)
def test_the_error_of_invalid_bytes_names_their_line(tmp_path, content, encoding, line):
    path = csv(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        read_csv(path, encoding=encoding)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert encoding in message
    assert "data.encoding" in message


def test_a_file_that_is_no_text_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"data\.csv: not a CSV file, but a ZIP archive, or .* XLSX.*: name a text"):
        read_csv(csv(tmp_path, b"PK\3\4\x14\0\6\0"))
