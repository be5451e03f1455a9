"""Tables {unit: code}: counting, extending, comparing, and what is said about units."""

import json
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn import config
from raycrnn.data import alphabet_building, csv_files
from raycrnn.data.alphabet import Alphabet, read_codes
from raycrnn.data.alphabet_building import UnitCounts
from raycrnn.errors import UsageError

names = st.text(st.characters(codec="utf-8").filter(lambda c: unicodedata.is_normalized("NFC", c)), min_size=1).filter(
    lambda unit: unicodedata.is_normalized("NFC", unit)
)
tables = st.dictionaries(names, st.integers(-5, 10**6), max_size=6).map(
    lambda table: {unit: code for code, unit in {code: unit for unit, code in table.items()}.items()}
)


def test_units_of_usable_labels_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('image,text\na.png,|a|bc|a|\nb.png,e\u0301a\nc.png,\nd.png\n"e.png,x\nf.png,,\n', encoding="utf-8")
    settings = config.Data(csv_files_train=str(path), csv_delimiter=",")
    counts = UnitCounts()
    counts.add(csv_files.read_csv(path, ","), settings)
    assert counts.units == {"a": 3, "bc": 1, "é": 1, ",": 1}
    assert counts.rows == {"a": 2, "bc": 1, "é": 1, ",": 1}
    assert counts.labels == 3
    assert counts.left_out == {"malformed row": 1, "empty label": 2}


def test_a_line_of_a_file_is_a_unit_with_its_spaces(tmp_path):
    path = tmp_path / "units.txt"
    path.write_bytes("\ufeffquondam\r\ne\u0301\r\n\r\n \r\na;b".encode())
    assert alphabet_building.read_unit_file(path) == ["quondam", "é", " ", "a;b"]
    assert alphabet_building.read_unit_file(path, unicode_form="NFD")[1] == "e\u0301"


def test_what_is_not_a_file_of_units_is_named(tmp_path):
    path = tmp_path / "units.txt"
    with pytest.raises(UsageError, match=r"gone\.txt: no such text file"):
        alphabet_building.read_unit_file(tmp_path / "gone.txt")
    path.write_bytes(b"PK\3\4\x14\0\6\0")
    with pytest.raises(UsageError, match=r"not a text file, but a ZIP archive.*with one unit in each line"):
        alphabet_building.read_unit_file(path)


@given(tables, st.lists(names, max_size=5))
def test_an_extended_table_keeps_its_codes_and_the_order_of_its_classes(table, units):
    extended = alphabet_building.extend(table, units)
    assert {unit: extended[unit] for unit in table} == table
    assert set(extended) == {*table, *units}
    new = [unit for unit in dict.fromkeys(units) if unit not in table]
    first = max(table.values(), default=-1) + 1
    assert [extended[unit] for unit in new] == list(range(first, first + len(new)))


@given(tables.filter(len))
def test_the_json_of_a_table_is_read_with_the_same_codes(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("tables") / "alphabet.json"
    path.write_text(alphabet_building.to_json(table), encoding="utf-8")
    assert read_codes(path) == table
    assert list(json.loads(path.read_text(encoding="utf-8"))) == list(Alphabet.load(path).units)


def test_an_empty_table_has_no_json():
    with pytest.raises(UsageError, match="alphabet is empty"):
        alphabet_building.to_json({})


@given(tables, tables)
def test_a_difference_has_all_that_two_tables_do_not_share(first, second):
    found = alphabet_building.compare(first, second)
    assert Counter(found.only_first) == Counter(first.keys() - second.keys())
    assert Counter(found.only_second) == Counter(second.keys() - first.keys())
    codes = {(unit, first[unit], second[unit]) for unit in first.keys() & second.keys()}
    assert set(found.other_code) == {(unit, one, other) for unit, one, other in codes if one != other}
    pairs = [sorted((code, unit) for unit, code in table.items()) for table in (first, second)]
    assert found.same_classes == ([unit for _, unit in pairs[0]] == [unit for _, unit in pairs[1]])


@pytest.mark.parametrize(
    ("unit", "points", "notes"),
    [
        ("a", "U+0061", []),
        ("\u00a0", "U+00A0", ["invisible: U+00A0 NO-BREAK SPACE"]),
        ("\u0303", "U+0303", ["combining: joins the unit before it"]),
        ("q\u0303", "U+0071 U+0303", ["2 characters"]),
        ("\t", "U+0009", ["invisible: U+0009"]),
        ("\ue000", "U+E000", ["no character of Unicode"]),
        ("ab ", "U+0061 U+0062 U+0020", ["3 characters", "begins or ends with a space"]),
    ],
)
def test_notes_say_what_people_may_not_see(unit, points, notes):
    assert alphabet_building.code_points(unit) == points
    assert alphabet_building.notes(unit) == notes
