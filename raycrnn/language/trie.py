"""The prefix tree (trie) of sequences of codes, in arrays.

Array names end in their axes: D nodes of the trie, E entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROOT = 0
"""The node of the empty prefix."""

GROUPS = 128
"""Number of groups of codes in `Trie.groups_DG`: a code belongs to the group of its remainder."""


@dataclass(frozen=True)
class Trie:
    """A node for each prefix of the entries, level by level; the children of a node follow each other."""

    parent_D: np.ndarray
    """The node of the prefix without its last code; `ROOT` for the root."""
    code_D: np.ndarray
    """The last code of the prefix; −1 for the root."""
    entry_D: np.ndarray
    """The number of the entry that the prefix is; −1 if it is none."""
    first_child_D: np.ndarray
    children_D: np.ndarray
    """Number of children."""
    node_E: np.ndarray
    """The node of each entry."""
    groups_DG: np.ndarray
    """The groups of the last code and of all codes that can follow, as bits of uint8 [D, GROUPS / 8]."""

    @classmethod
    def of(cls, entries: Sequence[Sequence[int]]) -> "Trie":
        """Return the trie of some entries, which are different from each other and not empty."""
        order = sorted(range(len(entries)), key=lambda i: tuple(entries[i]))
        lengths_E = np.array([len(entries[i]) for i in order])
        starts_E = np.cumsum(lengths_E) - lengths_E
        # Concatenated, because a table of all places would have the length of the longest entry in each row.
        concatenated = np.array([code for i in order for code in entries[i]], np.int32)
        # Whether the prefix of an entry differs from that of the sorted entry before it.
        differs_E = np.arange(len(entries)) == 0
        parents, codes, levels = [np.array([ROOT])], [np.array([-1])], [1]
        node_E, count = np.zeros(len(entries), np.int64), 1
        for place in range(int(lengths_E.max())):
            reaches_E = lengths_E > place
            code_E = np.full(len(entries), -1, np.int32)
            code_E[reaches_E] = concatenated[starts_E[reaches_E] + place]
            differs_E[1:] |= code_E[1:] != code_E[:-1]
            is_new_E = differs_E & reaches_E
            parents.append(node_E[is_new_E])
            codes.append(code_E[is_new_E])
            node_E[reaches_E] = (count - 1 + np.cumsum(is_new_E))[reaches_E]
            count += int(is_new_E.sum())
            levels.append(count)
        parent_D, entry_D = np.concatenate(parents), np.full(count, -1)
        entry_D[node_E] = order
        children_D = np.bincount(parent_D[1:], minlength=count)
        first_child_D = 1 + np.concatenate([[0], np.cumsum(children_D)[:-1]])
        of_entry_E = np.zeros_like(node_E)
        of_entry_E[order] = node_E
        code_D = np.concatenate(codes).astype(np.int64)
        groups_DG = _groups(code_D, parent_D, levels)
        return cls(parent_D, code_D, entry_D, first_child_D, children_D, of_entry_E, groups_DG)

    def __len__(self) -> int:
        return len(self.parent_D)

    def child(self, node: int, code: int) -> int | None:
        """Return the child of a node by a code; None if there is none."""
        first = int(self.first_child_D[node])
        codes = self.code_D[first : first + self.children_D[node]]
        # The codes of the children are in increasing order.
        place = int(codes.searchsorted(code))
        return first + place if place < len(codes) and codes[place] == code else None

    def children(self, nodes_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all children of some nodes, and the index in `nodes_N` of the parent of each."""
        counts_N = self.children_D[nodes_N]
        index_M = np.repeat(np.arange(len(nodes_N)), counts_N)
        within_M = np.arange(len(index_M)) - np.repeat(np.cumsum(counts_N) - counts_N, counts_N)
        return self.first_child_D[nodes_N][index_M] + within_M, index_M

    def leads_to(self, nodes: np.ndarray) -> np.ndarray:
        """Return for each node whether it is one of some nodes, or on the way to one."""
        leads_D = np.zeros(len(self), bool)
        while len(nodes):
            leads_D[nodes] = True
            nodes = self.parent_D[nodes]
            nodes = np.unique(nodes[~leads_D[nodes]])
        return leads_D


def _groups(code_D: np.ndarray, parent_D: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """Return `Trie.groups_DG`, given the number of nodes down to each level."""
    is_in_DG = np.zeros((len(code_D), GROUPS), bool)
    is_in_DG[np.arange(1, len(code_D)), code_D[1:] % GROUPS] = True
    groups_DG = np.packbits(is_in_DG, axis=1)
    for start, stop in zip(levels[-2::-1], levels[:0:-1], strict=True):
        # The children of a node follow each other.
        first = start + np.flatnonzero(np.diff(parent_D[start:stop], prepend=-1))
        groups_DG[parent_D[first]] |= np.bitwise_or.reduceat(groups_DG[:stop], first, axis=0)
    return groups_DG
