"""Prefix beam search with a language model (Graves 2012; Hannun et al. 2014), which scores each unit as it is appended.

Tensor names end in their shape: T frames, B batch, K classes, N prefixes in a beam, M units of a frame that are ranked,
C candidates for the next beam: the N prefixes as they are, and each of them extended by each ranked unit.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raycrnn.model.ctc import Beam, Frame, Path, logaddexp, read_back

RANKED = 32
"""Number of the most likely units of a frame by which prefixes are extended, at most."""

LEAST_LOG_PROB = -15.0
"""Log-probability of a unit in a frame, below which prefixes are not extended by it. In most frames of a trained
network, only a few units are more likely. On the receipts of docs/language_models.md, a search without the two limits
has the same error rates."""


class Transitions(Protocol):
    """What the search uses of a language model or lexicon."""

    @property
    def columns(self) -> np.ndarray: ...

    @property
    def end_column(self) -> int: ...

    @property
    def start(self) -> int: ...

    @property
    def max_states(self) -> int: ...

    def rows(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Fusion:
    """A language model, and what its scores count."""

    automaton: Transitions
    weight: float
    """Factor of the language model's log-probabilities."""
    bonus: float
    """Number that is added for each unit."""


@torch.no_grad()
def beam_search(
    log_probs_TBK: Tensor, frames_B: Tensor, fusion: Fusion, width: int = 100, paths: int = 1
) -> list[list[Path]]:
    """Decode by prefix beam search with a language model.

    A text's score is its log-probability, plus the weighted log-probability that the language model gives it with its
    end, plus the bonus of its units. The search runs on the CPU, where the language model is. A result does not depend
    on the other images, to the bit.

    Args:
        log_probs_TBK: Log-probabilities.
        frames_B: Frames of each image.
        fusion: The language model.
        width: Number of prefixes that are kept after each frame.
        paths: Number of paths to return.

    Returns:
        For each image, at most `paths` different paths, those with the highest score first.
    """
    log_probs_TBK, frames_B = log_probs_TBK.cpu().float(), frames_B.cpu()
    size = max(1, fusion.automaton.max_states // width)
    found = []
    for first in range(0, log_probs_TBK.shape[1], size):
        part = slice(first, first + size)
        found += _search_together(log_probs_TBK[:, part], frames_B[part], fusion, width, min(paths, width))
    return found


def _search_together(
    log_probs_TBK: Tensor, frames_B: Tensor, fusion: Fusion, width: int, paths: int
) -> list[list[Path]]:
    own_frames = frames_B.tolist()
    beam = FusedBeam.start(len(frames_B), width, fusion)
    kept_BN = torch.arange(width).expand(len(frames_B), width)
    column_K = torch.from_numpy(fusion.automaton.columns)
    trail = []
    for t, frame in enumerate(_frames(log_probs_TBK[: max(own_frames)])):
        moved, source_BN, unit_BN = beam.advance(frame, column_K)
        if t >= min(own_frames):
            running_B1 = (frames_B > t)[:, None]
            moved = beam.where(running_B1, moved)
            source_BN, unit_BN = source_BN.where(running_B1, kept_BN), unit_BN.where(running_B1, -1)
        beam = moved
        trail.append((source_BN, unit_BN))
    return beam.paths(trail, paths)


def _frames(log_probs_TBK: Tensor) -> Iterator[Frame]:
    """Yield the frames of some images with the units that extend prefixes, which each image has in other numbers."""
    ranks = min(RANKED, log_probs_TBK.shape[2] - 1)
    ranked_TBM, unit_TBM = log_probs_TBK[:, :, :-1].topk(ranks, dim=2)
    is_likely_TBM = ranked_TBM >= LEAST_LOG_PROB
    ranked_TBM = ranked_TBM.where(is_likely_TBM, -torch.inf)
    order_TBM = torch.arange(ranks, dtype=torch.int32).where(is_likely_TBM, ranks)
    rank_TBK = torch.full_like(log_probs_TBK, ranks, dtype=torch.int32).scatter_(2, unit_TBM, order_TBM)
    most_T = is_likely_TBM.sum(2).amax(1).clamp(min=1).tolist()
    for t, most in enumerate(most_T):
        yield Frame(log_probs_TBK[t], ranked_TBM[t, :, :most], unit_TBM[t, :, :most], rank_TBK[t].clamp(max=most))


@dataclass(frozen=True)
class FusedBeam:
    """The prefixes of each image, with what the language model says of them."""

    fusion: Fusion
    prefixes: Beam
    """The prefixes with their log-probabilities without the language model."""
    bonus_BN: Tensor
    """What the language model and the bonus of units add to the log-probability of each prefix."""
    state_BN: Tensor
    """int64: the state of the language model after each prefix."""

    @classmethod
    def start(cls, batch: int, width: int, fusion: Fusion) -> "FusedBeam":
        """Return the beam before the first frame."""
        prefixes = Beam.start(batch, width, torch.device("cpu"))
        state_BN = torch.full((batch, width), fusion.automaton.start)
        return cls(fusion, prefixes, torch.zeros(batch, width), state_BN)

    def where(self, chosen_B1: Tensor, other: "FusedBeam") -> "FusedBeam":
        """Return `other` for the chosen images and this beam for the rest."""
        return FusedBeam(
            self.fusion,
            self.prefixes.where(chosen_B1, other.prefixes),
            other.bonus_BN.where(chosen_B1, self.bonus_BN),
            other.state_BN.where(chosen_B1, self.state_BN),
        )

    def advance(self, frame: Frame, column_K: Tensor) -> tuple["FusedBeam", Tensor, Tensor]:
        """Advance by one frame.

        Args:
            frame: The frame.
            column_K: The column of each unit in the table of the language model.

        Returns:
            The new beam; the place in the old beam that each new prefix comes from; the unit that was appended to it,
            −1 for none.
        """
        beam, (batch, width), ranks = self.prefixes, self.state_BN.shape, frame.unit_BM.shape[1]
        last_log_prob_BN = frame.log_probs_BK.gather(1, beam.last_BN)
        rank_BN = frame.rank_BK.gather(1, beam.last_BN).long()
        parent_BN = beam.parents()
        stay_blank_BN, stay_unit_BN = beam.stay(frame, last_log_prob_BN, parent_BN)
        # One more column, for units that are not ranked, and one more row, for prefixes without a parent in the beam.
        extended_BNM = torch.full((batch, width + 1, ranks + 1), -torch.inf)
        extended_BNM[:, :width, :ranks] = beam.total_BN[:, :, None] + frame.ranked_BM[:, None, :]
        # A repeated unit is a new one only after a blank.
        repeated_BN1 = (beam.blank_BN + last_log_prob_BN)[:, :, None]
        extended_BNM[:, :width].scatter_(2, rank_BN[:, :, None], repeated_BN1)
        # Extensions that result in a prefix of the beam are merged into it.
        extended_BNM.view(batch, -1).scatter_(1, parent_BN * (ranks + 1) + rank_BN, -torch.inf)
        extended_BNM = extended_BNM[:, :width, :ranks]

        rows_BN, log_prob_RC, next_RC = self._rows()
        place_BNM = rows_BN[:, :, None] * log_prob_RC.shape[1] + column_K[frame.unit_BM][:, None, :]
        added_BNM = log_prob_RC.take(place_BNM) * self.fusion.weight + self.fusion.bonus + self.bonus_BN[:, :, None]
        total_BC = torch.cat([logaddexp(stay_blank_BN, stay_unit_BN), extended_BNM.reshape(batch, -1)], dim=1)
        bonus_BC = torch.cat([self.bonus_BN, added_BNM.view(batch, -1)], dim=1)
        # An impossible extension must not become a prefix, not even if there are no others.
        total_BC = total_BC.where(bonus_BC > -torch.inf, -torch.inf)

        index_BN = (total_BC + bonus_BC).topk(width, dim=1).indices
        stays_BN, extension_BN = index_BN < width, (index_BN - width).clamp(min=0)
        source_BN = index_BN.where(stays_BN, extension_BN // ranks)
        unit_BN = frame.unit_BM.gather(1, extension_BN % ranks).where(~stays_BN, -1)
        moved = beam.moved(total_BC.gather(1, index_BN), stay_blank_BN, stay_unit_BN, source_BN, unit_BN)
        state_BN = next_RC.take(place_BNM.view(batch, -1).gather(1, extension_BN)).long()
        state_BN = self.state_BN.gather(1, source_BN).where(stays_BN, state_BN)
        return (
            replace(self, prefixes=moved, bonus_BN=bonus_BC.gather(1, index_BN), state_BN=state_BN),
            source_BN,
            unit_BN,
        )

    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the row of each prefix's state in the table of the language model, and the table."""
        row, log_prob, following = self.fusion.automaton.rows(self.state_BN.numpy())
        return torch.from_numpy(row).long(), torch.from_numpy(log_prob), torch.from_numpy(following)

    def paths(self, trail: Sequence[tuple[Tensor, Tensor]], paths: int) -> list[list[Path]]:
        """Return the texts with the highest score, given the places and units of all frames."""
        rows_BN, log_prob_RC, _ = self._rows()
        end_BN = log_prob_RC[:, self.fusion.automaton.end_column].take(rows_BN)
        score_BN = self.prefixes.total_BN + self.bonus_BN + self.fusion.weight * end_BN
        found = read_back(self.prefixes.total_BN, score_BN, trail, paths)
        sums = score_BN.logsumexp(1).tolist()
        return [
            [replace(path, posterior=math.exp(min(0.0, path.score - total))) for path in image_paths]
            for image_paths, total in zip(found, sums, strict=True)
        ]
