"""Calibration of confidences: reliability diagrams and coverage."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
