"""An n-gram model as a deterministic automaton over the units of an alphabet, with a table of its transitions.

Decoding looks up the probability and the next state of thousands of pairs of a state and a unit for each frame. To
search the n-grams for each of them would take most of the time, and a table of all states could be larger than memory.
Therefore a row of the table is computed when its state is first reached, and all are forgotten when they take more than
`TABLE_BYTES`.

Array names end in their shape: R rows, C columns, S nodes of the n-gram model, V units of its vocabulary.
"""

import math
import threading
from collections.abc import Sequence

import numpy as np

from raycrnn.errors import UsageError
from raycrnn.language.ngram_model import END_ID, SPECIAL, UNKNOWN, UNKNOWN_ID, NgramModel

TABLE_BYTES = 256 * 2**20
"""Size of the table, in bytes, above which its rows are forgotten."""

FIRST_ROWS = 1024

MAX_NAMED = 5
"""Units of the model that a message names, at most."""

MAX_LISTED = 20
"""Units of the alphabet that a message names, at most."""

LN_10 = math.log(10)


def unknown_units(model: NgramModel, units: Sequence[str]) -> tuple[str, ...]:
    """Return the units of an alphabet that an n-gram model lacks.

    Raises:
        UsageError: The model lacks all of them, as one of words does.
    """
    unknown = tuple(unit for unit, token in zip(units, model.encode(units), strict=True) if token == UNKNOWN_ID)
    if len(unknown) == len(units):
        own = ", ".join(map(repr, model.units[len(SPECIAL) :][:MAX_NAMED]))
        raise UsageError(
            f"the language model has no unit of the alphabet, but such as {own}: it must be a model of the "
            "alphabet's units, which are usually characters, and not of words"
        )
    return unknown


def describe_unknown(unknown: Sequence[str]) -> str:
    """Return what to say about the units of an alphabet that an n-gram model lacks."""
    shown = ", ".join(map(repr, unknown[:MAX_LISTED])) + (", …" if len(unknown) > MAX_LISTED else "")
    return (
        f"the language model lacks {len(unknown):,} units of the alphabet, which have the probability of {UNKNOWN}: "
        f"{shown}"
    )


class Automaton:
    """The transitions of an n-gram model between states, which are nodes of the model.

    Args:
        model: The n-gram model.
        units: The units of the alphabet. Those that the model lacks have the probability of `<unk>`.

    Raises:
        UsageError: The model lacks all of them.
    """

    def __init__(self, model: NgramModel, units: Sequence[str]):
        self.model = model
        self.unknown = unknown_units(model, units)
        """The units that the model lacks."""
        self._token_C, columns = np.unique([*model.encode(units), END_ID], return_inverse=True)
        self.columns = columns[:-1]
        """int64: the column of each unit of the alphabet."""
        self.end_column = int(columns[-1])
        """The column of the end of a line."""
        self._column_V = np.full(len(model.units), -1)
        self._column_V[self._token_C] = np.arange(len(self._token_C))
        self._units = tuple(units)
        self._lock = threading.Lock()
        self._forget()

    def __reduce__(self) -> tuple:
        """Pickle without the table."""
        return Automaton, (self.model, self._units)

    def _forget(self) -> None:
        self._row_S = np.full(len(self.model.key_S), -1, np.int32)
        self._rows = 0
        self._log_prob_RC = np.empty((FIRST_ROWS, len(self._token_C)), np.float32)
        self._next_RC = np.empty((FIRST_ROWS, len(self._token_C)), np.int32)

    @property
    def start(self) -> int:
        """The state at the start of a line."""
        return self.model.start

    @property
    def max_states(self) -> int:
        """Number of states that a call of `rows` can have."""
        return TABLE_BYTES // (2 * self.model.order * 8 * len(self._token_C))

    def rows(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of states, and the table in which they are.

        Returns:
            The row of each state; the natural logarithm of the probability of each column, float32 [R, C]; and the next
            states, int32 [R, C]. The table stays valid, also if its rows are forgotten later.
        """
        with self._lock:
            if 8 * self._rows * len(self._token_C) > TABLE_BYTES:
                self._forget()
            row = self._row_S[states]
            if (row < 0).any():
                self._fill(np.unique(states))
                row = self._row_S[states]
            return row, self._log_prob_RC, self._next_RC

    def _fill(self, states: np.ndarray) -> None:
        """Compute the rows of different states, in increasing order, that are not in the table."""
        states = states[self._row_S[states] < 0]
        if not len(states):
            return
        model = self.model
        # They differ from the rows of their suffixes by a back-off weight, and by the n-grams that there are.
        suffix = model.suffix_S[states]
        longer = suffix >= 0  # All but the empty context, which has an n-gram for each column.
        suffix = suffix[longer]
        self._fill(np.unique(suffix))
        first, end = self._rows, self._rows + len(states)
        self._make_room(end)
        log_prob_RC, next_RC = self._log_prob_RC[first:end], self._next_RC[first:end]
        backoff = LN_10 * model.backoff_S[states[longer], None]
        log_prob_RC[longer] = self._log_prob_RC[self._row_S[suffix]] + backoff
        next_RC[longer] = self._next_RC[self._row_S[suffix]]
        start, stop = model.first_child_S[states], model.first_child_S[states + 1]
        child = _ranges(start, stop)
        column = self._column_V[model.unit_S[child]]
        row = np.repeat(np.arange(len(states)), stop - start)
        child, column, row = child[column >= 0], column[column >= 0], row[column >= 0]
        log_prob_RC[row, column] = LN_10 * model.log_prob_S[child]
        next_RC[row, column] = model.state_S[child]
        self._row_S[states] = np.arange(first, end)
        self._rows = end

    def _make_room(self, rows: int) -> None:
        """Enlarge the table, so that it has room for a number of rows."""
        if rows > len(self._next_RC):
            more = max(rows, 2 * len(self._next_RC)) - len(self._next_RC)
            self._log_prob_RC = np.pad(self._log_prob_RC, ((0, more), (0, 0)))
            self._next_RC = np.pad(self._next_RC, ((0, more), (0, 0)))


def _ranges(first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the numbers of all ranges [first, end), concatenated."""
    lengths = end - first
    return np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
