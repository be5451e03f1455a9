"""The trie of a lexicon, compared with the sets of prefixes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.language.trie import GROUPS, ROOT, Trie

CODES = st.sampled_from([0, 1, 2, 3, GROUPS, GROUPS + 1])
ENTRIES = st.lists(st.lists(CODES, min_size=1, max_size=5).map(tuple), min_size=1, max_size=20, unique=True)


def prefix_of(trie: Trie, node: int) -> tuple[int, ...]:
    codes = []
    while node != ROOT:
        codes.append(int(trie.code_D[node]))
        node = int(trie.parent_D[node])
    return tuple(reversed(codes))


@given(ENTRIES)
def test_the_nodes_are_the_prefixes(entries):
    trie = Trie.of(entries)
    prefixes = [prefix_of(trie, node) for node in range(len(trie))]
    assert sorted(prefixes) == sorted({entry[:length] for entry in entries for length in range(len(entry) + 1)})
    assert [prefixes[node] for node in trie.node_E] == entries
    for node, prefix in enumerate(prefixes):
        assert trie.entry_D[node] == (entries.index(prefix) if prefix in entries else -1)
        extended = [other for other in prefixes if other[:-1] == prefix and other]
        found, index = trie.children(np.array([node]))
        assert sorted(prefixes[child] for child in found) == sorted(extended)
        assert not index.any()
        for code in (0, 1, GROUPS):
            child = trie.child(node, code)
            assert (prefixes[child] if child is not None else None) == (
                (*prefix, code) if (*prefix, code) in extended else None
            )
        following = {
            code % GROUPS for entry in entries if entry[: len(prefix)] == prefix for code in entry[len(prefix) :]
        }
        own = {prefix[-1] % GROUPS} if prefix else set()
        assert set(np.flatnonzero(np.unpackbits(trie.groups_DG[node]))) == following | own


@given(ENTRIES, st.data())
def test_nodes_on_the_way_to_others_are_marked(entries, data):
    trie = Trie.of(entries)
    chosen = data.draw(st.lists(st.sampled_from(entries), unique=True))
    leads = trie.leads_to(trie.node_E[[entries.index(entry) for entry in chosen]])
    for node in range(len(trie)):
        prefix = prefix_of(trie, node)
        assert leads[node] == any(entry[: len(prefix)] == prefix for entry in chosen)
