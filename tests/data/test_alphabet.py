"""Alphabets: reading, validation, encoding and decoding."""

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
def test_shipped_alphabets_contain_the_units_of_their_names(name, size, units):
    alphabet = Alphabet.load(name)
    assert name in SHIPPED
    assert len(alphabet) == alphabet.blank == len(alphabet.units) == size
    assert set(alphabet.units) == units


def test_all_shipped_alphabets_are_tested():
    assert set(SHIPPED) == {"lookup_digits", "lookup_letters_symbols", "lookup_letters_digits_symbols"}


def test_the_code_of_a_digit_is_its_value():
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
def test_any_integers_are_codes_and_are_mapped_in_ascending_order(tmp_path, table, units):
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
    ("table", "expected"),
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
def test_errors_of_alphabet_files_name_the_file_and_the_unit(tmp_path, table, expected):
    path = write(tmp_path, table)
    with pytest.raises(UsageError) as caught:
        Alphabet.load(path)
    message = str(caught.value)
    assert message.startswith(path)
    for words in expected:
        assert words in message


def test_units_that_are_equal_after_normalisation_are_refused(tmp_path):
    path = write(tmp_path, {"ﬁ": 0, "fi": 1})
    assert Alphabet.load(path).units == ("ﬁ", "fi")
    with pytest.raises(UsageError, match="NFKC"):
        Alphabet.load(path, unicode_form="NFKC")


def test_a_file_name_in_another_unicode_normal_form_is_found(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "é.json")).write_text('{"a": 0}')
    assert Alphabet.load(tmp_path / unicodedata.normalize("NFC", "é.json")).units == ("a",)


def test_the_error_of_a_missing_file_names_the_shipped_alphabets(tmp_path):
    with pytest.raises(UsageError) as caught:
        Alphabet.load(tmp_path / "nowhere.json")
    assert "nowhere.json: no such alphabet file" in str(caught.value)
    for name in SHIPPED:
        assert name in str(caught.value)


def test_a_folder_is_not_an_alphabet(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        Alphabet.load(tmp_path)


@pytest.mark.parametrize(
    ("units", "expected"), [((), "empty"), (("a", ""), "empty unit"), (("a", "b", "a"), "'a' twice")]
)
def test_invalid_units_are_refused(units, expected):
    with pytest.raises(UsageError, match=expected):
        Alphabet(units)


UNITS = st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=12, unique=True)


@given(UNITS, st.data())
def test_decoding_reverses_encoding(units, data):
    alphabet = Alphabet(tuple(units))
    label = data.draw(st.lists(st.sampled_from(units)))
    codes = alphabet.encode(label)
    assert codes == [units.index(unit) for unit in label]
    assert alphabet.decode(codes) == label


@given(UNITS.filter(lambda units: len({unicodedata.normalize("NFC", unit) for unit in units}) == len(units)))
def test_an_alphabet_can_be_converted_to_json_and_back(tmp_path_factory, units):
    alphabet = Alphabet(tuple(unicodedata.normalize("NFC", unit) for unit in units))
    assert Alphabet.load(write(tmp_path_factory.mktemp("alphabets"), alphabet.to_json())) == alphabet


@given(st.lists(st.text(alphabet="abcdefgh", max_size=6)), st.text(alphabet="abcdefghij$", max_size=10))
def test_every_unknown_unit_is_reported_once(labels, label):
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


def test_units_of_several_characters_are_not_divided():
    alphabet = Alphabet(("ab", "c"))
    assert alphabet.encode(["ab", "c"]) == [0, 1]
    with pytest.raises(UnknownUnit) as caught:
        alphabet.encode("abc")
    assert caught.value.units == ("a", "b")


def test_a_label_can_be_an_iterator():
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


def test_half_of_a_surrogate_pair_is_refused(tmp_path):
    path = tmp_path / "alphabet.json"
    path.write_text('{"\\ud800": 0, "a": 1}')
    with pytest.raises(UsageError, match="half of a surrogate pair"):
        Alphabet.load(path)
