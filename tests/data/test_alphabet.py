"""Alphabets: what a table means, what is refused, and that codes lead back to units."""

import json
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data.alphabet import SHIPPED, Alphabet, UnknownUnit
from raycrnn.errors import UsageError

SYMBOLS = set(" '(),-./:;=[]_{}°")
LETTERS = set(string.ascii_letters)
DIGITS = set(string.digits)


def write(tmp_path, table) -> str:
    path = tmp_path / "alphabet.json"
    path.write_text(table if isinstance(table, str) else json.dumps(table), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "size", "units"),
    [
        ("lookup_digits", 10, DIGITS),
        ("lookup_letters_symbols", 69, LETTERS | SYMBOLS),
        ("lookup_letters_digits_symbols", 79, LETTERS | DIGITS | SYMBOLS),
    ],
)
def test_a_shipped_table_holds_what_its_name_says(name, size, units):
    alphabet = Alphabet.load(name)
    assert name in SHIPPED
    assert len(alphabet) == alphabet.blank == len(alphabet.units) == size
    assert set(alphabet.units) == units


def test_there_is_no_shipped_table_that_is_not_tested():
    assert set(SHIPPED) == {"lookup_digits", "lookup_letters_symbols", "lookup_letters_digits_symbols"}


def test_the_digits_have_their_own_values_as_codes():
    assert Alphabet.load("lookup_digits").encode("0123456789") == list(range(10))


@pytest.mark.parametrize(
    ("table", "units"),
    [
        ({"a": 0, "b": 1}, ("a", "b")),
        ({"a": 1, "b": 0}, ("b", "a")),
        ({"a": -7, "b": 10**12, "c": 3}, ("a", "c", "b")),
        ({"quondam": 5, "q": 9, " ": 2}, (" ", "quondam", "q")),
        ({"$": 3, "a": 4, "<blank>": 5}, ("$", "a", "<blank>")),
        ({"e\u0301": 0, "a": 1}, ("é", "a")),
        ({"\u2028": 0, "😀": 1, '"': 2}, ("\u2028", "😀", '"')),
    ],
)
def test_integers_of_any_kind_are_codes_mapped_in_their_order(tmp_path, table, units):
    alphabet = Alphabet.load(write(tmp_path, table))
    assert alphabet.units == units
    assert alphabet.encode(units) == list(range(len(units)))
    assert alphabet.blank == len(units)


def test_the_dollar_is_an_ordinary_unit():
    alphabet = Alphabet(("a", "$", "b"))
    assert alphabet.encode("a$b$") == [0, 1, 2, 1]
    assert alphabet.decode([1, 0]) == ["$", "a"]
    assert "$" in alphabet
    assert alphabet.blank == 3


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": 1, "b": 1}, ["'a'", "'b'", "same code 1"]),
        ('{"a": 0, "a": 1}', ["'a'", "twice"]),
        ({"é": 0, "e\u0301": 1}, ["'é'", "twice", "NFC"]),
        ({"a": "0"}, ["'a'", "'0'", "integer"]),
        ({"a": 1.0}, ["'a'", "1.0", "integer"]),
        ({"a": True}, ["'a'", "True", "integer"]),
        ({"a": None}, ["'a'", "None", "integer"]),
        ({"a": [0]}, ["'a'", "integer"]),
        ({"": 0, "a": 1}, ["empty unit"]),
        ({}, ["empty"]),
        ("[]", ["not a JSON object"]),
        ('{"a": 0,\n"b"}', ["line 2", "not JSON"]),
    ],
)
def test_a_table_that_is_no_alphabet_is_refused_by_file_and_unit(tmp_path, table, said):
    path = write(tmp_path, table)
    with pytest.raises(UsageError) as caught:
        Alphabet.load(path)
    message = str(caught.value)
    assert message.startswith(path)
    for words in said:
        assert words in message


def test_two_units_are_one_or_two_by_the_unicode_form(tmp_path):
    path = write(tmp_path, {"ﬁ": 0, "fi": 1})
    assert Alphabet.load(path).units == ("ﬁ", "fi")
    with pytest.raises(UsageError, match="NFKC"):
        Alphabet.load(path, unicode_form="NFKC")


def test_a_file_that_is_not_there_is_refused_and_the_shipped_tables_are_named(tmp_path):
    with pytest.raises(UsageError) as caught:
        Alphabet.load(tmp_path / "nowhere.json")
    assert "nowhere.json: no such alphabet file" in str(caught.value)
    for name in SHIPPED:
        assert name in str(caught.value)


def test_a_folder_is_no_alphabet(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        Alphabet.load(tmp_path)


@pytest.mark.parametrize(("units", "said"), [((), "empty"), (("a", ""), "empty unit"), (("a", "b", "a"), "'a' twice")])
def test_units_that_make_no_alphabet_are_refused_when_it_is_made(units, said):
    with pytest.raises(UsageError, match=said):
        Alphabet(units)


UNITS = st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=12, unique=True)


@given(UNITS, st.data())
def test_codes_lead_back_to_the_label(units, data):
    alphabet = Alphabet(tuple(units))
    label = data.draw(st.lists(st.sampled_from(units)))
    codes = alphabet.encode(label)
    assert codes == [units.index(unit) for unit in label]
    assert alphabet.decode(codes) == label


@given(UNITS.filter(lambda units: len({unicodedata.normalize("NFC", unit) for unit in units}) == len(units)))
def test_an_alphabet_written_as_json_is_a_table_of_the_same_alphabet(units):
    alphabet = Alphabet(tuple(unicodedata.normalize("NFC", unit) for unit in units))
    assert Alphabet._from_table(json.loads(alphabet.to_json()), "test", "NFC") == alphabet


@given(st.lists(st.text(alphabet="abcdefgh", max_size=6)), st.text(alphabet="abcdefghij$", max_size=10))
def test_an_unknown_unit_is_reported_once_and_no_known_one_is(labels, label):
    alphabet = Alphabet.from_labels([*labels, "z"])
    missing = [unit for i, unit in enumerate(label) if unit not in "".join(labels) and unit not in label[:i]]
    if not missing:
        assert alphabet.decode(alphabet.encode(label)) == list(label)
        return
    with pytest.raises(UnknownUnit) as caught:
        alphabet.encode(label)
    assert caught.value.units == tuple(missing)
    for unit in missing:
        assert repr(unit) in str(caught.value)


def test_units_are_looked_up_whole():
    alphabet = Alphabet(("ab", "c"))
    assert alphabet.encode(["ab", "c"]) == [0, 1]
    with pytest.raises(UnknownUnit) as caught:
        alphabet.encode("abc")
    assert caught.value.units == ("a", "b")


def test_a_label_may_be_given_unit_by_unit():
    assert Alphabet(("a", "b")).encode(iter("ab")) == [0, 1]


@given(st.lists(st.lists(st.text(min_size=1, max_size=2), max_size=5), min_size=1), st.randoms())
def test_an_alphabet_from_labels_does_not_depend_on_the_order_of_the_rows(labels, random):
    shuffled = [random.sample(label, len(label)) for label in random.sample(labels, len(labels))]
    units = {unit for label in labels for unit in label}
    if not units:
        with pytest.raises(UsageError, match="empty"):
            Alphabet.from_labels(labels)
        return
    alphabet = Alphabet.from_labels(labels)
    assert alphabet == Alphabet.from_labels(shuffled)
    assert set(alphabet.units) == units
    assert len(alphabet) == len(units)


def test_half_a_surrogate_pair_is_no_unit(tmp_path):
    path = tmp_path / "alphabet.json"
    path.write_text('{"\\ud800": 0, "a": 1}')
    with pytest.raises(UsageError, match="half of a surrogate pair"):
        Alphabet.load(path)
