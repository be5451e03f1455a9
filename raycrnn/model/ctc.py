"""Connectionist temporal classification (CTC, Graves et al. 2006): loss and decoding.

Tensor names end in their shape: T frames, B batch, K classes, V units (K − 1, because the last class is the blank), N
prefixes in a beam.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    added: float = 0.0
    """What a language model adds to the log-probability. Paths are in decreasing order of the sum."""
    posterior: float | None = None
    """With a language model, the probability of the text among those in the last beam: their scores, as logarithms of
    probabilities that are not normalised."""
    is_in_lexicon: bool = False
    """Whether a lexicon allows the text, to which decoding was restricted."""

    @property
    def score(self) -> float:
        """The number by which paths are ordered."""
        return self.log_prob + self.added


def loss(log_probs_TBK: Tensor, frames_B: Tensor, codes_S: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the negative log-likelihood of the labels, summed over the batch, in float32.

    It is infinite if an image has fewer frames than its label needs (`csv_files.min_frames`), otherwise finite.

    Args:
        log_probs_TBK: Log-probabilities.
        frames_B: Frames of each image, on the CPU: PyTorch reads them there, and would wait for a GPU.
        codes_S: Codes of all labels, concatenated, on the device of the log-probabilities.
        lengths_B: Number of units in each label, on the CPU.
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
    candidates = Candidates.make(width, classes - 1, log_probs_TBK.device)
    size = max(1, min(BEAM_BYTES // _bytes_of_an_image(frames, classes, candidates), ONE_THREAD // width))
    found = []
    for first in range(0, batch, size):
        part = slice(first, first + size)
        found += _search_together(log_probs_TBK[:, part], frames_B[part], candidates, min(paths, width))
    return found


@dataclass(frozen=True)
class Candidates:
    """The C candidates for the next beam that suffice for an exact search.

    The first N are the prefixes of the beam, which stay as they are. The others extend a prefix by a unit. Number the
    prefixes i = 1, 2, … by decreasing log-probability, and the units of the frame j = 1, 2, … likewise. The extension
    (i, j) cannot be among the N best candidates if i (j − 1) > N: each of the first i prefixes has at least j − 1
    extensions by the first j units that do not repeat its last unit, and each of these is at least as likely as (i, j),
    because its log-probability is the sum of that of the prefix and that of the unit. Without (i, j) itself, these are
    at least N different texts. Each of them is a candidate, or a part of a prefix that stays, which is at least as
    likely. Therefore about N ln N extensions suffice, instead of N × V.
    """

    prefix_C: Tensor
    """The number of the prefix, from 0."""
    rank_C: Tensor
    """The number of the unit by which it is extended, from 0; arbitrary for the first N."""
    index_NM: Tensor
    """The candidate that extends prefix N by the unit of rank M; one of the first N if there is none.

    There is one more row, for no prefix, and one more column, for units that are too unlikely to be ranked."""

    @classmethod
    def make(cls, width: int, units: int, device: torch.device) -> "Candidates":
        """Return the candidates for a beam width and a number of units."""
        prefixes_N1 = torch.arange(width)[:, None]
        ranks_1M = torch.arange(min(units, width + 1))[None]
        kept_NM = (prefixes_N1 + 1) * ranks_1M <= width
        prefix_E, rank_E = kept_NM.nonzero(as_tuple=True)
        index_NM = torch.zeros(width + 1, ranks_1M.shape[1] + 1, dtype=torch.int64)
        index_NM[prefix_E, rank_E] = width + torch.arange(len(prefix_E))
        prefix_C = torch.cat([prefixes_N1[:, 0], prefix_E])
        rank_C = torch.cat([torch.zeros(width, dtype=torch.int64), rank_E])
        return cls(prefix_C.to(device), rank_C.to(device), index_NM.to(device))

    @property
    def width(self) -> int:
        """Number of prefixes in the beam."""
        return len(self.index_NM) - 1

    @property
    def ranks(self) -> int:
        """Number of the most likely units of a frame that are ranked."""
        return self.index_NM.shape[1] - 1

    def index(self, prefix_BN: Tensor, rank_BN: Tensor) -> Tensor:
        """Return the candidates that extend prefixes by units of some ranks."""
        return self.index_NM.take(prefix_BN * (self.ranks + 1) + rank_BN)


@dataclass(frozen=True)
class Frame:
    """The log-probabilities of a frame."""

    log_probs_BK: Tensor
    ranked_BM: Tensor
    """Log-probabilities of the most likely units, in decreasing order, in float32."""
    unit_BM: Tensor
    """The most likely units."""
    rank_BK: Tensor
    """The number of each unit among these, from 0; M for units that are not among them, and for the blank."""

    @classmethod
    def of(cls, log_probs_TBK: Tensor, ranks: int) -> "Iterator[Frame]":
        """Yield the frames of some images, in which a number of units is ranked."""
        ranked_TBM, unit_TBM = log_probs_TBK[:, :, :-1].topk(ranks, dim=2)
        order_TBM = torch.arange(ranks, dtype=torch.int32, device=unit_TBM.device).expand_as(unit_TBM)
        rank_TBK = torch.full_like(log_probs_TBK, ranks, dtype=torch.int32).scatter_(2, unit_TBM, order_TBM)
        return map(cls, log_probs_TBK, ranked_TBM.float(), unit_TBM, rank_TBK)


def _bytes_of_an_image(frames: int, classes: int, candidates: Candidates) -> int:
    """Return the memory that the search needs for each image, in bytes."""
    # For each frame: the rank of each class in int32, the ranked units twice in float32 and once in int64, and for each
    # prefix two int64 numbers, which read_back stacks again. Once: the candidates three times in float32, and as pairs
    # of a number and an index within topk; about thirty numbers for each prefix while the beam advances.
    width = candidates.width
    return frames * (4 * classes + 16 * candidates.ranks + 24 * width) + 28 * len(candidates.rank_C) + 240 * width


def _search_together(log_probs_TBK: Tensor, frames_B: Tensor, candidates: Candidates, paths: int) -> list[list[Path]]:
    own_frames = frames_B.tolist()
    beam = Beam.start(len(frames_B), candidates.width, log_probs_TBK.device)
    kept_BN = candidates.prefix_C[: candidates.width].expand_as(beam.last_BN)
    trail = []
    for t, frame in enumerate(Frame.of(log_probs_TBK[: max(own_frames)], candidates.ranks)):
        moved, source_BN, unit_BN = beam.advance(frame, candidates)
        if t >= min(own_frames):
            running_B1 = (frames_B > t)[:, None]
            moved = beam.where(running_B1, moved)
            source_BN, unit_BN = source_BN.where(running_B1, kept_BN), unit_BN.where(running_B1, -1)
        beam = moved
        trail.append((source_BN, unit_BN))
    return read_back(beam.total_BN, beam.total_BN, trail, paths)


@dataclass(frozen=True)
class Beam:
    """The N most likely prefixes of each image, most likely first; unused places have log-probability −inf."""

    total_BN: Tensor
    """Log-probability of the prefix over all alignments."""
    blank_BN: Tensor
    """Log-probability of the prefix over alignments that end in a blank."""
    unit_BN: Tensor
    """Log-probability of the prefix over alignments that end in its last unit."""
    last_BN: Tensor
    """The last unit of the prefix; arbitrary for the empty prefix, for which `unit_BN` is −inf."""
    hash_BN: Tensor
    """A 64-bit hash of all units of the prefix, which identifies it; `NO_PREFIX` for unused places."""
    parent_hash_BN: Tensor
    """The hash of the prefix without its last unit; `NO_PREFIX` for the empty prefix and for unused places."""

    @classmethod
    def start(cls, batch: int, width: int, device: torch.device) -> "Beam":
        """Return the beam before the first frame, which contains only the empty prefix."""
        minus_inf_BN = torch.full((batch, width), -torch.inf, device=device)
        zero_BN = torch.zeros((batch, width), dtype=torch.int64, device=device)
        blank_BN = minus_inf_BN.clone()
        blank_BN[:, 0] = 0
        hash_BN = torch.full_like(zero_BN, NO_PREFIX)
        hash_BN[:, 0] = 1
        return cls(blank_BN, blank_BN, minus_inf_BN, zero_BN, hash_BN, torch.full_like(zero_BN, NO_PREFIX))

    def where(self, chosen_B1: Tensor, other: "Beam") -> "Beam":
        """Return `other` for the chosen images and this beam for the rest."""
        pairs = zip(_tensors(self), _tensors(other), strict=True)
        return Beam(*(torch.where(chosen_B1, theirs, ours) for ours, theirs in pairs))

    def advance(self, frame: Frame, candidates: Candidates) -> tuple["Beam", Tensor, Tensor]:
        """Advance by one frame.

        Returns:
            The new beam; the place in the old beam that each new prefix comes from; the unit that was appended to it,
            −1 for none.
        """
        width = candidates.width
        last_log_prob_BN = frame.log_probs_BK.gather(1, self.last_BN).float()
        rank_BN = frame.rank_BK.gather(1, self.last_BN)
        # Those of the first N, which stay, are set below.
        candidate_BC = self.total_BN.index_select(1, candidates.prefix_C)
        candidate_BC += frame.ranked_BM.index_select(1, candidates.rank_C)
        # A repeated unit is a new one only after a blank.
        repeated_BN = candidates.index(candidates.prefix_C[:width], rank_BN)
        candidate_BC.scatter_(1, repeated_BN, self.blank_BN + last_log_prob_BN)
        # Extensions that result in a prefix of the beam are merged into it, also by units that are not ranked. At most
        # one is merged into each prefix, because only its parent can be extended to it.
        found_BN = self.parents()
        candidate_BC.scatter_(1, candidates.index(found_BN, rank_BN), -torch.inf)
        stay_blank_BN, stay_unit_BN = self.stay(frame, last_log_prob_BN, found_BN)
        candidate_BC[:, :width] = logaddexp(stay_blank_BN, stay_unit_BN)

        total_BN, index_BN = candidate_BC.topk(width, dim=1)
        stays_BN, source_BN = index_BN < width, candidates.prefix_C.take(index_BN)
        unit_BN = frame.unit_BM.gather(1, candidates.rank_C.take(index_BN)).where(~stays_BN, -1)
        return self.moved(total_BN, stay_blank_BN, stay_unit_BN, source_BN, unit_BN), source_BN, unit_BN

    def stay(self, frame: Frame, last_log_prob_BN: Tensor, parent_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of the prefixes after a frame, if they end in a blank, and in their last unit.

        Args:
            frame: The frame.
            last_log_prob_BN: Its log-probabilities of the last units.
            parent_BN: The result of `parents`.
        """
        width = parent_BN.shape[1]
        has_parent_BN, parent_BN = parent_BN < width, parent_BN.clamp(max=width - 1)
        repeats_BN = self.last_BN.gather(1, parent_BN) == self.last_BN
        before_BN = self.blank_BN.gather(1, parent_BN).where(repeats_BN, self.total_BN.gather(1, parent_BN))
        extension_BN = (before_BN + last_log_prob_BN).where(has_parent_BN, -torch.inf)
        stay_blank_BN = self.total_BN + frame.log_probs_BK[:, -1:].float()
        return stay_blank_BN, logaddexp(self.unit_BN + last_log_prob_BN, extension_BN)

    def moved(
        self, total_BN: Tensor, stay_blank_BN: Tensor, stay_unit_BN: Tensor, source_BN: Tensor, unit_BN: Tensor
    ) -> "Beam":
        """Return the beam of the prefixes that were chosen after a frame.

        Args:
            total_BN: Their log-probabilities.
            stay_blank_BN, stay_unit_BN: The results of `stay`.
            source_BN: The places in this beam that they come from.
            unit_BN: The units that were appended to them; −1 for none.
        """
        used_BN, stays_BN = total_BN > -torch.inf, unit_BN < 0
        old_hash_BN = self.hash_BN.gather(1, source_BN)
        parent_hash_BN = self.parent_hash_BN.gather(1, source_BN).where(stays_BN, old_hash_BN)
        return Beam(
            total_BN=total_BN,
            blank_BN=stay_blank_BN.gather(1, source_BN).where(stays_BN, -torch.inf),
            unit_BN=stay_unit_BN.gather(1, source_BN).where(stays_BN, total_BN),
            last_BN=self.last_BN.gather(1, source_BN).where(stays_BN, unit_BN),
            hash_BN=old_hash_BN.where(stays_BN, _hash(old_hash_BN, unit_BN)).where(used_BN, NO_PREFIX),
            parent_hash_BN=parent_hash_BN.where(used_BN, NO_PREFIX),
        )

    def parents(self) -> Tensor:
        """Return the place of each prefix's parent in the beam, N if it is not there."""
        width = self.hash_BN.shape[1]
        # Equal hashes are next to each other after sorting, and those of the beam precede those of parents. This takes
        # less time than comparing all pairs. torch.searchsorted would divide it between threads for 200 numbers, which
        # is slow if other programs use the cores.
        hash_BS, place_BS = torch.cat([self.hash_BN, self.parent_hash_BN], dim=1).sort(dim=1, stable=True)
        order_S = torch.arange(2 * width, device=place_BS.device)
        nearest_BS = order_S.where(place_BS < width, 0).cummax(dim=1).values
        parent_BS = place_BS.gather(1, nearest_BS).where(hash_BS.gather(1, nearest_BS) == hash_BS, width)
        # The first one may be a parent too, if no hash of the beam precedes it.
        return torch.empty_like(place_BS).scatter_(1, place_BS, parent_BS.clamp(max=width))[:, width:]


NO_PREFIX = 0
"""Stands for the hash of the prefix of an unused place. As a parent it adds nothing, because its probability is 0."""


def _tensors(beam: Beam) -> tuple[Tensor, ...]:
    return beam.total_BN, beam.blank_BN, beam.unit_BN, beam.last_BN, beam.hash_BN, beam.parent_hash_BN


def logaddexp(one_BN: Tensor, other_BN: Tensor) -> Tensor:
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


def read_back(
    total_BN: Tensor, score_BN: Tensor, trail: Sequence[tuple[Tensor, Tensor]], paths: int
) -> list[list[Path]]:
    """Follow the prefixes with the highest scores back through the frames to collect their units.

    Args:
        total_BN: The log-probabilities of the prefixes after the last frame.
        score_BN: Their scores.
        trail: The place that each prefix comes from, and the unit that was appended to it or −1, for each frame.
        paths: Number of paths.
    """
    chosen_BN, place_BN = score_BN.topk(paths, dim=1)
    log_prob_BN = total_BN.gather(1, place_BN)
    units = []
    for source_BN, unit_BN in reversed(trail):
        units.append(unit_BN.gather(1, place_BN))
        place_BN = source_BN.gather(1, place_BN)
    units_BNT = torch.stack(units[::-1], dim=2).tolist()
    added_BN = chosen_BN - log_prob_BN
    return [
        [
            Path(tuple(unit for unit in sequence if unit >= 0), log_prob, added)
            for sequence, log_prob, added in zip(*image, strict=True)
            if log_prob + added > -torch.inf
        ]
        for image in zip(units_BNT, log_prob_BN.tolist(), added_BN.tolist(), strict=True)
    ]
