"""Calibrate confidences by logistic regression (Platt 1999).

The confidence of a transcription is the probability that it is exact. The network's own CTC probability is a poor
estimate of it. Calibrations of version 0.1 have one temperature for all frames (Guo et al. 2017, arXiv:1706.04599).
Most frames of a line are blanks, of which the network is nearly certain; at a temperature above 1, each of them lowers
the probability of the line, and long lines lose nearly all of it. Fitting a temperature also takes a CTC pass for each
one that is tried. Therefore the confidence is fitted to whole transcriptions: the log-odds that one is exact are a
linear function of the log-odds of its CTC probability, and of its numbers of units and of frames, on data that the
network was not trained on.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from raycrnn.errors import RaycrnnError
from raycrnn.model import ctc

FEATURES = ("constant", "log_odds", "log_units", "log_frames")
"""1; the log-odds of the CTC probability; the logarithms of the number of units plus 1 and of the number of frames."""

UNCHANGED = (0.0, 1.0, 0.0, 0.0)
"""The weights with which the confidence is the CTC probability. The fit starts from them as a prior."""

MIN_PROBABILITY = 1e-6
"""Probabilities nearer to 0 or 1 are set to this distance, so that a single sample cannot dominate the fit."""


@dataclass(frozen=True)
class Calibration:
    """The conversion of a model's probabilities to confidences."""

    temperature: float = 1.0
    """Divisor of the log-probabilities. 1, except in calibrations that version 0.1 fitted."""
    samples: int = 0
    """Number of samples that the calibration was fitted on; 0 if it was not fitted."""
    weights: tuple[float, ...] = UNCHANGED
    """The weights of `FEATURES` in the log-odds of the confidence."""
    with_language_model: "Calibration | None" = None
    """The calibration of texts that were found with the language model of the model, if it was fitted. It converts
    their probabilities among the texts of the beam, instead of the CTC probabilities."""

    @classmethod
    def from_json(cls, values: Mapping[str, object], origin: str) -> "Calibration":
        """Return the calibration of a JSON object that `to_json` of this or an earlier version returned.

        Args:
            values: The object.
            origin: The file that it comes from, for the message.

        Raises:
            RaycrnnError: The object is not a calibration.
        """
        temperature, samples = values.get("temperature"), values.get("samples")
        weights = values.get("weights", dict(zip(FEATURES, UNCHANGED, strict=True)))
        if not isinstance(temperature, int | float) or not isinstance(samples, int) or not 0 < temperature < math.inf:
            raise RaycrnnError(f"{origin}: not a calibration: it needs a temperature above 0 and a number of samples")
        if not isinstance(weights, dict) or not all(_is_finite(weights.get(name)) for name in FEATURES):
            raise RaycrnnError(f"{origin}: not a calibration: weights needs numbers for {', '.join(FEATURES)}")
        fused = values.get("with_language_model")
        if fused is not None and not isinstance(fused, dict):
            raise RaycrnnError(f"{origin}: not a calibration: with_language_model must be an object")
        return cls(
            float(temperature),
            samples,
            tuple(float(weights[name]) for name in FEATURES),
            cls.from_json(fused, origin) if fused else None,
        )

    def to_json(self) -> str:
        """Return the JSON object that is written to calibration.json."""
        return json.dumps(self._to_tree(), indent=2)

    def _to_tree(self) -> dict[str, object]:
        fused = {"with_language_model": self.with_language_model._to_tree()} if self.with_language_model else {}
        return {
            "temperature": round(self.temperature, 4),
            "samples": self.samples,
            "weights": self.named_weights(),
            **fused,
        }

    def named_weights(self) -> dict[str, float]:
        """Return the weights by the names of their features."""
        return {name: round(weight, 4) for name, weight in zip(FEATURES, self.weights, strict=True)}

    def confidence(self, log_prob: float, units: int, frames: int) -> float:
        """Return the probability that the best transcription of an image is exact.

        Args:
            log_prob: Logarithm of its probability: the CTC probability, over all alignments, or that among the texts of
                a beam.
            units: Number of its units.
            frames: Number of frames of the image.
        """
        if self.weights == UNCHANGED:
            return min(1.0, math.exp(log_prob))
        features = _features(np.array([log_prob]), np.array([units]), np.array([frames]))
        return float(_sigmoid(features @ np.array(self.weights))[0])


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def apply_temperature(log_probs_TBK: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities at a temperature; above 1 the distribution is flatter, below 1 sharper."""
    return log_probs_TBK if temperature == 1 else F.log_softmax(log_probs_TBK / temperature, dim=2)


class CalibrationFitter:
    """Fit a calibration to transcriptions whose references are known."""

    def __init__(self, rows: np.ndarray | None = None):
        self._parts = [np.zeros((0, 4)) if rows is None else rows]

    @property
    def rows(self) -> np.ndarray:
        """The samples: log-probability, units, frames, and 1 if exact. Those of workers can be concatenated."""
        return np.concatenate(self._parts)

    def add(
        self, log_probs_TBK: Tensor, frames_B: Tensor, labels: Sequence[Sequence[int]], exact: Sequence[bool]
    ) -> None:
        """Add the transcriptions of a batch.

        Args:
            log_probs_TBK: The network's log-probabilities.
            frames_B: Frames of each image.
            labels: Codes of each image's transcription.
            exact: Whether each transcription equals its reference.
        """
        log_prob_B = ctc.log_likelihoods(log_probs_TBK, frames_B, labels).double().cpu().numpy()
        columns = [log_prob_B, [len(label) for label in labels], frames_B.cpu().numpy(), exact]
        self._parts.append(np.stack([np.asarray(column, float) for column in columns], axis=1))

    def fit(self) -> Calibration:
        """Return the weights of least log loss; without samples, an unchanged calibration.

        The weights have a normal prior of variance 1 around `UNCHANGED`. Thus they are finite if all transcriptions are
        exact, or none, and few samples change little.
        """
        # The log-probabilities of a network that has diverged are NaN.
        rows = self.rows[np.isfinite(self.rows).all(axis=1)]
        if not len(rows):
            return Calibration()
        features, exact = _features(*rows.T[:3]), rows[:, 3]
        prior = np.array(UNCHANGED)

        def loss(weights: np.ndarray) -> float:
            log_odds = features @ weights
            return float(np.logaddexp(0, log_odds).sum() - exact @ log_odds + ((weights - prior) ** 2).sum() / 2)

        # Newton's method on a strictly convex function, with steps halved until they lower it.
        weights = prior
        for _ in range(MAX_STEPS):
            probability = _sigmoid(features @ weights)
            gradient = features.T @ (probability - exact) + weights - prior
            curvature = (features.T * (probability * (1 - probability))) @ features + np.eye(len(prior))
            step = np.linalg.solve(curvature, gradient)
            while np.abs(step).max() > SMALLEST_STEP and loss(weights - step) > loss(weights):
                step /= 2
            weights = weights - step
            if np.abs(step).max() <= SMALLEST_STEP:
                break
        return Calibration(samples=len(rows), weights=tuple(weights.tolist()))


MAX_STEPS = 100
SMALLEST_STEP = 1e-6


def _features(log_prob_N: np.ndarray, units_N: np.ndarray, frames_N: np.ndarray) -> np.ndarray:
    """Return the `FEATURES` of transcriptions, [N, 4]."""
    log_prob_N = log_prob_N.clip(math.log(MIN_PROBABILITY), math.log1p(-MIN_PROBABILITY))
    log_odds_N = log_prob_N - np.log(-np.expm1(log_prob_N))
    return np.stack([np.ones(len(log_prob_N)), log_odds_N, np.log1p(units_N), np.log(frames_N)], axis=1)


def _sigmoid(log_odds_N: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -log_odds_N))
