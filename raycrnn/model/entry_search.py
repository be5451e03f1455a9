"""The most likely entries of a lexicon (Shi et al. 2015, section 2.3.3).

The probability of an entry is that of CTC, over all alignments. It is computed along the trie of the entries: entries
share the forward variables of their common prefixes (Graves et al. 2006, section 4.1). The probability that the text
begins with a prefix is at least that of each entry that has the prefix. Therefore the search leaves out every prefix
that is less likely than the entries that it has found (prefix search, section 3.2).

Array names end in their axes: N nodes of the trie, each for a line; T frames; B lines; K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from raycrnn.language.trie import GROUPS, ROOT, Trie
from raycrnn.model import ctc

WIDTHS = (32, 256)
"""Numbers of prefixes of a length that a search keeps for a line. It is repeated with the next one until no prefix that
was left out can lead to a better entry."""

MAX_TENSOR_BYTES = 2**25
"""Largest size in bytes of a tensor with the frames of the children of the root, by which lines are searched together.
Several such tensors exist at a time."""

LEADS, NEAR = 1, 2
"""Marks of the nodes that are considered: those that lead to a near entry, and those that are one."""

IMPOSSIBLE = -1e5
"""Stands for a log-probability of −inf, with which differences would be NaN."""


@dataclass
class Found:
    """The entries that were found for a line."""

    count: int
    """Number of entries to find."""
    best: list[tuple[float, int]] = field(default_factory=list)
    """The log-probabilities and numbers of the best entries, best first."""
    left_out: float = -np.inf
    """Upper bound of the log-probability of the entries that were left out, apart from those that are too unlikely."""

    repeated: bool = False
    """Whether the search is repeated, which is for the best entry alone."""

    @property
    def bound(self) -> float:
        """The log-probability that an entry must exceed."""
        if self.repeated and self.best:
            return self.best[0][0]
        return self.best[-1][0] if len(self.best) == self.count else IMPOSSIBLE / 2

    @property
    def is_exact(self) -> bool:
        """Whether no other entry can be better than the best one."""
        return not self.left_out > (self.best[0][0] if self.best else IMPOSSIBLE / 2)

    def add(self, log_probs: Sequence[float], entries: Sequence[int]) -> None:
        """Keep the best of some more entries, and of those that are already found."""
        known = {entry for _, entry in self.best}
        more = [
            (log_prob, entry)
            for log_prob, entry in zip(log_probs, entries, strict=True)
            if entry not in known and log_prob > IMPOSSIBLE / 2
        ]
        self.best = sorted(self.best + more, key=lambda each: (-each[0], each[1]))[: self.count]


class EntrySearch:
    """Finds the most likely entries of a lexicon.

    Args:
        entries: The codes of each entry, in the order of the image; they are different from each other.
    """

    def __init__(self, entries: Sequence[tuple[int, ...]]):
        self._entries = entries
        self._trie = Trie.of(entries)
        self._texts = [_as_text(entry) for entry in entries]

    def search(
        self, log_probs_TBK: Tensor, frames_B: Tensor, paths: int, distance: int | None = None
    ) -> list[list[ctc.Path]]:
        """Return the most likely entries of each line, best first, with their log-probabilities over all alignments.

        The result is exact, unless more than `WIDTHS[-1]` prefixes of a length are more likely than the entries that
        are found. A trained network gives hardly any line in which they are; then it is that of a beam search over the
        trie.

        Args:
            log_probs_TBK: Log-probabilities.
            frames_B: Frames of each image.
            paths: Number of entries to return.
            distance: Greatest edit distance of an entry from the greedy path; None for all entries.

        Returns:
            For each line, at most `paths` entries; fewer if fewer are possible.
        """
        log_probs_BTK = _masked(log_probs_TBK, frames_B)
        considered_BD: list[np.ndarray | None] = [None] * len(log_probs_BTK)
        if distance is not None:
            considered_BD = [self._near(path.codes, distance) for path in ctc.greedy(log_probs_TBK, frames_B)]
        found = [Found(paths) for _ in considered_BD]
        branches = max(WIDTHS[0], len(self._trie.children(np.array([ROOT]))[0]))
        most = max(1, MAX_TENSOR_BYTES // (branches * 8 * log_probs_BTK.shape[1]))
        for width in WIDTHS:
            lines = [line for line, each in enumerate(found) if width == WIDTHS[0] or not each.is_exact]
            # Those of the first width are searched together; later ones are few, and need more memory.
            size = most if width == WIDTHS[0] else 1
            for together in (lines[first : first + size] for first in range(0, len(lines), size)):
                for line in together:
                    found[line].left_out, found[line].repeated = -np.inf, width != WIDTHS[0]
                self._search(log_probs_BTK, together, considered_BD, found, width)
        return [[ctc.Path(self._entries[entry], log_prob) for log_prob, entry in each.best] for each in found]

    def _bounds(
        self,
        arrivals_MT: Tensor,
        line_M: np.ndarray,
        node_M: np.ndarray,
        log_probs_BTK: Tensor,
        found: Sequence[Found],
    ) -> np.ndarray:
        """Return for each prefix an upper bound of the log-probability of each entry that has it.

        It is the log-probability that the text begins with the prefix, and that the frames after the first one of its
        last unit have only blanks and units that are in one of these entries.
        """
        bound_M = arrivals_MT.logsumexp(1).numpy()
        for line in np.unique(line_M):
            own = np.flatnonzero((line_M == line) & (bound_M > found[line].bound))
            if len(own):
                probs_TK = log_probs_BTK[line].exp()
                frames, units = len(probs_TK), probs_TK.shape[1] - 1
                probs_TG = probs_TK.new_zeros(frames, GROUPS)
                probs_TG.index_add_(1, torch.arange(units) % GROUPS, probs_TK[:, :-1])
                is_in_MG = torch.from_numpy(np.unpackbits(self._trie.groups_DG[node_M[own]], axis=1)).double()
                following_MT = (is_in_MG @ probs_TG.T + probs_TK[:, -1]).log_()
                # After each frame.
                following_MT = following_MT.sum(1, keepdim=True) - following_MT.cumsum(1)
                bound_M[own] = (arrivals_MT[own] + following_MT).logsumexp(1).numpy()
        return bound_M

    def _near(self, codes: tuple[int, ...], distance: int) -> np.ndarray:
        """Return for each node whether it is (`NEAR`) or leads to (`LEADS`) an entry within an edit distance."""
        near = process.extract(
            _as_text(codes), self._texts, scorer=Levenshtein.distance, score_cutoff=distance, limit=None
        )
        nodes = self._trie.node_E[[index for _, _, index in near]]
        # In int8, because there is an array of all nodes for each line of a batch.
        considered_D = np.where(self._trie.leads_to(nodes), np.int8(LEADS), np.int8(0))
        considered_D[nodes] = NEAR
        return considered_D

    def _search(
        self,
        log_probs_BTK: Tensor,
        lines: Sequence[int],
        considered_BD: Sequence[np.ndarray | None],
        found: Sequence[Found],
        width: int,
    ) -> None:
        """Go down the trie level by level, for some lines, and keep at most `width` prefixes of each."""
        line_N, node_N = np.array(lines, np.int64), np.full(len(lines), ROOT)
        forward = _Forward.start(log_probs_BTK[lines])
        while len(node_N):
            child_M, index_M = self._trie.children(node_N)
            line_M = line_N[index_M]
            kept_M = _marked(considered_BD, line_M, child_M, LEADS)
            child_M, index_M, line_M = child_M[kept_M], index_M[kept_M], line_M[kept_M]
            repeats_M = self._trie.code_D[child_M] == self._trie.code_D[node_N[index_M]]
            arrivals_MT = forward.arrivals(index_M, repeats_M)
            emissions_MT = log_probs_BTK[line_M, :, self._trie.code_D[child_M]]
            arrivals_MT += emissions_MT
            kept_M = _most_likely(
                self._bounds(arrivals_MT, line_M, child_M, log_probs_BTK, found), line_M, found, width
            )
            line_N, node_N = line_M[kept_M], child_M[kept_M]
            forward = _Forward.of(arrivals_MT[kept_M], emissions_MT[kept_M], log_probs_BTK[line_N, :, -1])
            log_prob_N, entry_N = forward.totals(), self._trie.entry_D[node_N]
            is_entry_N = (entry_N >= 0) & _marked(considered_BD, line_N, node_N, NEAR)
            for line in np.unique(line_N[is_entry_N]):
                own_N = (line_N == line) & is_entry_N
                found[line].add(log_prob_N[own_N].tolist(), entry_N[own_N].tolist())


@dataclass(frozen=True)
class _Forward:
    """The forward variables of some prefixes."""

    blank_NT: Tensor
    """Log-probability of the prefix after each frame, over alignments that end in a blank."""
    unit_NT: Tensor
    """The same for alignments that end in its last unit."""

    @classmethod
    def start(cls, log_probs_BTK: Tensor) -> "_Forward":
        """Return those of the empty prefix."""
        blank_BT = log_probs_BTK[:, :, -1].cumsum(1)
        return cls(blank_BT, torch.full_like(blank_BT, IMPOSSIBLE))

    @classmethod
    def of(cls, arrivals_NT: Tensor, emissions_NT: Tensor, blanks_NT: Tensor) -> "_Forward":
        """Return those of prefixes whose last unit begins in each frame with a log-probability `arrivals_NT`.

        Each is a linear recurrence, which a cumulative sum solves after division by the product of its factors.
        """
        stays_NT = emissions_NT.cumsum(1)
        unit_NT = stays_NT + (arrivals_NT - stays_NT).logcumsumexp(1)
        stays_NT = blanks_NT.cumsum(1)
        ended_NT = (unit_NT - stays_NT)[:, :-1].logcumsumexp(1)
        blank_NT = stays_NT + _shifted(ended_NT, len(unit_NT))
        return cls(blank_NT, unit_NT)

    def arrivals(self, index_M: np.ndarray, repeats_M: np.ndarray) -> Tensor:
        """Return the log-probability, before each frame, of the alignments after which a child can begin.

        Args:
            index_M: The prefix that each child extends.
            repeats_M: Whether the child repeats its last unit, which needs a blank between them.
        """
        both_NT = torch.logaddexp(self.blank_NT, self.unit_NT)
        before_MT = both_NT[index_M]
        before_MT[repeats_M] = self.blank_NT[index_M[repeats_M]]
        is_root = bool((self.unit_NT <= IMPOSSIBLE).all())
        return _shifted(before_MT[:, :-1], len(index_M), 0.0 if is_root else IMPOSSIBLE)

    def totals(self) -> Tensor:
        """Return the log-probability that each prefix is the text."""
        return torch.logaddexp(self.blank_NT[:, -1], self.unit_NT[:, -1])


def _shifted(values_NT: Tensor, count: int, first: float = IMPOSSIBLE) -> Tensor:
    """Return values of the frame before each frame, and `first` before the first one."""
    return torch.cat([values_NT.new_full((count, 1), first), values_NT], dim=1)


def _masked(log_probs_TBK: Tensor, frames_B: Tensor) -> Tensor:
    """Return log-probabilities in float64 [B, T, K] on the CPU, in which frames of the padding are blanks."""
    frames = int(frames_B.max())
    log_probs_BTK = log_probs_TBK[:frames].transpose(0, 1).cpu().double().clamp_(min=IMPOSSIBLE)
    padding_BT = torch.arange(frames) >= frames_B.cpu()[:, None]
    log_probs_BTK[padding_BT] = IMPOSSIBLE
    log_probs_BTK[:, :, -1][padding_BT] = 0.0
    return log_probs_BTK


def _marked(
    considered_BD: Sequence[np.ndarray | None], line_M: np.ndarray, node_M: np.ndarray, mark: int
) -> np.ndarray:
    """Return whether each node has at least a mark for its line; without marks, all nodes are considered."""
    marked_M = np.ones(len(node_M), bool)
    for line in np.unique(line_M):
        if (considered_D := considered_BD[line]) is not None:
            own_M = line_M == line
            marked_M[own_M] = considered_D[node_M[own_M]] >= mark
    return marked_M


def _most_likely(bound_M: np.ndarray, line_M: np.ndarray, found: Sequence[Found], width: int) -> np.ndarray:
    """Return the indices of the prefixes to keep: of each line, the `width` most likely ones that can lead to an entry.

    Args:
        bound_M: The log-probability that the text begins with each prefix.
    """
    kept = []
    for line in np.unique(line_M):
        own = np.flatnonzero(line_M == line)
        own = own[bound_M[own] > found[line].bound]
        if len(own) > width:
            own = own[np.argsort(-bound_M[own], kind="stable")]
            found[line].left_out = max(found[line].left_out, float(bound_M[own[width]]))
            own = own[:width]
        kept.append(own)
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _as_text(codes: Sequence[int]) -> str:
    """Return a string with a character for each code, without surrogates."""
    return "".join(chr(code if code < 0xD800 else code + 0x800) for code in codes)
