"""Calibration of confidences: reliability diagrams and coverage."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bin:
    """Samples of similar confidence."""

    low: float
    high: float
    samples: int
    confidence: float
    """Mean confidence of the samples."""
    exact: float
    """Share of exact transcriptions. For a calibrated model it is close to the confidence."""


def reliability(confidences: Sequence[float], exact: Sequence[int], bins: int = 10) -> list[Bin]:
    """Group samples by confidence into bins of equal width. Empty bins are left out."""
    confidence, right = np.array(confidences, float), np.array(exact, float)
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(place / bins, (place + 1) / bins, int(own.sum()), float(confidence[own].mean()), float(right[own].mean()))
        for place in range(bins)
        if (own := places == place).any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy, weighted by samples."""
    samples = sum(each.samples for each in bins)
    return sum(each.samples * abs(each.confidence - each.exact) for each in bins) / samples if samples else 0.0


@dataclass(frozen=True)
class Point:
    """The accuracy if only samples with at least some confidence are kept."""

    threshold: float
    coverage: float
    """Share of the samples that is kept."""
    exact: float
    """Share of the kept samples that is exact. 0 if none is kept."""


def keep_above(confidences: Sequence[float], exact: Sequence[int], threshold: float) -> Point:
    """Return the accuracy of the samples whose confidence reaches a threshold."""
    kept = [right for sure, right in zip(confidences, exact, strict=True) if sure >= threshold]
    return Point(threshold, len(kept) / max(1, len(confidences)), sum(kept) / max(1, len(kept)))


def coverage(confidences: Sequence[float], exact: Sequence[int], max_points: int = 200) -> list[Point]:
    """Return the points of all thresholds, highest first, thinned evenly to at most `max_points`."""
    confidence, right = np.array(confidences, float), np.array(exact, float)
    order = np.argsort(-confidence, kind="stable")
    sorted_, reached = confidence[order], np.cumsum(right[order])
    # Of equal confidences only the last index counts: a threshold keeps all of them or none.
    ends = np.flatnonzero(np.append(sorted_[:-1] != sorted_[1:], True)) if len(order) else np.array([], int)
    chosen = ends[np.unique(np.linspace(0, len(ends) - 1, min(max_points, len(ends))).astype(int))]
    return [Point(float(sorted_[i]), (i + 1) / len(order), float(reached[i]) / (i + 1)) for i in map(int, chosen)]
