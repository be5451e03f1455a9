"""Confidence intervals of error rates, and significance tests for the difference of two models."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycrnn.metrics.error_rates import Counts

RATES = ("cer", "wer", "accuracy")
"""Properties of `Counts` that have an interval."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, with its bounds."""

    low: float
    high: float


def intervals(
    scores: Sequence[Counts], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return intervals of CER and WER by percentile bootstrap over samples (Efron 1979), of accuracy by `wilson`.

    The result is deterministic for a given `seed`, and empty without samples.
    """
    if not scores:
        return {}
    table = np.array([counts.as_tuple() for counts in scores])
    resampled = [Counts(*map(int, row)) for row in _resample(table, resamples, seed)]
    bootstrapped = {name: _interval([getattr(counts, name) for counts in resampled], level) for name in ("cer", "wer")}
    return {**bootstrapped, "accuracy": wilson(sum(counts.exact for counts in scores), len(scores), level)}


def wilson(hits: int, n: int, level: float = 0.95) -> Interval:
    """Return the score interval of a proportion (Wilson 1927).

    Unlike the bootstrap it has a positive width at 0 and 1: for 20 of 20 it begins at 84 %.
    """
    share, z = hits / n, statistics.NormalDist().inv_cdf((1 + level) / 2)
    middle, scale = share + z**2 / (2 * n), 1 + z**2 / n
    reach = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    # Rounding errors must not put a bound on the wrong side of the proportion.
    return Interval(max(0.0, min(share, (middle - reach) / scale)), min(1.0, max(share, (middle + reach) / scale)))


def _resample(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the column sums of bootstrap resamples. [samples, columns] -> [resamples, columns]."""
    random = np.random.default_rng(seed)
    n = len(table)
    # The number of times each sample is drawn is multinomial, so a matrix product sums a resample.
    return np.stack([random.multinomial(n, np.full(n, 1 / n)) @ table for _ in range(resamples)])


def _interval(values: Sequence[float], level: float) -> Interval:
    return Interval(*map(float, np.quantile(values, [(1 - level) / 2, (1 + level) / 2])))


@dataclass(frozen=True)
class Difference:
    """The rate of a second model minus that of a first one."""

    value: float
    interval: Interval
    p: float
    """Two-sided p-value: probability of a difference at least this large if the models were equally good."""


def compare(
    first: Sequence[Counts], second: Sequence[Counts], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """Compare CER, WER and accuracy of two models on the same samples, with paired bootstrap intervals.

    The p-value of accuracy is that of McNemar's test, the others are from the bootstrap. The result is deterministic
    for a given `seed`.

    Args:
        first, second: Counts of each sample, at least one, in the same order.
    """
    pairs = zip(first, second, strict=True)
    table = np.array([(*counts.as_tuple(), *others.as_tuple()) for counts, others in pairs])
    width = table.shape[1] // 2

    def differences(sums: np.ndarray) -> dict[str, float]:
        counts, others = Counts(*map(int, sums[:width])), Counts(*map(int, sums[width:]))
        return {name: getattr(others, name) - getattr(counts, name) for name in RATES}

    resampled = [differences(sums) for sums in _resample(table, resamples, seed)]
    results = {}
    for name, value in differences(table.sum(axis=0)).items():
        values = [each[name] for each in resampled]
        p = mcnemar(*disagreements(first, second)) if name == "accuracy" else _bootstrap_p(values)
        results[name] = Difference(value, _interval(values, level), p)
    return results


def disagreements(first: Sequence[Counts], second: Sequence[Counts]) -> tuple[int, int]:
    """Return how many samples only the first model has exact, and how many only the second."""
    pairs = [(counts.exact, others.exact) for counts, others in zip(first, second, strict=True)]
    return pairs.count((1, 0)), pairs.count((0, 1))


def mcnemar(first_alone: int, second_alone: int) -> float:
    """Return the p-value of the two-sided exact test of McNemar (1947): a binomial test with probability 1/2."""
    n = first_alone + second_alone
    # Logarithms, because binomial coefficients of a large set have thousands of digits.
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(min(first_alone, second_alone) + 1)
    )
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _bootstrap_p(differences: Sequence[float]) -> float:
    """Return twice the share of resamples whose difference is zero or has the opposite sign. It is never 0."""
    array = np.array(differences)
    fewer = min(int((array <= 0).sum()), int((array >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(array) + 1))
