"""Texts whose words are entries, compared with a recursive definition."""

import itertools
from functools import cache

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.language.word_automaton import WordAutomaton

UNITS = 3


def is_allowed(text, entries, free) -> bool:
    """Whether a text can be divided into free units and entries, with a free unit between two entries.

    It may also be the last unit of the first entry or the first one of the second.
    """

    @cache
    def rest_is_allowed(start: int) -> bool:
        if start == len(text) or (free[text[start]] and rest_is_allowed(start + 1)):
            return True
        return any(
            text[start : start + len(entry)] == entry
            and (start == 0 or free[text[start - 1]] or free[entry[0]])
            and rest_is_allowed(start + len(entry))
            for entry in entries
        )

    return rest_is_allowed(0)


def accepts(automaton: WordAutomaton, text) -> bool:
    state = automaton.start
    for code in (*text, automaton.end_column):
        rows, log_probs, following = automaton.rows(np.array([state]))
        if log_probs[rows[0], code] < 0:
            return False
        state = following[rows[0], code]
    return True


@given(
    st.lists(
        st.lists(st.integers(0, UNITS - 1), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6, unique=True
    ),
    st.lists(st.booleans(), min_size=UNITS, max_size=UNITS),
)
def test_a_text_is_accepted_if_its_words_are_entries(entries, free):
    automaton = WordAutomaton(entries, free)
    for length in range(6):
        for text in itertools.product(range(UNITS), repeat=length):
            allowed = is_allowed(text, entries, free)
            assert accepts(automaton, text) == allowed, text
            prefixes = [text[:end] for end in range(length + 1)]
            assert automaton.complete_length(text) == max(
                len(prefix) for prefix in prefixes if is_allowed(prefix, entries, free)
            )


def test_all_states_of_a_call_get_their_row():
    automaton = WordAutomaton([(0, 1), (0, 2, 0)], [False, False, True])
    rows, log_probs, _ = automaton.rows(np.array([[0, 1], [1, 0]]))
    assert rows.shape == (2, 2)
    # Both begin with unit 0, after which the first one needs unit 1 and the second one unit 2.
    assert (log_probs[rows[0, 0]] == [0, -np.inf, 0, 0]).all()
    assert (log_probs[rows[0, 1]] == [-np.inf, 0, 0, -np.inf]).all()
    assert rows[0, 0] == rows[1, 1]
