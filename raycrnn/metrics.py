"""Error rates of transcriptions against references, in units: no case folded, no space dropped.

CER is edits over reference units, WER edits over reference words (what stands between spaces), accuracy the
share of transcriptions that are exact. Edits are Levenshtein's (insertion, deletion, substitution cost 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class Counts:
    """Sums over samples, so that the counts of batches, workers and resamples just add up."""

    samples: int = 0
    exact: int = 0
    unit_edits: int = 0
    units: int = 0
    word_edits: int = 0
    words: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.as_tuple(), other.as_tuple(), strict=True)))

    def as_tuple(self) -> tuple[int, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def cer(self) -> float:
        return _rate(self.unit_edits, self.units)

    @property
    def wer(self) -> float:
        return _rate(self.word_edits, self.words)

    @property
    def accuracy(self) -> float:
        return self.exact / self.samples if self.samples else 0.0


def _rate(edits: int, length: int) -> float:
    """Edits over reference length. Against an empty reference any edit is an error rate of 1."""
    return edits / length if length else float(edits > 0)


def score(reference: Sequence[str], hypothesis: Sequence[str]) -> Counts:
    """Counts of one sample, both given as sequences of units."""
    reference_words, hypothesis_words = words(reference), words(hypothesis)
    return Counts(
        samples=1,
        exact=int(list(reference) == list(hypothesis)),
        unit_edits=Levenshtein.distance(reference, hypothesis),
        units=len(reference),
        word_edits=Levenshtein.distance(reference_words, hypothesis_words),
        words=len(reference_words),
    )


def words(units: Sequence[str]) -> list[str]:
    return "".join(units).split()


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def bootstrap(
    scores: Sequence[Counts], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Percentile bootstrap intervals (Efron 1979) of CER, WER and accuracy over samples.

    Deterministic by `seed`. With no samples there is nothing to resample and the result is empty.
    """
    if not scores:
        return {}
    table = np.array([counts.as_tuple() for counts in scores])
    random = np.random.default_rng(seed)
    n = len(table)
    # How often each sample is drawn is multinomial; a matrix product then sums all resamples at once.
    sums = np.stack([random.multinomial(n, np.full(n, 1 / n)) @ table for _ in range(resamples)])
    resampled = [Counts(*map(int, row)) for row in sums]
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: Interval(*np.quantile([getattr(counts, name) for counts in resampled], tails))
        for name in ("cer", "wer", "accuracy")
    }
