"""Warnings about the labels of a CSV."""

import pytest

from raycrnn import config
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.data.csv_warnings import warnings_of


def warnings(labels, **settings) -> list[str]:
    rows = [Row(f"{line}.png", label, line) for line, label in enumerate(labels, 1)]
    return warnings_of(CsvFile("a.csv", rows), config.Data(csv_files_train="a.csv", **settings))


NUMBERS = [str(number) for number in range(10, 40)]


@pytest.mark.parametrize(
    "labels",
    [
        [],
        [None],
        ["ab", "c|d"],
        ["|a|b|", "|c|"],
        ["|a|b|", "", None],
        NUMBERS,
        ["1 €"] * 30,
        [f"{n}0" for n in "1234"],
    ],
)
def test_ordinary_labels_cause_no_warning(labels):
    assert warnings(labels) == []


def test_mixed_forms_of_labels_cause_a_warning():
    [warning] = warnings(["|a|b|", "cd"])
    assert warning.startswith("a.csv: some labels begin with '|'") and "data.string_split_delimiter" in warning
    # Which labels are sequences depends on the delimiter.
    assert warnings(["^a^", "|a|"], string_split_delimiter="^")
    assert not warnings(["^a^", "|a|"], string_split_delimiter="-")


@pytest.mark.parametrize(
    ("pattern", "ending", "cause"),
    [
        ("{};;", "';;'", "as if the file had empty columns: delete these columns"),
        ("{} €", "' €'", "if the images do not, delete it from the labels"),
        ("|{}|.|", "'.'", "if the images do not, delete it from the labels"),
    ],
)
def test_an_ending_that_all_labels_share_causes_a_warning(pattern, ending, cause):
    [warning] = warnings([pattern.format(number) for number in NUMBERS])
    assert warning == f"a.csv: every label ends in {ending}{',' if 'columns' in cause else ':'} {cause}"


def test_a_space_after_every_delimiter_causes_a_warning():
    [warning] = warnings([f" {number}" for number in NUMBERS])
    assert warning.startswith("a.csv: every label begins with ' '")
    assert warnings([f"No {number}" for number in NUMBERS]) == []


@pytest.mark.parametrize("label", [" a", "a ", " "])
def test_spaces_around_some_labels_cause_a_warning(label):
    [warning] = warnings(["a b", label, "c"])
    assert warning.startswith("a.csv: 1 of 3 labels begin or end with a space, for example line 2")


def test_invisible_characters_are_named_with_their_first_line():
    [warning] = warnings(["a", "b\u200bc", "\u200b\u200b", "d\xa0e"])
    assert "U+200B ZERO WIDTH SPACE (2 labels, the first in line 2)" in warning
    assert "U+00A0 NO-BREAK SPACE (1 label, the first in line 4)" in warning


@pytest.mark.parametrize("character", "\u034f\u1160\u2800\u3164\ufeff\u200e\u00ad\ufe0f\u202f\t")
def test_invisible_letters_marks_and_symbols_are_named_too(character):
    [warning] = warnings(["a", f"b{character}c"])
    assert f"U+{ord(character):04X} " in warning


@pytest.mark.parametrize("label", ["می\u200cخواهم", "क्\u200dष", "全\u3000角", "\u06ddأ", "a b", "辻\U000e0101"])
def test_joiners_and_typed_spaces_are_not_invisible(label):
    assert warnings([label]) == []
