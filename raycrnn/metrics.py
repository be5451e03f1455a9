"""Error rates of transcriptions against references, in units: no case folded, no space dropped.

CER is edits over reference units, WER edits over reference words (what stands between spaces), accuracy the
share of transcriptions that are exact. Edits are Levenshtein's (insertion, deletion, substitution cost 1).
"""

import itertools
import math
import statistics
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
class Step:
    """A unit of the reference beside one of the hypothesis, by their places; None is a gap."""

    reference: int | None
    hypothesis: int | None
    equal: bool


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Step]:
    """The steps from a reference to a hypothesis, of which as few as possible are edits."""
    steps = []
    for run in Levenshtein.opcodes(reference, hypothesis):
        ranges = range(run.src_start, run.src_end), range(run.dest_start, run.dest_end)
        steps += [Step(*places, run.tag == "equal") for places in itertools.zip_longest(*ranges)]
    return steps


RATES = ("cer", "wer", "accuracy")
"""What of counts has an interval, by the name of the property."""


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def intervals(
    scores: Sequence[Counts], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of CER and WER by percentile bootstrap over samples (Efron 1979), of accuracy by `wilson`.

    Deterministic by `seed`. With no samples there is nothing to resample and the result is empty.
    """
    if not scores:
        return {}
    table = np.array([counts.as_tuple() for counts in scores])
    resampled = [Counts(*map(int, row)) for row in _resample(table, resamples, seed)]
    found = {name: _interval([getattr(counts, name) for counts in resampled], level) for name in ("cer", "wer")}
    return {**found, "accuracy": wilson(sum(counts.exact for counts in scores), len(scores), level)}


def wilson(hits: int, n: int, level: float = 0.95) -> Interval:
    """The interval of a share (Wilson 1927). That of 20 of 20 is no point, as by bootstrap, but begins at 84 %."""
    share, z = hits / n, statistics.NormalDist().inv_cdf((1 + level) / 2)
    middle, scale = share + z**2 / (2 * n), 1 + z**2 / n
    reach = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    # At the ends a rounding error may lie between the bound and the share.
    return Interval(max(0.0, min(share, (middle - reach) / scale)), min(1.0, max(share, (middle + reach) / scale)))


def _resample(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums of the rows of resamples. [samples, columns] -> [resamples, columns]."""
    random = np.random.default_rng(seed)
    n = len(table)
    # How often each sample is drawn is multinomial; a matrix product then sums all resamples at once.
    return np.stack([random.multinomial(n, np.full(n, 1 / n)) @ table for _ in range(resamples)])


def _interval(values: Sequence[float], level: float) -> Interval:
    return Interval(*map(float, np.quantile(values, [(1 - level) / 2, (1 + level) / 2])))


# --- two models on the same samples


@dataclass(frozen=True)
class Difference:
    """A second model's rate less a first one's."""

    value: float
    interval: Interval
    p: float
    """probability of a difference at least as large, either way, between models that are equally good"""


def compare(
    first: Sequence[Counts], second: Sequence[Counts], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """How CER, WER and accuracy of two models differ on the same samples, with paired bootstrap intervals.

    p is McNemar's of the accuracy, the bootstrap's of the others. Deterministic by `seed`.

    Args:
        first, second: counts of each sample, at least one, in the same order.
    """
    pairs = zip(first, second, strict=True)
    table = np.array([(*counts.as_tuple(), *others.as_tuple()) for counts, others in pairs])
    width = table.shape[1] // 2

    def differences(sums: np.ndarray) -> dict[str, float]:
        counts, others = Counts(*map(int, sums[:width])), Counts(*map(int, sums[width:]))
        return {name: getattr(others, name) - getattr(counts, name) for name in RATES}

    resampled = [differences(sums) for sums in _resample(table, resamples, seed)]
    found = {}
    for name, value in differences(table.sum(axis=0)).items():
        values = [each[name] for each in resampled]
        p = mcnemar(*disagreements(first, second)) if name == "accuracy" else _bootstrap_p(values)
        found[name] = Difference(value, _interval(values, level), p)
    return found


def disagreements(first: Sequence[Counts], second: Sequence[Counts]) -> tuple[int, int]:
    """How many samples the first alone has exact, and how many the second alone."""
    pairs = [(counts.exact, others.exact) for counts, others in zip(first, second, strict=True)]
    return pairs.count((1, 0)), pairs.count((0, 1))


def mcnemar(first_alone: int, second_alone: int) -> float:
    """Two-sided exact p (McNemar 1947): how likely so uneven a split is, were each side equally probable."""
    n = first_alone + second_alone
    # By logarithms: the binomial coefficients of a large set would be integers of thousands of digits.
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(min(first_alone, second_alone) + 1)
    )
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _bootstrap_p(differences: Sequence[float]) -> float:
    """Twice the share of resamples in which the difference vanishes or turns round; never 0 of so few resamples."""
    array = np.array(differences)
    fewer = min(int((array <= 0).sum()), int((array >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(array) + 1))


# --- confidence


@dataclass(frozen=True)
class Bin:
    """Samples of like confidence."""

    low: float
    high: float
    samples: int
    confidence: float
    """their mean"""
    exact: float
    """the share that is exact: of a calibrated model about the confidence"""


def reliability(confidences: Sequence[float], exact: Sequence[int], bins: int = 10) -> list[Bin]:
    """Samples by confidence, in bins of equal width; those without samples are left out."""
    confidence, right = np.array(confidences, float), np.array(exact, float)
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(place / bins, (place + 1) / bins, int(own.sum()), float(confidence[own].mean()), float(right[own].mean()))
        for place in range(bins)
        if (own := places == place).any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: by how much confidence and share of exact ones differ, the mean over samples."""
    samples = sum(each.samples for each in bins)
    return sum(each.samples * abs(each.confidence - each.exact) for each in bins) / samples if samples else 0.0


@dataclass(frozen=True)
class Point:
    """What is left if only samples of at least a confidence are kept."""

    threshold: float
    coverage: float
    """share of the samples that is kept"""
    exact: float
    """share of those kept that is exact; 0 if there are none"""


def keep_above(confidences: Sequence[float], exact: Sequence[int], threshold: float) -> Point:
    kept = [right for sure, right in zip(confidences, exact, strict=True) if sure >= threshold]
    return Point(threshold, len(kept) / max(1, len(confidences)), sum(kept) / max(1, len(kept)))


def coverage(confidences: Sequence[float], exact: Sequence[int], most: int = 200) -> list[Point]:
    """The points of all thresholds that occur, the highest first; of very many an even choice of at most so many."""
    confidence, right = np.array(confidences, float), np.array(exact, float)
    order = np.argsort(-confidence, kind="stable")
    sorted_, reached = confidence[order], np.cumsum(right[order])
    # Of like confidences only the last counts: a threshold keeps all of them or none.
    ends = np.flatnonzero(np.append(sorted_[:-1] != sorted_[1:], True)) if len(order) else np.array([], int)
    chosen = ends[np.unique(np.linspace(0, len(ends) - 1, min(most, len(ends))).astype(int))]
    return [Point(float(sorted_[i]), (i + 1) / len(order), float(reached[i]) / (i + 1)) for i in map(int, chosen)]
