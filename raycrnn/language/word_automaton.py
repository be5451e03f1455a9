"""The texts whose words are all entries of a lexicon, as a deterministic automaton over the units of an alphabet.

A word is a sequence of letters. Between words there can be any free units: those without letters, such as spaces,
digits and punctuation. An entry can contain free units too, as in `don't`, `well-known` and `New York`. After such a
unit, a line can be within the entry, or at a place where another word begins, or both. Therefore a state is a set of
nodes of the trie of the entries (subset construction, Rabin and Scott 1959). Nearly all states are sets of one node.

Array names end in their shape: R rows, C columns (the units of the alphabet, and the end), S states, X edges.
"""

from collections.abc import Sequence

import numpy as np

from raycrnn.language.trie import ROOT, Trie

TABLE_BYTES = 256 * 2**20
"""Size of the table of a call, in bytes, above which there must be fewer states."""


class WordAutomaton:
    """The transitions between places in entries. The start is the place where a word can begin.

    Args:
        entries: The codes of each entry, which are different from each other and not empty.
        free: Whether each unit of the alphabet is free.
    """

    start = ROOT

    def __init__(self, entries: Sequence[Sequence[int]], free: Sequence[bool]):
        self._trie = Trie.of(entries)
        self._is_free = np.array(free)
        self.columns = np.arange(len(free))
        """int64: the column of each unit of the alphabet."""
        self.end_column = len(free)
        """The column of the end of a line."""
        self._is_entry_D = self._trie.entry_D >= 0
        self._states: dict[frozenset[int], int] = {}
        self._members: list[frozenset[int]] = []
        self._make_edges()
        self._may_end_S = self._are_ends()
        self._has_root_S = np.zeros(len(self._may_end_S), bool)
        self._has_root_S[len(self._trie) :] = [ROOT in members for members in self._members]
        self._after_free_C = np.array(
            [self._state(self._follow(frozenset([ROOT]), code)) if is_free else -1 for code, is_free in enumerate(free)]
        )
        self._root_C = self._row_of_root()

    @property
    def max_states(self) -> int:
        """Number of states that a call of `rows` can have."""
        return TABLE_BYTES // (16 * (len(self.columns) + 1))

    def rows(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of states, and the table in which they are.

        Returns:
            The row of each state; 0 or −inf for each column, float32 [R, C]; and the next states, int64 [R, C], which
            are arbitrary for −inf.
        """
        state_R, row = np.unique(states, return_inverse=True)
        next_RC = np.full((len(state_R), self.end_column + 1), -1)
        units_RC = next_RC[:, : self.end_column]
        ends_R = self._may_end_S[state_R]
        units_RC[ends_R] = self._after_free_C
        units_RC[self._has_root_S[state_R]] = self._root_C
        counts_R = self._first_edge_S[state_R + 1] - self._first_edge_S[state_R]
        row_X = np.repeat(np.arange(len(state_R)), counts_R)
        within_X = np.arange(len(row_X)) - np.repeat(np.cumsum(counts_R) - counts_R, counts_R)
        edge_X = self._first_edge_S[state_R][row_X] + within_X
        units_RC[row_X, self._edge_unit_X[edge_X]] = self._edge_next_X[edge_X]
        next_RC[ends_R, self.end_column] = ROOT
        log_prob_RC = np.where(next_RC >= 0, np.float32(0), np.float32(-np.inf))
        return row.reshape(states.shape), log_prob_RC, next_RC.clip(min=ROOT)

    def complete_length(self, codes: Sequence[int]) -> int:
        """Return the length of the longest prefix of a text that ends after a word or outside of words."""
        nodes, length = frozenset([ROOT]), 0
        for position, code in enumerate(codes, 1):
            nodes = self._follow(nodes, code)
            if not nodes:
                break
            if self._may_end(nodes):
                length = position
        return length

    def _follow(self, nodes: frozenset[int], code: int) -> frozenset[int]:
        """Return the nodes where a text can be after one more unit; none if the text is impossible."""
        following = {child for node in nodes if (child := self._trie.child(node, code)) is not None}
        if self._is_free[code]:
            if self._may_end(nodes):
                following.add(ROOT)
                # An entry that begins with a free unit can follow a word directly.
                if (child := self._trie.child(ROOT, code)) is not None:
                    following.add(child)
            elif any(self._is_entry_D[node] for node in following):
                following.add(ROOT)
        return frozenset(following)

    def _may_end(self, nodes: frozenset[int]) -> bool:
        return ROOT in nodes or any(self._is_entry_D[node] for node in nodes)

    def _state(self, nodes: frozenset[int]) -> int:
        """Return the state of a set of nodes: the node itself if it is alone."""
        if len(nodes) == 1:
            return next(iter(nodes))
        if nodes not in self._states:
            self._states[nodes] = len(self._trie) + len(self._states)
            self._members.append(nodes)
        return self._states[nodes]

    def _make_edges(self) -> None:
        """Make the edges of all states, apart from those by free units that leave an entry.

        Those of a set that includes the root are its own ones; it has those of the root too.
        """
        trie = self._trie
        source, unit = trie.parent_D[1:].copy(), trie.code_D[1:]
        target = np.arange(1, len(trie))
        for edge in np.flatnonzero(self._is_free[unit]):
            target[edge] = self._state(self._follow(frozenset([int(source[edge])]), int(unit[edge])))
        for code in np.flatnonzero(self._is_free):
            self._state(self._follow(frozenset([ROOT]), int(code)))
        more: list[tuple[int, int, int]] = []
        done = 0
        while done < len(self._members):
            nodes = self._members[done]
            state, done = self._states[nodes], done + 1
            children, _ = trie.children(np.array([node for node in nodes if node != ROOT]))
            codes = set(trie.code_D[children].tolist())
            more += [(state, code, self._state(self._follow(nodes, code))) for code in codes]
        edges = np.concatenate([np.stack([source, unit, target], axis=1), np.array(more, np.int64).reshape(-1, 3)])
        edges = edges[np.argsort(edges[:, 0], kind="stable")]
        self._edge_unit_X, self._edge_next_X = edges[:, 1], edges[:, 2]
        counts_S = np.bincount(edges[:, 0], minlength=len(trie) + len(self._members))
        self._first_edge_S = np.concatenate([[0], np.cumsum(counts_S)])

    def _are_ends(self) -> np.ndarray:
        """Return for each state whether a line can end there."""
        ends_D = self._is_entry_D.copy()
        ends_D[ROOT] = True
        return np.concatenate([ends_D, [self._may_end(nodes) for nodes in self._members]]).astype(bool)

    def _row_of_root(self) -> np.ndarray:
        row_C = self._after_free_C.copy()
        own = slice(self._first_edge_S[ROOT], self._first_edge_S[ROOT + 1])
        row_C[self._edge_unit_X[own]] = self._edge_next_X[own]
        return row_C
