"""Error rates of transcriptions against references. Case and spaces count.

CER is the number of edits divided by the number of reference units, WER the same for words, which are separated by
spaces. Accuracy is the share of exact transcriptions. Edits are those of the Levenshtein distance: an insertion,
deletion or substitution costs 1.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class Counts:
    """Counts of errors, summed over samples. Counts of batches, workers and resamples can be added."""

    samples: int = 0
    exact: int = 0
    unit_edits: int = 0
    units: int = 0
    word_edits: int = 0
    words: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.as_tuple(), other.as_tuple(), strict=True)))

    def as_tuple(self) -> tuple[int, ...]:
        """Return the counts in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def cer(self) -> float:
        """Character error rate: edits of units per unit of the references."""
        return _rate(self.unit_edits, self.units)

    @property
    def wer(self) -> float:
        """Word error rate."""
        return _rate(self.word_edits, self.words)

    @property
    def accuracy(self) -> float:
        """Share of exact transcriptions. 0 without samples."""
        return self.exact / self.samples if self.samples else 0.0


def _rate(edits: int, length: int) -> float:
    """Return edits divided by reference length. For an empty reference the rate is 0 without edits, else 1."""
    return edits / length if length else float(edits > 0)


def score(reference: Sequence[str], hypothesis: Sequence[str]) -> Counts:
    """Return the counts of one sample. Reference and hypothesis are sequences of units."""
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
    """Return the words of a sequence of units."""
    return "".join(units).split()


@dataclass(frozen=True)
class AlignmentStep:
    """The index of a unit of the reference and that of the aligned unit of the hypothesis. None is a gap."""

    reference: int | None
    hypothesis: int | None
    equal: bool


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[AlignmentStep]:
    """Return an alignment of a reference and a hypothesis with the fewest edits."""
    steps = []
    for run in Levenshtein.opcodes(reference, hypothesis):
        ranges = range(run.src_start, run.src_end), range(run.dest_start, run.dest_end)
        steps += [AlignmentStep(*places, run.tag == "equal") for places in itertools.zip_longest(*ranges)]
    return steps
