"""Calibrate confidences by temperature scaling (Guo et al. 2017, arXiv:1706.04599).

The confidence of a transcription is its CTC probability, but the probabilities of a network are usually too high. They
become a better estimate of how often the network is right when its log-probabilities are divided by a temperature that
is fitted on data it was not trained on. The temperature minimises the log loss of predicting, from the probability of
each transcription, whether it is exact. The targets are those of Platt (1999), with which the fit remains finite if
all transcriptions are exact, or none.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycrnn.errors import RaycrnnError
from raycrnn.model import ctc

TEMPERATURES = tuple(np.geomspace(0.5, 8.0, 17).tolist())
"""The temperatures at which the loss is computed; the fit interpolates between them."""

MIN_PROBABILITY = 1e-6
"""Lower probabilities are raised to this one, so that a single sample cannot dominate the loss."""


@dataclass(frozen=True)
class Calibration:
    """The conversion of a model's probabilities to confidences."""

    temperature: float = 1.0
    """Divisor of the log-probabilities."""
    samples: int = 0
    """Number of samples that the temperature was fitted on; 0 if it was not fitted."""

    @classmethod
    def from_json(cls, values: Mapping[str, object], origin: str) -> "Calibration":
        """Return the calibration of a JSON object that `to_json` returned.

        Args:
            values: The object.
            origin: The file that it comes from, for the message.

        Raises:
            RaycrnnError: The object is not a calibration.
        """
        temperature, samples = values.get("temperature"), values.get("samples")
        if isinstance(temperature, int | float) and isinstance(samples, int) and 0 < temperature < math.inf:
            return cls(float(temperature), samples)
        raise RaycrnnError(f"{origin}: not a calibration: it needs a temperature above 0 and a number of samples")

    def to_json(self) -> str:
        """Return the JSON object that is written to calibration.json."""
        return json.dumps({"temperature": round(self.temperature, 4), "samples": self.samples}, indent=2)


def apply_temperature(log_probs_TBK: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities at a temperature; above 1 the distribution is flatter, below 1 sharper."""
    return log_probs_TBK if temperature == 1 else F.log_softmax(log_probs_TBK / temperature, dim=2)


class TemperatureFitter:
    """Fit the temperature to transcriptions whose references are known.

    Only sums over samples are stored, so fitters of several batches or workers are combined by adding up `sums`.
    """

    def __init__(self, sums: np.ndarray | None = None):
        self.sums = np.zeros((len(TEMPERATURES), 2, 3)) if sums is None else sums
        """Sums [temperature, exact or not, (samples, Σ log p, Σ log (1 − p))]."""

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
        exact_B = torch.tensor(exact, dtype=torch.long)
        for index, temperature in enumerate(TEMPERATURES):
            log_probs = apply_temperature(log_probs_TBK, temperature)
            p_B = ctc.log_likelihoods(log_probs, frames_B, labels).double().cpu().exp()
            p_B = p_B.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
            for is_exact in (0, 1):
                p_N = p_B[exact_B == is_exact]
                self.sums[index, is_exact] += len(p_N), p_N.log().sum().item(), (1 - p_N).log().sum().item()

    def fit(self) -> Calibration:
        """Return the best temperature; without samples, 1."""
        wrong, exact = self.sums[0, :, 0]
        if not wrong + exact:
            return Calibration()
        # Platt's targets: that all samples so far were exact does not make it certain that the next one is.
        target = np.array([1 / (wrong + 2), (exact + 1) / (exact + 2)])
        losses = -(self.sums[:, :, 1] @ target + self.sums[:, :, 2] @ (1 - target))
        return Calibration(_best_temperature(losses), int(wrong + exact))


def _best_temperature(losses: np.ndarray) -> float:
    """Return the minimum of the parabola through the lowest loss and its neighbours, on a logarithmic scale."""
    lowest = int(losses.argmin())
    if not 0 < lowest < len(losses) - 1:
        return TEMPERATURES[lowest]
    before, at, after = losses[lowest - 1 : lowest + 2]
    curvature = before - 2 * at + after
    shift = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    step = math.log(TEMPERATURES[1] / TEMPERATURES[0])
    return TEMPERATURES[lowest] * math.exp(shift * step)
