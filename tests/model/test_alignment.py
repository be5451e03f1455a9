"""The alignment, compared with enumeration of all paths."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data.csv_files import min_frames
from raycrnn.model.alignment import align
from tests.model.test_ctc import collapse, random_log_probs


def best_alignment(log_probs_TK: torch.Tensor, label: tuple[int, ...]) -> float:
    """Return the log-probability of the best path that collapses to a label."""
    frames, classes = log_probs_TK.shape
    paths = (p for p in itertools.product(range(classes), repeat=frames) if collapse(p, classes - 1) == label)
    return max(sum(log_probs_TK[t, c].item() for t, c in enumerate(path)) for path in paths)


@given(
    frames=st.integers(1, 6),
    labels=st.lists(st.lists(st.integers(0, 1), max_size=4).map(tuple), min_size=1, max_size=3),
    seed=st.integers(0, 2**20),
)
def test_an_alignment_is_the_best_path_of_a_label(frames, labels, seed):
    labels = [label for label in labels if min_frames(label) <= frames] or [()]
    own_frames = [max(min_frames(label), 1, frames - i) for i, label in enumerate(labels)]
    log_probs = random_log_probs(max(own_frames), len(labels), 3, seed, sharpness=3.0)
    found = align(log_probs, torch.tensor(own_frames), labels)
    for i, (label, spans) in enumerate(zip(labels, found, strict=True)):
        path = [2] * own_frames[i]
        for code, (first, end) in zip(label, spans, strict=True):
            path[first:end] = [code] * (end - first)
        assert collapse(tuple(path), 2) == label
        score = sum(log_probs[t, i, c].item() for t, c in enumerate(path))
        assert score == pytest.approx(best_alignment(log_probs[: own_frames[i], i], label), abs=1e-4)


@given(
    runs=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(1, 2)), min_size=60, max_size=200),
    shorter=st.integers(1, 60),
)
def test_long_texts_are_aligned_exactly(runs, shorter):
    """Each unit has some frames, followed by blanks; the other image of the batch is the beginning of the first."""
    path, spans = [], []
    for code, frames, blanks in runs:
        spans.append((len(path), len(path) + frames))
        path += [code] * frames + [5] * blanks
    log_probs = torch.log_softmax(20.0 * torch.nn.functional.one_hot(torch.tensor(path), 6), dim=1)
    label = [code for code, *_ in runs]
    frames = torch.tensor([len(path), spans[shorter - 1][1]])
    found = align(log_probs[:, None].expand(-1, 2, -1), frames, [label, label[:shorter]])
    assert found == [spans, spans[:shorter]]
