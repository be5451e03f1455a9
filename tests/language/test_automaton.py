"""The automaton, compared with look-ups in the n-grams."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.language import automaton, kneser_ney
from raycrnn.language.automaton import Automaton
from raycrnn.language.ngram_model import UNKNOWN_ID, NgramModel
from tests.language.test_kneser_ney import LINES, longest

ALPHABET = (*"cabz", "ab")


def check_walk(model: NgramModel, walked: Automaton, text: str) -> None:
    """Check the rows of the states along a text."""
    state, node = np.array([model.start]), np.array([1 + 1])
    for unit in text:
        row, log_prob_RC, next_RC = walked.rows(state)
        numbers = np.array([*model.encode(ALPHABET), 2])
        expected = math.log(10) * model.after(np.repeat(node, len(numbers)), numbers)
        columns = [*walked.columns, walked.end_column]
        assert log_prob_RC[row[0], columns] == pytest.approx(expected, rel=1e-5, abs=1e-5)
        state = next_RC[row, walked.columns[ALPHABET.index(unit)]].astype(np.int64)
        node = longest(model, node, unit)


@given(lines=LINES, order=st.integers(1, 5), text=st.text("abcz", min_size=1, max_size=12))
def test_states_give_the_probabilities_of_the_longest_contexts(lines, order, text):
    model = kneser_ney.estimate(lines, order)
    check_walk(model, Automaton(model, ALPHABET), text)


def test_rows_that_were_forgotten_are_computed_again(monkeypatch):
    model = kneser_ney.estimate([tuple("abcabcbbaccab")], 4)
    monkeypatch.setattr(automaton, "TABLE_BYTES", 200)
    check_walk(model, Automaton(model, ALPHABET), "abcabcabbacz")


def test_units_that_the_model_lacks_are_known_and_as_likely_as_unknown_ones():
    model = kneser_ney.estimate([tuple("abc")], 2)
    walked = pickle.loads(pickle.dumps(Automaton(model, ALPHABET)))
    assert walked.unknown == ("z", "ab")
    row, log_prob_RC, _ = walked.rows(np.array([0]))
    unknown = math.log(10) * model.log_prob_S[1 + UNKNOWN_ID]
    assert log_prob_RC[row[0], walked.columns[3:]] == pytest.approx([unknown, unknown])


def test_no_row_is_computed_from_memory_that_was_not_written():
    model = kneser_ney.estimate([tuple("abcabcbbaccab")], 3)
    walked = Automaton(model, ALPHABET)
    walked._log_prob_RC.view(np.int32)[:] = 0x7F800001  # A signalling NaN: computing with it is an invalid operation.
    with np.errstate(all="raise"):
        check_walk(model, walked, "abcz")
