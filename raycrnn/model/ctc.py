"""Connectionist temporal classification (CTC, Graves et al. 2006): loss, decoding and alignment.

Tensor names end in their shape: T frames, B batch, K classes, V units (K − 1, because the last class is the blank), N
prefixes in a beam, S states of an alignment: the units of a label with a blank before, between and after them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Path:
    """A decoded sequence of units."""

    codes: tuple[int, ...]
    log_prob: float
    """Log-probability: with beam search, of all alignments that the search kept; with greedy decoding, of the best
    alignment alone."""


def loss(log_probs_TBK: Tensor, frames_B: Tensor, codes_S: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the negative log-likelihood of the labels, summed over the batch, in float32.

    It is infinite if an image has fewer frames than its label needs (`csv_files.min_frames`), otherwise finite.

    Args:
        log_probs_TBK: Log-probabilities.
        frames_B: Frames of each image.
        codes_S: Codes of all labels, concatenated.
        lengths_B: Number of units in each label.
    """
    blank = log_probs_TBK.shape[2] - 1
    return F.ctc_loss(log_probs_TBK.float(), codes_S, frames_B, lengths_B, blank=blank, reduction="sum")


def log_likelihoods(log_probs_TBK: Tensor, frames_B: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """Return the log-probability [B] of each image's label over all of its alignments; −inf if there are none."""
    blank = log_probs_TBK.shape[2] - 1
    codes_S = torch.tensor([code for label in labels for code in label], dtype=torch.long, device=frames_B.device)
    lengths_B = torch.tensor([len(label) for label in labels], device=frames_B.device)
    return -F.ctc_loss(log_probs_TBK.float(), codes_S, frames_B, lengths_B, blank=blank, reduction="none")


def greedy(log_probs_TBK: Tensor, frames_B: Tensor) -> list[Path]:
    """Decode by the best class of each frame: repeats are merged, then blanks are removed (Graves et al. 2006)."""
    blank = log_probs_TBK.shape[2] - 1
    best = log_probs_TBK.max(dim=2)
    own_TB = torch.arange(len(log_probs_TBK), device=frames_B.device)[:, None] < frames_B
    log_prob_B = (best.values * own_TB).sum(0)
    # Frames of the padding count as blanks.
    classes = best.indices.where(own_TB, blank).T.tolist()
    return [
        Path(tuple(code for code, _ in itertools.groupby(frame_classes) if code != blank), log_prob)
        for frame_classes, log_prob in zip(classes, log_prob_B.tolist(), strict=True)
    ]


BEAM_BYTES = 256 * 2**20
"""Memory of a beam search, in bytes, above which the images of a batch are searched in several parts."""

PRUNING_FACTOR = 2
"""How many times width + 1 there must be units for it to be faster to search only the most likely ones of a frame."""

WHOLE_VECTORS = 64
"""A multiple of the float32 numbers that one step of torch's kernels for CPUs computes."""

ONE_THREAD = 32768
"""The largest number of elements that torch's elementwise kernels for CPUs do not divide between threads."""


@torch.no_grad()
def beam_search(log_probs_TBK: Tensor, frames_B: Tensor, width: int = 100, paths: int = 1) -> list[list[Path]]:
    """Decode by prefix beam search (Graves 2012; Hannun et al. 2014) without a language model.

    The search is vectorised over the batch and the beam; the only loops are over frames and over parts of the batch
    that need at most `BEAM_BYTES` each, or have one image. A result does not depend on the other images, to the bit.

    Args:
        log_probs_TBK: Log-probabilities.
        frames_B: Frames of each image.
        width: Number of prefixes that are kept after each frame.
        paths: Number of paths to return.

    Returns:
        For each image, at most `paths` different paths, best first; fewer if fewer are possible.
    """
    frames, batch, classes = log_probs_TBK.shape
    size = max(1, min(BEAM_BYTES // _bytes_of_an_image(frames, classes, width), ONE_THREAD // width))
    found = []
    for first in range(0, batch, size):
        part = slice(first, first + size)
        found += _search_together(log_probs_TBK[:, part], frames_B[part], width, min(paths, width))
    return found


def _bytes_of_an_image(frames: int, classes: int, width: int) -> int:
    """Return the memory that the search needs for each image, in bytes."""
    # The extensions of a frame twice in float32, and once more as pairs of a number and an index within topk; the same
    # pairs and a place for each unit; three tables of which prefix is another's parent; and two int64 numbers a frame,
    # which _read_back stacks again.
    units = min(classes, PRUNING_FACTOR * (width + 1))
    return 24 * width * units + 24 * classes + 3 * width**2 + 24 * frames * width


def _search_together(log_probs_TBK: Tensor, frames_B: Tensor, width: int, paths: int) -> list[list[Path]]:
    beam = Beam.start(len(frames_B), width, log_probs_TBK.device)
    trail = []
    for t in range(int(frames_B.max())):
        moved, source_BN, unit_BN = beam.advance(log_probs_TBK[t].float())
        running_B1 = (frames_B > t)[:, None]
        beam = beam.where(running_B1, moved)
        kept_BN = torch.arange(width, device=source_BN.device).expand_as(source_BN)
        trail.append((source_BN.where(running_B1, kept_BN), unit_BN.where(running_B1, -1)))
    return _read_back(beam, trail, paths)


@dataclass(frozen=True)
class Beam:
    """The N most likely prefixes of each image; unused places, with log-probability −inf, come last."""

    blank_BN: Tensor
    """Log-probability of the prefix over alignments that end in a blank."""
    unit_BN: Tensor
    """Log-probability of the prefix over alignments that end in its last unit."""
    last_BN: Tensor
    """The last unit of the prefix; arbitrary for the empty prefix, for which `unit_BN` is −inf."""
    hash_BN: Tensor
    """A 64-bit hash of all units of the prefix, which identifies it."""
    parent_hash_BN: Tensor
    """The hash of the prefix without its last unit."""

    @classmethod
    def start(cls, batch: int, width: int, device: torch.device) -> "Beam":
        """Return the beam before the first frame, which contains only the empty prefix."""
        minus_inf_BN = torch.full((batch, width), -torch.inf, device=device)
        zero_BN = torch.zeros((batch, width), dtype=torch.int64, device=device)
        blank_BN = minus_inf_BN.clone()
        blank_BN[:, 0] = 0
        return cls(blank_BN, minus_inf_BN, zero_BN, zero_BN + 1, zero_BN)

    @property
    def total_BN(self) -> Tensor:
        """Log-probability of the prefix over all alignments."""
        return _logaddexp(self.blank_BN, self.unit_BN)

    def where(self, chosen_B1: Tensor, other: "Beam") -> "Beam":
        """Return `other` for the chosen images and this beam for the rest."""
        pairs = zip(_tensors(self), _tensors(other), strict=True)
        return Beam(*(torch.where(chosen_B1, theirs, ours) for ours, theirs in pairs))

    def advance(self, log_probs_BK: Tensor) -> tuple["Beam", Tensor, Tensor]:
        """Advance by one frame.

        Returns:
            The new beam; the place in the old beam that each new prefix comes from; the unit that was appended to it,
            −1 for none.
        """
        batch, width = self.last_BN.shape
        unit_BM, kept_BM, place_BN = self._likely_units(log_probs_BK)
        units = unit_BM.shape[1]
        total_BN = self.total_BN
        stay_blank_BN = total_BN + log_probs_BK[:, -1:]
        last_log_prob_BN = log_probs_BK.gather(1, self.last_BN)
        stay_unit_BN = self.unit_BN + last_log_prob_BN
        extend_BNM = total_BN[:, :, None] + kept_BM[:, None]
        # A repeated unit is a new one only after a blank.
        repeated_BN1 = (self.blank_BN + kept_BM.gather(1, place_BN))[:, :, None]
        extend_BNM.scatter_(2, place_BN[:, :, None], repeated_BN1)
        extend_BE = extend_BNM.view(batch, width * units)
        stay_unit_BN = self._merge(stay_unit_BN, extend_BE, total_BN, last_log_prob_BN, place_BN)

        candidates_BC = torch.cat([_logaddexp(stay_blank_BN, stay_unit_BN), extend_BE], dim=1)
        log_prob_BN, index_BN = candidates_BC.topk(width, dim=1)
        stays_BN = index_BN < width
        source_BN = torch.where(stays_BN, index_BN, (index_BN - width).div(units, rounding_mode="floor"))
        unit_BN = unit_BM.gather(1, (index_BN - width).clamp(min=0) % units).where(~stays_BN, -1)
        old_hash_BN = self.hash_BN.gather(1, source_BN)
        beam = Beam(
            blank_BN=stay_blank_BN.gather(1, source_BN).where(stays_BN, -torch.inf),
            unit_BN=stay_unit_BN.gather(1, source_BN).where(stays_BN, log_prob_BN),
            last_BN=self.last_BN.gather(1, source_BN).where(stays_BN, unit_BN),
            hash_BN=old_hash_BN.where(stays_BN, _hash(old_hash_BN, unit_BN)),
            parent_hash_BN=self.parent_hash_BN.gather(1, source_BN).where(stays_BN, old_hash_BN),
        )
        return beam, source_BN, unit_BN

    def _likely_units(self, log_probs_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the units M that can extend a prefix in this frame, and where the last unit of each prefix is in them.

        Of many units, the width + 1 most likely ones suffice: for every other unit, each prefix has width extensions by
        units that are as likely and differ from its last one, and so are as likely as its extension by that unit. Each
        of them is a candidate, or part of a prefix that is, so width candidates precede the extension that is left out.

        Returns:
            The units, their log-probabilities, and the places. If not all units are kept, there is one more place, of
            log-probability −inf, for last units that are not among them.
        """
        batch, width = self.last_BN.shape
        units = log_probs_BK.shape[1] - 1
        if units < PRUNING_FACTOR * (width + 1):
            all_BM = torch.arange(units, device=log_probs_BK.device).expand(batch, units)
            return all_BM, log_probs_BK[:, :units], self.last_BN
        kept_BM, unit_BM = log_probs_BK[:, :units].topk(width + 1, dim=1)
        order_BM = torch.arange(width + 1, device=unit_BM.device).expand_as(unit_BM)
        place_BV = torch.full((batch, units), width + 1, device=unit_BM.device).scatter_(1, unit_BM, order_BM)
        return F.pad(unit_BM, (0, 1)), F.pad(kept_BM, (0, 1), value=-torch.inf), place_BV.gather(1, self.last_BN)

    def _merge(
        self, stay_unit_BN: Tensor, extend_BE: Tensor, total_BN: Tensor, last_log_prob_BN: Tensor, place_BN: Tensor
    ) -> Tensor:
        """Merge extensions that result in a prefix of the beam into that prefix, also by units that are not kept.

        A prefix q can only result from extending its parent p, so at most one extension is merged into each q.

        Args:
            stay_unit_BN: Log-probability of each prefix over alignments that repeat its last unit.
            extend_BE: Log-probability of each extension; changed in place to −inf for those that are merged.
            total_BN: Log-probability of each prefix before this frame.
            last_log_prob_BN: Log-probability of each prefix's last unit in this frame.
            place_BN: Place of each prefix's last unit in the units that are kept.

        Returns:
            The new stay_unit_BN.
        """
        alive_BN = total_BN > -torch.inf
        is_parent_BPQ = self.hash_BN[:, :, None] == self.parent_hash_BN[:, None, :]
        is_parent_BPQ &= alive_BN[:, :, None] & alive_BN[:, None, :]
        found_BQ, parent_BQ = is_parent_BPQ.max(dim=1)
        repeats_BQ = self.last_BN.gather(1, parent_BQ) == self.last_BN
        before_BQ = self.blank_BN.gather(1, parent_BQ).where(repeats_BQ, total_BN.gather(1, parent_BQ))
        extension_BQ = (before_BQ + last_log_prob_BN).where(found_BQ, -torch.inf)
        index_BQ = parent_BQ * (extend_BE.shape[1] // total_BN.shape[1]) + place_BN
        extend_BE.scatter_reduce_(1, index_BQ, torch.where(found_BQ, -torch.inf, torch.inf), "amin")
        return _logaddexp(stay_unit_BN, extension_BQ)


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


def _tensors(beam: Beam) -> tuple[Tensor, ...]:
    return beam.blank_BN, beam.unit_BN, beam.last_BN, beam.hash_BN, beam.parent_hash_BN


def _logaddexp(one_BN: Tensor, other_BN: Tensor) -> Tensor:
    """Return log(exp(one) + exp(other)), in which the place in the batch does not change the last bit.

    torch's kernel for CPUs rounds the numbers that are left after the last whole vector differently.
    """
    numbers = one_BN.numel()
    rest = one_BN.new_zeros(-numbers % WHOLE_VECTORS)
    one, other = (torch.cat([each.reshape(-1), rest]) for each in (one_BN, other_BN))
    return torch.logaddexp(one, other)[:numbers].view_as(one_BN)


def _hash(prefix_hash: Tensor, unit: Tensor) -> Tensor:
    """Return the hash of a prefix with a unit appended, modulo 2⁶⁴; the shift mixes high bits into low ones."""
    mixed = prefix_hash * 6364136223846793005 + (unit + 1) * 1442695040888963407
    return mixed ^ (mixed >> 29)


def _read_back(beam: Beam, trail: list[tuple[Tensor, Tensor]], paths: int) -> list[list[Path]]:
    """Follow the best prefixes back through the frames to collect their units."""
    log_prob_BN, place_BN = beam.total_BN.topk(paths, dim=1)
    units = []
    for source_BN, unit_BN in reversed(trail):
        units.append(unit_BN.gather(1, place_BN))
        place_BN = source_BN.gather(1, place_BN)
    units_BNT = torch.stack(units[::-1], dim=2).tolist()
    return [
        [
            Path(tuple(unit for unit in sequence if unit >= 0), log_prob)
            for sequence, log_prob in zip(sequences, log_probs, strict=True)
            if log_prob > -torch.inf
        ]
        for sequences, log_probs in zip(units_BNT, log_prob_BN.tolist(), strict=True)
    ]
