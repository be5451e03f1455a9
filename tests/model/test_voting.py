"""The vote on the units of several readings, against cases computed by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.model.voting import Ballot, align, vote, vote_on_texts


def ballot(text: str, *confidences: float, whole: float = 0.5) -> Ballot:
    """Return a reading; a single confidence holds for all of its units."""
    return Ballot(tuple(text), confidences * len(text) if len(confidences) == 1 else confidences, whole)


def voted(*ballots: Ballot) -> str:
    return "".join(unit.text for unit in vote(ballots))


BALLOTS = st.builds(
    lambda units, whole: Ballot(tuple(text for text, _ in units), tuple(each for _, each in units), whole),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), max_size=6),
    st.floats(0, 1),
)


def test_the_unit_with_the_largest_sum_of_confidences_wins():
    # s: 0.4 + 0.4 < 0.9; n: 0.5 + 0.5 > 0.9.
    assert voted(ballot("son", 0.4, 0.9, 0.5), ballot("fon", 0.9, 0.9, 0.5), ballot("sou", 0.4, 0.9, 0.9)) == "fon"


def test_a_missing_unit_votes_with_the_mean_confidence_of_its_neighbours():
    # For the second l: 0.6 + 0.6; against it: (0.9 + 0.9) / 2 in one reading.
    two, one = ballot("hello", 0.9, 0.9, 0.6, 0.6, 0.9), ballot("helo", 0.9)
    assert voted(two, two, one) == "hello"
    assert voted(two, one, one) == "helo"
    # At an end of the text there is one neighbour: 0.3 against 0.2 and 0.7.
    assert voted(ballot("ab", 0.9, 0.3), ballot("a", 0.2)) == "ab"
    assert voted(ballot("ab", 0.9, 0.3), ballot("a", 0.7)) == "a"


def test_an_empty_reading_votes_with_the_confidence_of_its_text():
    assert voted(ballot("a", 0.6), Ballot((), (), 0.7)) == ""
    assert voted(ballot("a", 0.6), Ballot((), (), 0.5)) == "a"
    assert vote([Ballot((), (), 0.5)] * 2) == []


def test_what_two_readings_have_more_than_the_third_is_aligned_between_them():
    units = vote([ballot("ax1b", 0.8), ballot("ay1b", 0.7), ballot("ab", 0.2)])
    assert [unit.text for unit in units] == ["a", "x", "1", "b"]
    assert [unit.sources for unit in units] == [(0, 0, 0), (1, None, None), (2, 2, None), (3, 3, 1)]
    assert [unit.confidence for unit in units] == pytest.approx([1.7 / 3, 0.8 / 3, 1.5 / 3, 1.7 / 3])


def test_whole_texts_are_not_mixed():
    # Unit by unit, "pen" and "pan" and "tin" make "pin".
    pen, pan, tin = ballot("pen", 0.9, 0.3, 0.9), ballot("pan", 0.9, 0.3, 0.9), ballot("tin", 0.5, 0.9, 0.5)
    assert voted(pen, pan, tin) == "pin"
    units = vote_on_texts([pen, tin, pen])
    assert [unit.text for unit in units] == ["p", "e", "n"]
    assert [unit.confidence for unit in units] == pytest.approx([1.8 / 3, 0.6 / 3, 1.8 / 3])
    assert [unit.sources for unit in units] == [(0, None, 0), (1, None, 1), (2, None, 2)]
    # Three halves are more than 0.9, and of equal sums the one with more votes wins.
    sure = ballot("ab", 0.9, whole=0.9)
    assert "".join(unit.text for unit in vote_on_texts([sure, *[ballot("ba", 0.2, whole=0.5)] * 3])) == "ba"
    assert "".join(unit.text for unit in vote_on_texts([ballot("z", 0.2, whole=1.0), *[pen] * 2])) == "pen"


def test_units_of_several_characters_are_voted_on_as_a_whole():
    long, short = Ballot(("ſt", "a"), (0.6, 0.9), 0.5), Ballot(("s", "t", "a"), (0.5, 0.5, 0.9), 0.5)
    assert [unit.text for unit in vote([long, long, short])] == ["ſt", "a"]


@given(BALLOTS, st.integers(1, 4))
def test_copies_of_one_reading_elect_it_with_its_confidences(one, copies):
    units = vote([one] * copies)
    assert tuple(unit.text for unit in units) == one.units
    assert [unit.confidence for unit in units] == pytest.approx(one.confidences)


@given(st.lists(BALLOTS, min_size=2, max_size=4))
def test_the_order_of_the_ballots_does_not_matter(ballots):
    results = {tuple((u.text, u.confidence) for u in vote(order)) for order in itertools.permutations(ballots)}
    assert len(results) == 1


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), min_size=1, max_size=4))
def test_an_alignment_has_every_unit_of_every_text_once_and_in_order(texts):
    columns = list(align(texts, [range(len(text)) for text in texts]))
    for number, text in enumerate(texts):
        found = [column.indices[number] for column in columns]
        assert [index for index in found if index is not None] == list(range(len(text)))
        # The next unit of a gap is the one that follows in the text.
        left = [column.places[number] for column in columns if column.indices[number] is None]
        assert all(0 <= place <= len(text) for place in left)
    assert all(any(index is not None for index in column.indices) for column in columns)
