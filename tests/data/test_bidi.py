"""Right-to-left text: from labels to the order in the image, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data import bidi
from raycrnn.data.alphabet import Alphabet


def shown(text: str, direction: bidi.TextDirection) -> str:
    return "".join(bidi.display_order(tuple(text), direction))


def restored(text: str, direction: bidi.TextDirection) -> str:
    return "".join(unit for _, unit in bidi.logical_order(tuple(text), direction))


@pytest.mark.parametrize(
    ("logical", "direction", "display"),
    [
        ("אבג", "rtl", "גבא"),
        ("אבג 123", "rtl", "123 גבא"),
        ("אבג 12.5 (דהו)", "rtl", "(והד) 12.5 גבא"),
        ("12 אבג ABC דהו", "rtl", "והד ABC גבא 12"),
        ("العربية 2024/3", "rtl", "2024/3 ةيبرعلا"),
        ("السعر ١٢٫٥", "rtl", "١٢٫٥ رعسلا"),
        # A point of Hebrew vocalisation stays behind its letter.
        ("שלוֹם", "rtl", "םוֹלש"),
        ("abc אבג דהו xyz", "ltr", "abc והד גבא xyz"),
        ("abc 123 (x)", "rtl", "abc 123 (x)"),
        ("", "rtl", ""),
    ],
)
def test_the_display_order_is_that_of_the_bidirectional_algorithm(logical, direction, display):
    assert shown(logical, direction) == display
    assert restored(display, direction) == logical


@given(st.text("אבגדשת .,()-!־ְֹ").map(lambda text: text.lstrip("ְֹ")))
def test_text_of_one_direction_is_restored(text):
    assert restored(shown(text, "rtl"), "rtl") == text


@given(st.lists(st.sampled_from(["שלום", "בית", "ספר", "123", "12.5", "3,400", "5%", "(1)"]), max_size=6).map(" ".join))
def test_numbers_in_right_to_left_text_are_restored(text):
    assert restored(shown(text, "rtl"), "rtl") == text


@given(st.text("אבג abc 12.()-\u200f\u05b0", max_size=15), st.sampled_from(["ltr", "rtl"]))
def test_no_unit_is_lost(text, direction):
    order = bidi.logical_order(tuple(text), direction)
    assert sorted(index for index, _ in order) == list(range(len(text)))
    brackets = str.maketrans(")", "(")
    assert sorted(shown(text, direction).translate(brackets)) == sorted(text.translate(brackets))


@given(st.text(st.characters(max_codepoint=0x3FF)), st.sampled_from(["ltr", "rtl", "visual"]))
def test_text_without_right_to_left_characters_is_unchanged(text, direction):
    assert shown(text, direction) == restored(text, direction) == text


def test_labels_in_visual_order_are_unchanged():
    assert shown("אבג 12", "visual") == restored("אבג 12", "visual") == "אבג 12"


def test_units_of_several_characters_are_moved_as_a_whole():
    assert bidi.display_order(("אב", " ", "12", "ג"), "rtl") == ("ג", "12", " ", "אב")


@pytest.mark.parametrize(
    ("labels", "direction"),
    [(["שלום 123", "abc"], "rtl"), (["abc def", "א"], "ltr"), (["123"], "ltr"), ([], "ltr"), (["العربية"], "rtl")],
)
def test_the_direction_is_that_of_most_letters(labels, direction):
    assert bidi.direction_of(labels) == direction


def test_an_alphabet_restores_codes_with_mirrored_brackets():
    alphabet = Alphabet(("(", ")", "א", "ב"), "rtl")
    display = alphabet.encode(shown("א(ב)", "rtl"))
    assert alphabet.decode(display) == list("(ב)א")
    assert alphabet.in_logical_order(display) == [(3, 2), (2, 0), (1, 3), (0, 1)]
    # Without the mirrored bracket in the alphabet, the bracket stays as the network read it.
    assert Alphabet((")", "א"), "rtl").in_logical_order([0, 1]) == [(1, 1), (0, 0)]
