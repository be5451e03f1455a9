"""The loss, the decoders and the alignment, compared with enumeration of all paths."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from raycrnn.data.csv_files import min_frames
from raycrnn.model import ctc


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(code for code, _ in itertools.groupby(path) if code != blank)


def brute_force(log_probs_TK: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Return the probability of every text, summed over all K^T alignments."""
    frames, classes = log_probs_TK.shape
    probs = log_probs_TK.double().exp().tolist()
    texts: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(classes), repeat=frames):
        text = collapse(path, classes - 1)
        texts[text] = texts.get(text, 0.0) + math.prod(probs[t][c] for t, c in enumerate(path))
    return texts


def random_log_probs(frames: int, batch: int, classes: int, seed: int, sharpness: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(frames, batch, classes, generator=generator) * sharpness).log_softmax(-1)


@given(
    frames=st.integers(1, 6),
    classes=st.integers(2, 4),
    seed=st.integers(0, 2**20),
    sharpness=st.sampled_from([0.1, 1.0, 4.0]),
)
def test_a_wide_beam_search_equals_enumeration(frames, classes, seed, sharpness):
    log_probs = random_log_probs(frames, 3, classes, seed, sharpness)
    frames_B = torch.tensor([frames, max(1, frames - 1), 1])
    found = ctc.beam_search(log_probs, frames_B, width=500, paths=500)
    for sample in range(3):
        expected = brute_force(log_probs[: frames_B[sample], sample])
        got = {path.codes: math.exp(path.log_prob) for path in found[sample]}
        assert len(got) == len(found[sample]), "a text stands twice"
        assert got.keys() == expected.keys()
        for text, probability in expected.items():
            assert got[text] == pytest.approx(probability, rel=1e-4)
        ranked = [path.log_prob for path in found[sample]]
        assert ranked == sorted(ranked, reverse=True)


@given(frames=st.integers(1, 7), classes=st.integers(2, 4), seed=st.integers(0, 2**20))
def test_a_narrow_beam_search_never_overestimates_probabilities(frames, classes, seed):
    log_probs = random_log_probs(frames, 1, classes, seed)
    expected = brute_force(log_probs[:, 0])
    for path in ctc.beam_search(log_probs, torch.tensor([frames]), width=2, paths=2)[0]:
        assert math.exp(path.log_prob) <= expected[path.codes] * (1 + 1e-4)


@given(frames=st.integers(1, 7), classes=st.integers(2, 4), seed=st.integers(0, 2**20))
def test_greedy_decoding_returns_the_best_alignment(frames, classes, seed):
    log_probs = random_log_probs(frames, 1, classes, seed)
    best = max(
        itertools.product(range(classes), repeat=frames),
        key=lambda path: sum(log_probs[t, 0, c].item() for t, c in enumerate(path)),
    )
    path = ctc.greedy(log_probs, torch.tensor([frames]))[0]
    assert path.codes == collapse(best, classes - 1)
    assert path.log_prob == pytest.approx(sum(log_probs[t, 0, c].item() for t, c in enumerate(best)), abs=1e-4)


def test_decoding_does_not_depend_on_the_batch():
    log_probs = random_log_probs(12, 5, 9, seed=3)
    frames_B = torch.tensor([12, 3, 7, 12, 1])
    together = ctc.beam_search(log_probs, frames_B, width=20, paths=3)
    together_greedy = ctc.greedy(log_probs, frames_B)
    for i, frames in enumerate(frames_B.tolist()):
        alone = log_probs[:frames, i : i + 1]
        single = ctc.beam_search(alone, frames_B[i : i + 1], width=20, paths=3)[0]
        assert [p.codes for p in single] == [p.codes for p in together[i]]
        assert ctc.greedy(alone, frames_B[i : i + 1])[0].codes == together_greedy[i].codes


@given(
    frames=st.integers(1, 12),
    batch=st.integers(1, 9),
    classes=st.sampled_from([2, 5, 81, 700]),
    width=st.integers(2, 33),
    budget=st.integers(1, 2**20),
    seed=st.integers(0, 2**20),
    sharpness=st.sampled_from([0.1, 1.0, 4.0]),
)
def test_a_search_in_parts_returns_the_same_to_the_bit(frames, batch, classes, width, budget, seed, sharpness):
    log_probs = random_log_probs(frames, batch, classes, seed, sharpness)
    frames_B = torch.randint(1, frames + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    whole = ctc.beam_search(log_probs, frames_B, width, paths=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctc, "BEAM_BYTES", budget)
        assert ctc.beam_search(log_probs, frames_B, width, paths=3) == whole


def plain_beam_search(log_probs_TK: torch.Tensor, width: int) -> tuple[dict[tuple[int, ...], float], float]:
    """Extend every prefix by every unit.

    Returns:
        The log-probabilities of the last prefixes, and the least difference between those of a prefix that was kept and
        one that was not.
    """
    beam, difference = {(): (0.0, -math.inf)}, math.inf
    for *units, blank in log_probs_TK.double().tolist():
        parts: dict[tuple[int, ...], list[list[float]]] = {}
        for prefix, (by_blank, by_unit) in beam.items():
            total = log_sum(by_blank, by_unit)
            parts.setdefault(prefix, [[], []])[0].append(total + blank)
            for unit, log_prob in enumerate(units):
                repeats = prefix[-1:] == (unit,)
                if repeats:
                    parts[prefix][1].append(by_unit + log_prob)
                parts.setdefault((*prefix, unit), [[], []])[1].append((by_blank if repeats else total) + log_prob)
        sums = {prefix: tuple(log_sum(*logs) for logs in two) for prefix, two in parts.items()}
        ranked = sorted(
            (prefix for prefix, two in sums.items() if max(two) > -math.inf), key=lambda p: -log_sum(*sums[p])
        )
        if len(ranked) > width:
            difference = min(difference, log_sum(*sums[ranked[width - 1]]) - log_sum(*sums[ranked[width]]))
        beam = {prefix: sums[prefix] for prefix in ranked[:width]}
    return {prefix: log_sum(*two) for prefix, two in beam.items()}, difference


def log_sum(*logs: float) -> float:
    return float(np.logaddexp.reduce([-math.inf, *logs]))


def repetitive_log_probs(frames: int, batch: int, classes: int, seed: int, sharpness: float) -> torch.Tensor:
    """Return log-probabilities with repeats, blanks, and units that were likely before and are not any more."""
    log_probs = random_log_probs(frames, batch, classes, seed, sharpness)
    log_probs[1::3] = log_probs[:-1:3].roll(1, dims=1)
    log_probs[::2, :, -1] += sharpness * 3
    return log_probs.log_softmax(2)


@given(
    frames=st.integers(1, 9),
    classes=st.integers(2, 40),
    width=st.integers(2, 12),
    seed=st.integers(0, 2**20),
    sharpness=st.sampled_from([0.5, 1.0, 3.0]),
    impossible=st.sampled_from([0.0, 0.3, 0.8]),
)
def test_a_narrow_beam_search_equals_one_that_extends_by_every_unit(
    frames, classes, width, seed, sharpness, impossible
):
    log_probs = repetitive_log_probs(frames, 1, classes, seed, sharpness)
    generator = torch.Generator().manual_seed(seed)
    log_probs[torch.rand(log_probs.shape, generator=generator) < impossible] = -math.inf
    expected, difference = plain_beam_search(log_probs[:, 0], width)
    # In float32, the ranks of prefixes that are as likely can differ.
    assume(difference > 1e-4)
    found = ctc.beam_search(log_probs, torch.tensor([frames]), width, paths=width)[0]
    assert {path.codes: path.log_prob for path in found} == pytest.approx(expected, abs=1e-4)


def all_candidates(width: int, units: int) -> ctc.Candidates:
    """Return a candidate for each prefix and each unit."""
    prefix_E = torch.arange(width).repeat_interleave(units)
    index_NM = torch.zeros(width + 1, units + 1, dtype=torch.int64)
    index_NM[:-1, :-1] = width + torch.arange(width * units).view(width, units)
    rank_C = torch.cat([torch.zeros(width, dtype=torch.int64), torch.arange(units).repeat(width)])
    return ctc.Candidates(torch.cat([torch.arange(width), prefix_E]), rank_C, index_NM)


@given(
    frames=st.integers(1, 14),
    classes=st.integers(2, 2000),
    width=st.integers(2, 30),
    seed=st.integers(0, 2**20),
    sharpness=st.sampled_from([0.01, 0.5, 1.0, 3.0]),
)
def test_the_likely_candidates_contain_the_best_ones(frames, classes, width, seed, sharpness):
    """To the bit. Which of several prefixes of the same probability is kept is arbitrary."""
    few, complete = ctc.Candidates.make(width, classes - 1, torch.device("cpu")), all_candidates(width, classes - 1)
    beam = ctc.Beam.start(3, width, torch.device("cpu"))
    log_probs = repetitive_log_probs(frames, 3, classes, seed, sharpness)
    for ranked, all_ranked in zip(
        ctc.Frame.of(log_probs, few.ranks), ctc.Frame.of(log_probs, classes - 1), strict=True
    ):
        found, expected = beam.advance(ranked, few)[0], beam.advance(all_ranked, complete)[0]
        assert found.total_BN.equal(expected.total_BN)
        beam = found


def test_the_extension_by_the_last_unit_that_can_matter_is_found():
    """The most likely unit of the third frame repeats the prefix's last one, so the next two extend it best."""
    log_probs = torch.tensor([[0.98, 0.0, 0.0, 0.02], [0.5, 0.0, 0.0, 0.5], [0.32, 0.31, 0.3, 0.07]]).log()
    found = ctc.beam_search(log_probs[:, None], torch.tensor([3]), width=2, paths=2)[0]
    assert [path.codes for path in found] == [(0, 1), (0, 2)]


def test_a_search_in_bfloat16_equals_one_in_float32_of_the_same_numbers():
    log_probs = random_log_probs(12, 3, 300, seed=0, sharpness=2.0).bfloat16()
    frames_B = torch.tensor([12, 12, 7])
    assert ctc.beam_search(log_probs, frames_B, 20, 3) == ctc.beam_search(log_probs.float(), frames_B, 20, 3)


@pytest.mark.parametrize(("frames", "classes", "width"), [(2, 8000, 100), (2, 1100, 550), (100, 80, 100)])
def test_the_memory_of_a_beam_search_is_bounded(frames, classes, width, monkeypatch):
    """The bytes that torch allocates and does not free, summed up step by step, stay below the budget."""
    budget = 8 * 2**20
    monkeypatch.setattr(ctc, "BEAM_BYTES", budget)
    log_probs = random_log_probs(frames, 64, classes, seed=1)
    frames_B = torch.full((64,), frames)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        ctc.beam_search(log_probs, frames_B, width)
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    assert budget / 4 < most <= budget


@given(
    frames=st.integers(1, 6),
    seed=st.integers(0, 2**20),
    label=st.lists(st.integers(0, 2), min_size=1, max_size=5),
)
def test_the_loss_equals_enumeration_and_is_finite_for_labels_that_fit(frames, seed, label):
    log_probs = random_log_probs(frames, 1, 4, seed)
    loss = ctc.loss(log_probs, torch.tensor([frames]), torch.tensor(label), torch.tensor([len(label)]))
    expected = brute_force(log_probs[:, 0]).get(tuple(label), 0.0)
    assert torch.isfinite(loss) == (min_frames(label) <= frames)
    if expected:
        assert loss.item() == pytest.approx(-math.log(expected), rel=1e-4)


def test_the_loss_is_finite_if_the_network_is_certain_and_wrong():
    logits = torch.full((8, 1, 5), -3e4)
    logits[:, :, 0] = 3e4
    log_probs = logits.log_softmax(-1).requires_grad_()
    loss = ctc.loss(log_probs, torch.tensor([8]), torch.tensor([1, 1, 2, 3]), torch.tensor([4]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(log_probs.grad).all()


@given(frames=st.integers(1, 6), classes=st.integers(2, 4), seed=st.integers(0, 2**20))
def test_the_likelihood_of_a_text_is_the_sum_over_its_alignments(frames, classes, seed):
    log_probs = random_log_probs(frames, 1, classes, seed)
    for text, probability in brute_force(log_probs[:, 0]).items():
        found = ctc.log_likelihoods(log_probs, torch.tensor([frames]), [text])
        assert found.exp().item() == pytest.approx(probability, rel=1e-4)
