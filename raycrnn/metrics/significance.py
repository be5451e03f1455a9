"""Intervals of error rates, and whether two models differ."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycrnn.metrics.error_rates import Counts

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
