"""Labels: splitting, brackets, replaced characters, and round trips."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data import labels
from raycrnn.data.csv_files import split_label
from raycrnn.data.labels import AccentMap, CharacterMap, Segmenter

characters = st.characters(codec="utf-8", exclude_characters="[]|\r\n")
texts = st.text(characters, max_size=12)
units = st.lists(st.text(characters, min_size=1, max_size=3), max_size=8).map(tuple)
any_label = st.one_of(texts, units)


# --- between CSV and label


@given(any_label, st.sampled_from("|#\t¦"))
def test_a_formatted_label_is_parsed_to_the_same_and_read_by_training(label, delimiter):
    held = any(delimiter in unit for unit in label) if isinstance(label, tuple) else label.startswith(delimiter)
    if held:
        with pytest.raises(ValueError, match=re.escape(repr(delimiter))):
            labels.format_label(label, delimiter)
        return
    text = labels.format_label(label, delimiter)
    # No units and empty text are both an empty label.
    assert labels.parse_label(text, delimiter) == (label or "")
    if isinstance(label, tuple):
        assert split_label(text, delimiter) == tuple(unicodedata.normalize("NFC", unit) for unit in label)


def test_empty_units_are_ignored():
    assert labels.parse_label("|a||bc|") == ("a", "bc")
    assert labels.parse_label("|a|b") == ("a", "b")
    assert labels.parse_label("a|b|") == "a|b|"


# --- splitting by an alphabet


def segmentations(text: str, alphabet: set[str]) -> Iterator[tuple[str, ...]]:
    """Yield all ways to split a text, those that begin with longer units first."""
    if not text:
        yield ()
    for length in range(len(text), 0, -1):
        if text[:length] in alphabet:
            yield from ((text[:length], *rest) for rest in segmentations(text[length:], alphabet))


@given(st.sets(st.text("abc", min_size=1, max_size=3), min_size=1), st.text("abc", max_size=8))
def test_the_longest_units_from_the_left_are_found_if_there_are_any(alphabet, text):
    expected = next(segmentations(text, alphabet), None)
    if expected is not None:
        assert Segmenter(alphabet).split(text) == expected
        return
    with pytest.raises(ValueError, match="no unit of the alphabet starts at character") as caught:
        Segmenter(alphabet).split(text)
    number = int(re.search(r"character (\d+)", str(caught.value))[1])
    # Everything before the character can be split, and nothing that includes it.
    assert next(segmentations(text[: number - 1], alphabet), None) is not None
    assert all(next(segmentations(text[:end], alphabet), None) is None for end in range(number, len(text) + 1))


def test_the_rest_of_the_text_decides_where_the_longest_unit_leads_nowhere():
    assert Segmenter(["ab", "abc", "cd"]).split("abcd") == ("ab", "cd")
    assert Segmenter(["q", "u", "o", "n", "quondam", " "]).split("quo quondam") == ("q", "u", "o", " ", "quondam")


def test_the_character_that_is_in_no_unit_is_named():
    with pytest.raises(ValueError, match=re.escape("character 3, '\\u200b' (U+200B ZERO WIDTH SPACE)")):
        Segmenter(["a"]).split("aa\u200ba")


# --- brackets


@given(units)
def test_units_survive_as_text_with_brackets(label):
    assert labels.split_at_brackets(labels.as_text(label)) == label


@given(units)
def test_brackets_are_dropped_again(label):
    bracketed = labels.add_brackets(label)
    assert labels.drop_brackets(bracketed) == label
    assert labels.add_brackets(bracketed) == bracketed
    assert [unit for unit in bracketed if len(unit) == 1] == [unit for unit in label if len(unit) == 1]


def test_brackets_mark_abbreviations_as_in_the_seed():
    text = "Benetta Mazzoleni [quondam] Anzolo"
    split = "|B|e|n|e|t|t|a| |M|a|z|z|o|l|e|n|i| |quondam| |A|n|z|o|l|o|"
    assert labels.format_label(labels.split_at_brackets(text)) == split
    bracketed = labels.format_label(labels.add_brackets(labels.parse_label(split)))
    assert bracketed == split.replace("quondam", "[quondam]")
    assert labels.as_text(labels.parse_label(split)) == text
    assert labels.drop_brackets(text) == text.replace("[", "").replace("]", "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a[bc", "the bracket at character 2"),
        ("a[]c", "the bracket at character 2"),
        ("[a[b]c]", "the bracket at character 1"),
        ("ab]c", "']' at character 3 closes no bracket"),
        ("[ab]]", "']' at character 5 closes no bracket"),
    ],
)
def test_brackets_that_do_not_fit_together_are_refused(text, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        labels.split_at_brackets(text)


@given(units)
def test_lower_case_is_the_same_before_and_after_splitting(label):
    lowered = labels.lower_abbreviations(label)
    assert lowered == tuple(unit.lower() if len(unit) > 1 else unit for unit in label)
    assert labels.lower_abbreviations(labels.as_text(label)) == labels.as_text(lowered)


# --- characters


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("àéèìîóòùÀÉ", "aeeiioouAE"),
        ("ñçåüõẽśž", "ncauoesz"),
        ("e\u0301 q\u0303 ǖ ệ", "e q u e"),
        ("ά Й", "α И"),
        ("øłßæſœđ", "øłßæſœđ"),
        ("שָׁלוֹם مُدَرِّس हिन्दी がパ 한글 ไทย", "שָׁלוֹם مُدَرِّس हिन्दी がパ 한글 ไทย"),
    ],
)
def test_accents_are_dropped_from_letters_and_other_marks_stay(text, bare):
    replaced = Counter()
    assert AccentMap().apply(text, replaced) == bare
    assert AccentMap().apply(bare, Counter()) == bare
    assert (replaced.total() == 0) == (text == bare)


def test_replaced_accents_are_counted():
    replaced = Counter()
    assert labels.map_characters(("é", "t", "é", "quéd"), AccentMap(), replaced) == ("e", "t", "e", "qued")
    assert labels.map_characters("été", AccentMap(), replaced) == "ete"
    assert replaced == {("é", "e"): 5}


@given(st.dictionaries(st.characters(codec="utf-8"), st.text(max_size=2), max_size=5), st.text("abcé", max_size=9))
def test_single_characters_are_replaced_as_by_translate(table, text):
    replaced = Counter()
    assert CharacterMap(table).apply(text, replaced) == text.translate(str.maketrans(table))
    assert replaced == Counter((old, table[old]) for old in text if table.get(old, old) != old)


def test_longer_texts_are_replaced_first_and_nothing_twice():
    mapped = CharacterMap({"f": "F", "ff": "ﬀ", "F": "x", "a": "f"})
    assert mapped.apply("fffa", Counter()) == "ﬀFf"


def test_a_unit_of_one_character_becomes_as_many_units_as_its_replacement_has():
    mapped = CharacterMap({"æ": "ae", "¬": ""})
    assert labels.map_characters(("æ", "c", "præ", "¬"), mapped, Counter()) == ("a", "e", "c", "prae")
    assert labels.map_characters("æc¬", mapped, Counter()) == "aec"
