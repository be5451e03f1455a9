"""Error rates of transcriptions against references, in units: no case folded, no space dropped.

CER is edits over reference units, WER edits over reference words (what stands between spaces), accuracy the
share of transcriptions that are exact. Edits are Levenshtein's (insertion, deletion, substitution cost 1).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

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
class AlignmentStep:
    """A unit of the reference beside one of the hypothesis, by their places; None is a gap."""

    reference: int | None
    hypothesis: int | None
    equal: bool


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[AlignmentStep]:
    """The steps from a reference to a hypothesis, of which as few as possible are edits."""
    steps = []
    for run in Levenshtein.opcodes(reference, hypothesis):
        ranges = range(run.src_start, run.src_end), range(run.dest_start, run.dest_end)
        steps += [AlignmentStep(*places, run.tag == "equal") for places in itertools.zip_longest(*ranges)]
    return steps
