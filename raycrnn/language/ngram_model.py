"""Back-off n-gram models of units, which are usually characters (Katz 1987), as ARPA files hold them.

The n-grams are the nodes of a trie in breadth-first order. Node 0 is the empty sequence. The children of a node are the
n-grams that extend it by one unit, and are sorted by it, so all nodes together are sorted by `parent * V + unit`. With
suffix links, the trie is an automaton: the state after some units is the longest n-gram that they end in.

Array names end in their shape: S nodes, V units of the vocabulary.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
SPECIAL = (UNKNOWN, BEGIN, END)
"""The first units of every vocabulary: one that stands for all units that are not in it, the beginning of a line, and
its end."""
UNKNOWN_ID, BEGIN_ID, END_ID = range(3)

NEVER = -99.0
"""The log10-probability that stands for a probability of 0 in ARPA files."""

ROOT = 0


@dataclass(frozen=True, eq=False)
class NgramModel:
    """A back-off n-gram model.

    The log10-probability of a unit after a context is `log_prob_S` of the n-gram of both, if there is one; otherwise
    the `backoff_S` of the context plus the log10-probability after the context without its first unit.
    """

    units: tuple[str, ...]
    """The vocabulary, which starts with `SPECIAL`. The node of the unigram of unit i is i + 1."""
    key_S: np.ndarray
    """int64: `parent * V + unit` of each node; −1 for the root. Sorted, without repetitions."""
    log_prob_S: np.ndarray
    """float32: log10-probability of the last unit of each n-gram after the units before it; 0 for the root."""
    backoff_S: np.ndarray
    """float32: log10 of the back-off weight of each n-gram as a context; 0 if it is none."""

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of the n-grams."""
        digest = hashlib.sha256(json.dumps(self.units).encode("ascii"))
        for array in (self.key_S, self.log_prob_S, self.backoff_S):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def parent_S(self) -> np.ndarray:
        """The n-gram without its last unit; −1 for the root."""
        return self.key_S // len(self.units)

    @cached_property
    def unit_S(self) -> np.ndarray:
        """The last unit of each n-gram; arbitrary for the root."""
        return self.key_S % len(self.units)

    @cached_property
    def levels(self) -> list[tuple[int, int]]:
        """The nodes [first, end) of the n-grams of each order, from 1."""
        levels = [(1, 1 + len(self.units))]
        while (end := levels[-1][1]) < len(self.key_S):
            # Those whose parents are in the last level.
            levels.append((end, int(np.searchsorted(self.key_S, end * len(self.units)))))
        return levels

    @property
    def order(self) -> int:
        """The number of units in the longest n-grams."""
        return len(self.levels)

    @cached_property
    def first_child_S(self) -> np.ndarray:
        """The first child of each node. Its last child is the one before the first child of the following node."""
        return np.searchsorted(self.key_S, np.arange(len(self.key_S) + 1) * len(self.units))

    def child(self, nodes: np.ndarray, units: np.ndarray) -> np.ndarray:
        """Return the n-grams that extend nodes by a unit each; −1 if there is none, or no node (−1)."""
        keys = nodes * len(self.units) + units
        found = np.minimum(np.searchsorted(self.key_S, keys), len(self.key_S) - 1)
        return np.where((self.key_S[found] == keys) & (nodes >= 0), found, -1)

    @cached_property
    def suffix_S(self) -> np.ndarray:
        """The longest proper suffix of each n-gram that is an n-gram of the model; −1 for the root."""
        suffix_S = np.full(len(self.key_S), -1)
        suffix_S[slice(*self.levels[0])] = ROOT
        parent_S, unit_S = self.parent_S, self.unit_S
        for first, end in self.levels[1:]:
            suffix_S[first:end] = self._back_off(suffix_S[parent_S[first:end]], unit_S[first:end], suffix_S)[0]
        return suffix_S

    def _back_off(self, contexts: np.ndarray, units: np.ndarray, suffix_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the longest n-grams of a suffix of each context and a unit, and the sum of back-off weights to it."""
        contexts, weights = contexts.copy(), np.zeros(len(contexts))
        found = self.child(contexts, units)
        while len(missing := np.flatnonzero(found < 0)):
            weights[missing] += self.backoff_S[contexts[missing]]
            contexts[missing] = suffix_S[contexts[missing]]
            found[missing] = self.child(contexts[missing], units[missing])
        return found, weights

    def after(self, contexts: np.ndarray, units: np.ndarray) -> np.ndarray:
        """Return the log10-probabilities of units after contexts, which are nodes."""
        found, weights = self._back_off(contexts, units, self.suffix_S)
        return self.log_prob_S[found] + weights

    @cached_property
    def state_S(self) -> np.ndarray:
        """The shortest suffix of each n-gram after which every unit has the same probability as after the n-gram."""
        state_S = np.arange(len(self.key_S))
        has_children_S = np.diff(self.first_child_S) > 0
        for first, end in self.levels:
            same = ~has_children_S[first:end] & (self.backoff_S[first:end] == 0)
            state_S[first:end] = np.where(same, state_S[self.suffix_S[first:end]], state_S[first:end])
        return state_S

    @cached_property
    def ids(self) -> dict[str, int]:
        """The number of each unit."""
        return {unit: number for number, unit in enumerate(self.units)}

    @property
    def start(self) -> int:
        """The state at the beginning of a line."""
        return int(self.state_S[1 + BEGIN_ID])

    def encode(self, units: Iterable[str]) -> list[int]:
        """Return the numbers of units; that of `<unk>` for units that are not in the vocabulary."""
        return [self.ids.get(unit, UNKNOWN_ID) for unit in units]

    def log_probs(self, lines: Sequence[Sequence[str]]) -> np.ndarray:
        """Return the log10-probability of each unit of some lines, and of the end of each, all concatenated."""
        unit_P, place_P = concatenate([self.encode(line) for line in lines])
        node_P = np.full(len(unit_P), ROOT)
        log_prob_P = np.zeros(len(unit_P))
        for length in range(self.order):
            # The n-grams that end at a place, with a context of this length, and the contexts.
            whole_P = place_P >= length
            context_P = np.where(whole_P, np.roll(node_P, 1) if length else node_P, -1)
            node_P = self.child(context_P, unit_P)
            backed_off_P = log_prob_P + np.where(context_P >= 0, self.backoff_S[context_P], 0)
            longer_P = np.where(node_P >= 0, self.log_prob_S[node_P], backed_off_P)
            log_prob_P = np.where(whole_P, longer_P, log_prob_P)
        return log_prob_P[place_P > 0]

    def perplexity(self, lines: Sequence[Sequence[str]]) -> float:
        """Return the perplexity of lines: the inverse of the geometric mean probability of their units and ends."""
        return float(10 ** -self.log_probs(lines).mean())


def concatenate(lines: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the units of lines, each between its beginning and end, and their places in the line."""
    lengths = np.array([len(line) + 2 for line in lines])
    ends = np.cumsum(lengths)
    place_P = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
    unit_P = np.empty(len(place_P), np.int64)
    is_end_P = place_P == np.repeat(lengths - 1, lengths)
    unit_P[place_P == 0] = BEGIN_ID
    unit_P[is_end_P] = END_ID
    unit_P[(place_P > 0) & ~is_end_P] = np.fromiter((unit for line in lines for unit in line), np.int64)
    return unit_P, place_P
