"""Beam search with a language model, compared with enumeration of all texts."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from raycrnn.language import kneser_ney
from raycrnn.language.automaton import Automaton
from raycrnn.model import ctc, fused_search
from raycrnn.model.fused_search import Fusion
from tests.model.test_ctc import brute_force, random_log_probs

MODEL = kneser_ney.estimate([tuple("abacab"), tuple("bca"), tuple("aab")], 3, "abc")


def fusion(units: int, weight: float, bonus: float) -> Fusion:
    return Fusion(Automaton(MODEL, "abc"[:units]), weight, bonus)


def likely_log_probs(frames: int, batch: int, classes: int, seed: int, sharpness: float) -> torch.Tensor:
    """Return random log-probabilities of which none is so low that prefixes are not extended by the unit."""
    lowest = fused_search.LEAST_LOG_PROB + 1
    return random_log_probs(frames, batch, classes, seed, sharpness).clamp(min=lowest).log_softmax(-1)


@given(
    frames=st.integers(1, 6),
    units=st.integers(1, 3),
    seed=st.integers(0, 2**20),
    sharpness=st.sampled_from([0.1, 1.0, 3.0]),
    weight=st.floats(0, 2),
    bonus=st.floats(-1, 2),
)
def test_a_wide_search_equals_enumeration(frames, units, seed, sharpness, weight, bonus):
    log_probs = likely_log_probs(frames, 2, units + 1, seed, sharpness)
    frames_B = torch.tensor([frames, max(1, frames - 1)])
    found = fused_search.beam_search(log_probs, frames_B, fusion(units, weight, bonus), width=800, paths=800)
    for sample in range(2):
        expected = brute_force(log_probs[: frames_B[sample], sample])
        assert {path.codes for path in found[sample]} == expected.keys()
        assert len(found[sample]) == len(expected)
        for path in found[sample]:
            assert path.log_prob == pytest.approx(math.log(expected[path.codes]), abs=1e-3)
            language = math.log(10) * MODEL.log_probs([["abc"[code] for code in path.codes]]).sum()
            assert path.added == pytest.approx(weight * language + bonus * len(path.codes), abs=2e-3)
        scores = [path.score for path in found[sample]]
        assert scores == sorted(scores, reverse=True)


@given(
    frames=st.integers(1, 9), units=st.integers(1, 3), seed=st.integers(0, 2**20), sharpness=st.sampled_from([1.0, 4.0])
)
@example(frames=3, units=1, seed=43696, sharpness=4.0)
def test_without_weight_and_bonus_it_is_the_plain_search(frames, units, seed, sharpness):
    log_probs, frames_B = likely_log_probs(frames, 1, units + 1, seed, sharpness), torch.tensor([frames])
    found = fused_search.beam_search(log_probs, frames_B, fusion(units, 0, 0), width=6, paths=3)[0]
    plain = ctc.beam_search(log_probs, frames_B, width=6, paths=3)[0]
    assert [path.log_prob for path in found] == pytest.approx([path.log_prob for path in plain], abs=1e-4)


@given(frames=st.integers(1, 12), batch=st.integers(1, 6), seed=st.integers(0, 2**20))
def test_a_result_does_not_depend_on_the_other_images_to_the_bit(frames, batch, seed):
    log_probs = random_log_probs(frames, batch, 4, seed, sharpness=6.0)
    frames_B = torch.randint(1, frames + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    together = fused_search.beam_search(log_probs, frames_B, fusion(3, 0.7, 0.3), width=7, paths=3)
    for i, frames in enumerate(frames_B.tolist()):
        alone = log_probs[:frames, i : i + 1]
        assert fused_search.beam_search(alone, frames_B[i : i + 1], fusion(3, 0.7, 0.3), 7, 3)[0] == together[i]


def test_many_images_are_searched_in_parts(monkeypatch):
    log_probs, frames_B = random_log_probs(9, 5, 4, seed=1, sharpness=3.0), torch.tensor([9, 9, 4, 9, 1])
    whole = fused_search.beam_search(log_probs, frames_B, fusion(3, 0.7, 0.3), width=7, paths=3)
    monkeypatch.setattr(Automaton, "max_states", 14)
    assert fused_search.beam_search(log_probs, frames_B, fusion(3, 0.7, 0.3), width=7, paths=3) == whole


def test_a_likely_text_of_the_language_wins_over_an_equally_likely_one():
    # Three frames, each for one unit: b or c after a. The language model has seen ab more often than ac.
    log_probs = torch.full((2, 1, 4), -20.0)
    log_probs[0, 0, 0] = 0
    log_probs[1, 0, 1], log_probs[1, 0, 2] = -0.75, -0.65
    plain = ctc.beam_search(log_probs, torch.tensor([2]), 10)[0][0]
    fused = fused_search.beam_search(log_probs, torch.tensor([2]), fusion(3, 1, 0), 10)[0][0]
    assert plain.codes == (0, 2)
    assert fused.codes == (0, 1)
