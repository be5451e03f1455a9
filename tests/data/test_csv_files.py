"""CSV rows and labels: the rules of the format, and round trips."""

import itertools
import os
import re
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raycrnn import config
from raycrnn.data import csv_files
from raycrnn.data.csv_files import Row, parse_row, read_csv, split_label, write_field
from raycrnn.errors import UsageError
from tests.data.csv_samples import csv


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.png;text", "a.png", "text"),
        ("a.png;", "a.png", ""),
        ("a.png", "a.png", None),
        ("a.png;b;c;;d", "a.png", "b;c;;d"),
        ("a.png;;", "a.png", ";"),
        ("a b.png; text ", "a b.png", " text "),
        ('a.png;"text"', "a.png", "text"),
        ('a.png;"a;b"', "a.png", "a;b"),
        ('a.png;""', "a.png", ""),
        ('a.png;""""', "a.png", '"'),
        ('a.png;"say ""yes"""', "a.png", 'say "yes"'),
        ('a.png;""""""', "a.png", '""'),
        ('a.png;5" disk', "a.png", '5" disk'),
        ('a.png;say "yes"', "a.png", 'say "yes"'),
        ('a.png;it""s', "a.png", 'it""s'),
        ('a.png; "text"', "a.png", ' "text"'),
        ('"a;b.png";text', "a;b.png", "text"),
        ('"a;b.png";"c;d"', "a;b.png", "c;d"),
        ('"a""b.png";text', 'a"b.png', "text"),
        ('"a.png"', "a.png", None),
        ('"a.png";', "a.png", ""),
        ('a"b.png;text', 'a"b.png', "text"),
        ("a.png;|a|b| |c;d|", "a.png", "|a|b| |c;d|"),
        ("a.png;1,5", "a.png", "1,5"),
        ("s3://bucket/a.png;text", "s3://bucket/a.png", "text"),
        ("日本/é.png;東京", "日本/é.png", "東京"),
        ("a.png;\u2028 \x0b\x0c\x85", "a.png", "\u2028 \x0b\x0c\x85"),
    ],
)
def test_a_row_consists_of_path_and_label(line, path, label):
    assert parse_row(line, 7) == Row(path, label, 7)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (";text", "path is empty"),
        (";", "path is empty"),
        ('"";text', "path is empty"),
        ('""', "path is empty"),
        ('"a.png;text', "not closed"),
        ('a.png;"text', "not closed"),
        ('a.png;"text""', "not closed"),
        ('a.png;"', "not closed"),
        ('"', "not closed"),
        ('"a"b.png;text', "follow a closing quote"),
        ('a.png;"text" more', "follow a closing quote"),
        ('a.png;"a";"b"', "follow a closing quote"),
        ('"a.png" ;text', "follow a closing quote"),
    ],
)
def test_a_malformed_row_has_its_line_and_the_problem(line, problem):
    row = parse_row(line, 3)
    assert (row.path, row.label, row.line) == (line, None, 3)
    assert problem in row.problem


@pytest.mark.parametrize(
    ("delimiter", "line", "path", "label"),
    [
        (",", "a.png,b;c,d", "a.png", "b;c,d"),
        ("\t", "a b.png\tc d", "a b.png", "c d"),
        (",", '"a,b.png","c,d"', "a,b.png", "c,d"),
        ("|", "a.png|b|c", "a.png", "b|c"),
        ("é", "a.pngéb", "a.png", "b"),
    ],
)
def test_the_delimiter_is_a_setting(delimiter, line, path, label):
    assert parse_row(line, 1, delimiter) == Row(path, label, 1)


LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
DELIMITERS = st.sampled_from(";,\t|: é")


@given(path=LINES.filter(bool), label=st.none() | LINES, delimiter=DELIMITERS)
def test_a_written_row_is_parsed_to_the_same_row(path, label, delimiter):
    line = write_field(path, delimiter)
    if label is not None:
        line += delimiter + write_field(label, delimiter)
    assert parse_row(line, 1, delimiter) == Row(path, label, 1)


ROWS = st.lists(st.tuples(LINES.filter(str.strip), LINES), max_size=6)


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_written_file_is_read_to_the_same_rows(tmp_path_factory, rows, line_end, mark):
    assume(mark or not rows or not rows[0][0].startswith("\ufeff"))
    text = "".join(f"{write_field(path)};{write_field(label)}{line_end}" for path, label in rows)
    file = tmp_path_factory.getbasetemp() / "round_trip.csv"
    file.write_bytes(("\ufeff" * mark + text).encode())
    read = read_csv(file)
    # The first row may look like a header, if the second one names an image.
    header = [read.header] if read.header else []
    assert [(row.path, row.label) for row in (*header, *read.rows)] == rows


@given(st.text(alphabet='ab";|\u2028 ', max_size=12), st.integers(1, 99))
def test_every_line_is_a_row_or_has_a_problem(line, number):
    row = parse_row(line, number)
    assert row.line == number
    if row.problem:
        assert (row.path, row.label) == (line, None)
    else:
        assert row.path
        assert len(row.path) + len(row.label or "") <= len(line)


@pytest.mark.parametrize("text", ["a\nb", "a\r", "\r\n"])
def test_a_line_end_cannot_be_written(text):
    with pytest.raises(ValueError, match="line end"):
        write_field(text)


@pytest.mark.parametrize(
    ("text", "field"),
    [("a", "a"), ("a;b", '"a;b"'), ('"a"', '"""a"""'), ('a"b', 'a"b'), ("", ""), ('a";b', '"a"";b"')],
)
def test_a_field_is_quoted_only_if_necessary(text, field):
    assert write_field(text) == field


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a;1\nb;2\n", [("a", "1", 1), ("b", "2", 2)]),
        (b"a;1\nb;2", [("a", "1", 1), ("b", "2", 2)]),
        (b"a;1\r\nb;2\r\n", [("a", "1", 1), ("b", "2", 2)]),
        (b"a;1\r\nb;2", [("a", "1", 1), ("b", "2", 2)]),
        (b"a;1\nb;2\r\n", [("a", "1", 1), ("b", "2", 2)]),
        (b"a;1\r\r\nb;2\r\r\n", [("a", "1", 1), ("b", "2", 2)]),
        (b"a;1\r2\nb;3\r\r\n", [("a;1\r2", None, 1), ("b", "3", 2)]),
        (b"\xef\xbb\xbfa;1\nb;2\n", [("a", "1", 1), ("b", "2", 2)]),
        (b'\xef\xbb\xbf"a";1\n', [("a", "1", 1)]),
        (b"\n\na;1\n  \n\r\n\t\nb;2\n\n", [("a", "1", 3), ("b", "2", 7)]),
        ("a;1\u20282\nb;\u2029\x0c\x85\n".encode(), [("a", "1\u20282", 1), ("b", "\u2029\x0c\x85", 2)]),
        ("a;é\n".encode(), [("a", "é", 1)]),
        (b'a;"1\nb;2"\n', [('a;"1', None, 1), ("b", '2"', 2)]),
        (b"a\nb;\n", [("a", None, 1), ("b", "", 2)]),
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n", []),
    ],
)
def test_rows_have_their_line_numbers(tmp_path, content, rows):
    file = read_csv(csv(tmp_path, content))
    assert [(row.path, row.label, row.line) for row in file.rows] == rows
    assert file.path == str(tmp_path / "data.csv")


def test_a_malformed_row_does_not_affect_its_neighbours(tmp_path):
    rows = read_csv(csv(tmp_path, b'a;1\nb;"2\n;3\nc;4\n')).rows
    assert [row.problem is None for row in rows] == [True, False, False, True]
    assert [row.line for row in rows] == [1, 2, 3, 4]


def test_a_missing_csv_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.csv: no such CSV file") as caught:
        read_csv(tmp_path / "nowhere.csv")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r"no such CSV file \(the path contains U\+200B ZERO WIDTH SPACE\)"):
        read_csv(tmp_path / "nowhere.csv\u200b")


def test_a_folder_is_not_a_csv(tmp_path):
    with pytest.raises(UsageError, match="is a folder; name a CSV file"):
        read_csv(tmp_path)


@pytest.mark.parametrize(
    ("field", "resolved"),
    [
        ("a.png", "HERE/sets/one/a.png"),
        ("sub/a.png", "HERE/sets/one/sub/a.png"),
        ("../a.png", "HERE/sets/one/../a.png"),
        ("/abs/a.png", "/abs/a.png"),
        ("s3://bucket/a.png", "s3://bucket/a.png"),
        ("file:///abs/a.png", "file:///abs/a.png"),
    ],
)
def test_relative_paths_are_relative_to_the_folder_of_the_csv(field, resolved):
    """`..` is not normalised, because after a symbolic link it leads elsewhere."""
    expected = resolved.replace("HERE", os.getcwd())
    assert csv_files.CsvFile("sets/one/data.csv", []).resolve(csv_files.Row(field, None, 1)) == expected
    assert (
        csv_files.CsvFile(os.path.join(os.getcwd(), "sets/one/data.csv"), []).resolve(csv_files.Row(field, None, 1))
        == expected
    )


@pytest.mark.parametrize(
    ("first", "second", "is_header"),
    [
        ("filename;words", "images/0.png;12", True),
        ("path", "images/0.PNG", True),
        ("image;label", "without_suffix;12", True),
        # No row names an image, so the first is not special.
        ("a;1", "b;2", False),
        ("a;1", "b.txt;2", False),
        # The image of the first row is missing.
        ("gone.png;1", "images/0.png;2", False),
        ("without_suffix;1", "images/0.png;2", False),
        ('"quote;1', "images/0.png;2", False),
    ],
)
def test_a_first_row_that_names_no_image_is_a_header(tmp_path, first, second, is_header):
    (tmp_path / "without_suffix").touch()
    file = read_csv(csv(tmp_path, f"\n{first}\n{second}\nc.png;3\n".encode()))
    rows = [parse_row(line, number) for number, line in enumerate([first, second, "c.png;3"], 2)]
    assert file.header == (rows[0] if is_header else None)
    assert file.rows == (rows[1:] if is_header else rows)


def test_a_header_is_logged(tmp_path, caplog):
    with caplog.at_level("INFO"):
        read_csv(csv(tmp_path, b"filename;words\na.png;1\n"))
    assert "line 1: 'filename;words' is left out as a header, because it names no image" in caplog.text


@pytest.mark.parametrize(
    ("rows", "hint"),
    [
        (
            "a.png\t1\nb.png\t2\n",
            "every row contains a tab: if it separates path and label, set data.csv_delimiter=tab",
        ),
        ("a.png,1\nb.png,2\n", "set data.csv_delimiter=,"),
        ("a.png,1\nb.png\n", "data.csv_delimiter sets the delimiter"),
    ],
)
def test_a_csv_without_labels_is_refused_with_a_hint_about_the_delimiter(tmp_path, rows, hint):
    path = csv(tmp_path, rows.encode())
    with pytest.raises(UsageError, match=re.escape(hint)):
        csv_files.read_labelled_csvs([str(path)], config.Data(csv_files_train="x"))


def test_a_csv_without_a_readable_row_is_refused_with_the_first_problem(tmp_path):
    path = csv(tmp_path, b'"a.png;1\n"b.png;2\n')
    with pytest.raises(
        UsageError, match=r"data\.csv, line 1: a quote is not closed on this line; no row .* can be read"
    ):
        csv_files.read_labelled_csvs([str(path)], config.Data(csv_files_train="x"))


# --- labels


@pytest.mark.parametrize(
    ("label", "units"),
    [
        ("|d|i|e| |quondam| |1|6|", ("d", "i", "e", " ", "quondam", " ", "1", "6")),
        ("|d|i|e| |quondam|", ("d", "i", "e", " ", "quondam")),
        ("|a|b", ("a", "b")),
        ("|a||b|", ("a", "b")),
        ("|", ()),
        ("||", ()),
        ("| |", (" ",)),
        ("", ()),
        ("abc", ("a", "b", "c")),
        ("a b", ("a", " ", "b")),
        (" a ", (" ", "a", " ")),
        ("a|b", ("a", "|", "b")),
        (" |a|", (" ", "|", "a", "|")),
        ("$5;", ("$", "5", ";")),
        ("e\u0301a", ("é", "a")),
        ("|e\u0301|a|", ("é", "a")),
        ("|e|\u0301|", ("e", "\u0301")),
        ("x\u0301", ("x", "\u0301")),
        ("😀", ("😀",)),
    ],
)
def test_a_label_is_split_at_delimiters_or_into_characters(label, units):
    assert split_label(label) == units


def test_the_split_delimiter_is_a_setting():
    assert split_label("^ab^c|^", "^") == ("ab", "c|")
    assert split_label("|a|", "^") == ("|", "a", "|")


@pytest.mark.parametrize(
    ("form", "units"),
    [
        ("NFC", ("é", "ﬁ")),
        ("NFD", ("e", "\u0301", "ﬁ")),
        ("NFKC", ("é", "f", "i")),
        ("NFKD", ("e", "\u0301", "f", "i")),
    ],
)
def test_the_unicode_form_is_a_setting(form, units):
    assert split_label("éﬁ", unicode_form=form) == units
    assert split_label("e\u0301ﬁ", unicode_form=form) == units


@given(st.lists(st.text(st.characters(exclude_characters="|"), max_size=4)))
def test_delimited_units_are_split_and_empty_ones_ignored(units):
    expected = tuple(unicodedata.normalize("NFC", unit) for unit in units if unit != "")
    assert split_label("|" + "|".join(units) + "|") == expected


@given(st.text().filter(lambda text: not text.startswith("|")))
def test_a_plain_label_is_split_into_all_its_characters(label):
    units = split_label(label)
    assert "".join(units) == unicodedata.normalize("NFC", label)
    assert all(len(unit) == 1 for unit in units)


@given(st.lists(st.integers(0, 2), max_size=4))
def test_min_frames_is_the_length_of_the_shortest_path_of_the_label(codes):
    def collapses_to_label(path):
        return [code for code, _ in itertools.groupby(path) if code != 3] == codes

    length = csv_files.min_frames(codes)
    assert any(collapses_to_label(path) for path in itertools.product(range(4), repeat=length))
    assert length == 0 or not any(map(collapses_to_label, itertools.product(range(4), repeat=length - 1)))


def test_lines_that_end_in_cr_alone_are_refused(tmp_path):
    (tmp_path / "mac.csv").write_bytes(b"a.png;x\rb.png;y\r")
    with pytest.raises(UsageError, match="CR alone"):
        csv_files.read_csv(tmp_path / "mac.csv")
