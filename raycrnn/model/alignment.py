"""Find the frames of a label's units: CTC's most likely alignment.

Tensor names end in their shape: T frames, B batch, K classes, S states of an alignment: the units of a label with a
blank before, between and after them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def align(log_probs_TBK: Tensor, frames_B: Tensor, labels: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Find the most likely alignment of each label with the Viterbi algorithm.

    Args:
        log_probs_TBK: Log-probabilities.
        frames_B: Frames of each image.
        labels: The codes of each image's label, which must not need more frames than the image has.

    Returns:
        For each image, the frames [first, end) of each unit.
    """
    states_BS = _alignment_states(labels, blank=log_probs_TBK.shape[2] - 1)
    index_BS = torch.from_numpy(states_BS).to(log_probs_TBK.device)
    emissions_TBS = log_probs_TBK.gather(2, index_BS.expand(len(log_probs_TBK), -1, -1)).float().cpu().numpy()
    scores_TBS, steps_TBS = _viterbi(emissions_TBS, states_BS)
    alignments = []
    for i, (label, frames) in enumerate(zip(labels, frames_B.tolist(), strict=True)):
        # An alignment ends in the last unit or in the blank after it.
        ends = [2 * len(label), 2 * len(label) - 1] if label else [0]
        state = max(ends, key=lambda end: scores_TBS[frames - 1, i, end])
        path = []
        for t in range(frames - 1, -1, -1):
            path.append(state)
            # As an int, because the result does not fit into the int8 of the steps.
            state -= int(steps_TBS[t, i, state])
        path.reverse()
        alignments.append([_range_of(path, 2 * index + 1) for index in range(len(label))])
    return alignments


def _alignment_states(labels: Sequence[Sequence[int]], blank: int) -> np.ndarray:
    """Return the class of each state, int64 [B, S]."""
    states_BS = np.full((len(labels), 2 * max(map(len, labels)) + 1), blank)
    for row, label in zip(states_BS, labels, strict=True):
        row[1 : 2 * len(label) : 2] = label
    return states_BS


def _viterbi(emissions_TBS: np.ndarray, states_BS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best score of each state at each frame, and the step to it from the state before: 0, 1 or 2."""
    batch, states = states_BS.shape
    may_skip_BS = np.zeros((batch, states), bool)
    # The blank between two different units can be skipped.
    may_skip_BS[:, 3::2] = states_BS[:, 3::2] != states_BS[:, 1:-2:2]
    scores_TBS = np.full_like(emissions_TBS, -np.inf)
    steps_TBS = np.zeros(emissions_TBS.shape, np.int8)
    scores_TBS[0, :, :2] = emissions_TBS[0, :, :2]
    for t in range(1, len(emissions_TBS)):
        candidates_BS3 = np.full((batch, states, 3), -np.inf, np.float32)
        before_BS = scores_TBS[t - 1]
        candidates_BS3[:, :, 0] = before_BS
        candidates_BS3[:, 1:, 1] = before_BS[:, :-1]
        candidates_BS3[:, 2:, 2] = np.where(may_skip_BS[:, 2:], before_BS[:, :-2], -np.inf)
        steps_TBS[t] = candidates_BS3.argmax(2)
        scores_TBS[t] = candidates_BS3.max(2) + emissions_TBS[t]
    return scores_TBS, steps_TBS


def _range_of(path: Sequence[int], state: int) -> tuple[int, int]:
    """Return the frames [first, end) of a state in a monotonic path."""
    first = path.index(state)
    return first, first + path.count(state)
