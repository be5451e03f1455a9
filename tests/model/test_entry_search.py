"""The most likely entries of a lexicon, compared with the probabilities of all of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from raycrnn.model import ctc, entry_search
from raycrnn.model.entry_search import EntrySearch

CLASSES = 5
ENTRY = st.lists(st.integers(0, CLASSES - 2), min_size=1, max_size=5).map(tuple)


@st.composite
def lines(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of up to three lines with up to seven frames, and their numbers of frames."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    frames_B = torch.tensor(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    scale = draw(st.sampled_from([0.1, 1.0, 5.0]))
    shape = int(frames_B.max()), len(frames_B), CLASSES
    return (torch.randn(shape, generator=generator) * scale).log_softmax(2), frames_B


def all_likely(log_probs_TBK, frames_B, line, entries) -> list[tuple[float, tuple[int, ...]]]:
    """The log-probabilities of the possible entries, best first, from PyTorch's CTC loss."""
    repeated = [line] * len(entries)
    log_probs = ctc.log_likelihoods(log_probs_TBK[:, repeated].double(), frames_B[repeated], entries).tolist()
    pairs = zip(log_probs, entries, strict=True)
    return sorted(((p, entry) for p, entry in pairs if p > -1e6), key=lambda pair: -pair[0])


@given(lines(), st.lists(ENTRY, min_size=1, max_size=25, unique=True), st.sampled_from([None, 0, 1, 2]))
def test_the_best_entries_are_found_with_their_probabilities(given_lines, entries, distance):
    log_probs_TBK, frames_B = given_lines
    found = EntrySearch(entries).search(log_probs_TBK, frames_B, 3, distance)
    for line, (paths, greedy) in enumerate(zip(found, ctc.greedy(log_probs_TBK, frames_B), strict=True)):
        near = [entry for entry in entries if distance is None or Levenshtein.distance(entry, greedy.codes) <= distance]
        expected = all_likely(log_probs_TBK, frames_B, line, near)[:3] if near else []
        assert [path.log_prob for path in paths] == pytest.approx([p for p, _ in expected], abs=1e-3)
        assert {path.codes for path in paths} <= set(near)


@given(lines(), st.lists(ENTRY, min_size=1, max_size=25, unique=True))
def test_the_best_entry_is_also_found_if_the_first_search_is_too_narrow(given_lines, entries):
    log_probs_TBK, frames_B = given_lines
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry_search, "WIDTHS", (1, 2, 1000))
        found = EntrySearch(entries).search(log_probs_TBK, frames_B, 2)
    for line, paths in enumerate(found):
        expected = all_likely(log_probs_TBK, frames_B, line, entries)
        assert [path.log_prob for path in paths[:1]] == pytest.approx([p for p, _ in expected[:1]], abs=1e-3)


def test_a_result_does_not_depend_on_the_other_lines():
    log_probs_TBK = torch.randn(20, 4, CLASSES, generator=torch.Generator().manual_seed(3)).log_softmax(2)
    frames_B = torch.tensor([20, 7, 13, 20])
    search = EntrySearch([(0, 1, 2), (1, 1), (3, 0, 2), (2,)])
    together = search.search(log_probs_TBK, frames_B, 2)
    for line, paths in enumerate(together):
        [alone] = search.search(log_probs_TBK[:, [line]], frames_B[[line]], 2)
        assert [path.codes for path in alone] == [path.codes for path in paths]
        assert [path.log_prob for path in alone] == pytest.approx([path.log_prob for path in paths])


def test_units_that_the_network_excludes_are_impossible():
    log_probs_TBK = torch.tensor([[[-math.inf, 0.0, -math.inf]], [[-math.inf, -math.inf, 0.0]]])
    found = EntrySearch([(0,), (1,), (1, 0)]).search(log_probs_TBK, torch.tensor([2]), 3)
    assert [(path.codes, path.log_prob) for path in found[0]] == [((1,), 0.0)]


def test_entries_that_need_more_frames_are_impossible():
    log_probs_TBK = torch.zeros(2, 1, 3).log_softmax(2)
    assert EntrySearch([(0, 0), (0, 1, 0)]).search(log_probs_TBK, torch.tensor([2]), 2) == [[]]
