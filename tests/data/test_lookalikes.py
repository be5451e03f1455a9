"""Units that look alike, and the table of letters of different scripts."""

import random
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data.lookalikes import GROUPS, look_alikes, skeleton


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        ("AΑ", "Latin beside Greek"),
        ("oо", "Latin beside Cyrillic"),
        ("ÁΆ", "Latin beside Greek"),
        ("fſ", "a long s beside an f"),
        ("-–", "two kinds of dashes"),
        ("'’", "two kinds of apostrophes"),
        ("“”", "two kinds of quotation marks"),
        (" \u00a0", "two kinds of spaces"),
        ("µμ", "one is the compatibility form of the other"),
        ("AＡ", "one is the compatibility form of the other"),
        (["fi", "ﬁ"], "one is the compatibility form of the other"),
        (["é", "e\u0301"], "the same text in two Unicode normal forms"),
        ("é\u0301", "a combining mark beside a letter that contains it"),
    ],
)
def test_units_that_look_alike_are_found_with_the_reason(units, reason):
    assert look_alikes(units) == [(*sorted(units), reason)]


@pytest.mark.parametrize("units", [string.printable, "ſs", "²2", "½", "O0Il1|", "אבגד", "京皖粤", "äöüß", "\u0301e"])
def test_units_that_labels_need_side_by_side_are_not_reported(units):
    assert look_alikes(units) == []


def test_the_table_has_every_character_once():
    characters = "".join(GROUPS)
    assert len(set(characters)) == len(characters)
    assert all(len(group) > 1 for group in GROUPS)


def test_letters_of_a_group_belong_to_different_scripts_and_have_the_same_case():
    for group in GROUPS[:-5]:
        scripts = [unicodedata.name(letter).split()[0] for letter in group]
        assert len({letter.islower() for letter in group}) == 1, group
        assert len(set(scripts)) > 1, group


@given(st.lists(st.sampled_from("".join(GROUPS) + "éÅabＡ²\u0301\u3000"), min_size=1))
def test_pairs_are_ordered_and_do_not_depend_on_the_order_of_the_units(units):
    pairs = look_alikes(units)
    shuffled = random.Random(0).sample(units, len(units))
    assert look_alikes(shuffled + units) == pairs == sorted(set(pairs))
    for one, other, why in pairs:
        assert one < other and {one, other} <= set(units) and why


@given(st.text(max_size=6))
def test_a_skeleton_is_its_own_skeleton(text):
    assert skeleton(skeleton(text)) == skeleton(text)
