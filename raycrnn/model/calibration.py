"""How likely a transcription is to be exact: its probability by CTC, after temperature scaling (Guo et al. 2017).

A network's probabilities are mostly too sure of themselves. Its log-probabilities divided by a temperature, fitted on
data that it did not learn from, say more nearly how often it is right. The temperature is the one under which the
probability of each transcription best foretells whether it is exact (log loss). The targets are Platt's (1999),
which keep the fit finite where all transcriptions, or none, are exact.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycrnn.errors import RaycrnnError
from raycrnn.model import ctc

TEMPERATURES = tuple(np.geomspace(0.5, 8.0, 17).tolist())
"""Among which, and between which, a temperature is fitted."""

LEAST = 1e-6
"""What is less likely counts as so likely, lest a single surprise outweigh all else."""


@dataclass(frozen=True)
class Calibration:
    """How a model's probabilities become confidences."""

    temperature: float = 1.0
    samples: int = 0
    """that it was fitted on; 0: it was not"""

    @classmethod
    def from_json(cls, values: dict[str, Any], origin: str) -> "Calibration":
        """Raises `RaycrnnError` for anything but what `to_json` gives."""
        temperature, samples = values.get("temperature"), values.get("samples")
        numbers = isinstance(temperature, int | float) and isinstance(samples, int)
        if not numbers or not 0 < temperature < math.inf:
            raise RaycrnnError(f"{origin}: no calibration: it needs a temperature above 0 and a number of samples")
        return cls(float(temperature), samples)

    def to_json(self) -> str:
        return json.dumps({"temperature": round(self.temperature, 4), "samples": self.samples}, indent=2)


def temper(log_probs_TBK: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at a temperature: above 1 flatter, below 1 sharper."""
    return log_probs_TBK if temperature == 1 else F.log_softmax(log_probs_TBK / temperature, dim=2)


class TemperatureFitter:
    """Sums over samples of what a temperature is fitted by: those of batches and workers just add up."""

    def __init__(self, sums: np.ndarray | None = None):
        self.sums = np.zeros((len(TEMPERATURES), 2, 3)) if sums is None else sums
        """[temperature, exact or not, (samples, Σ log p, Σ log (1 − p))]"""

    def add(self, log_probs_TBK: Tensor, frames_B: Tensor, labels: Sequence[Sequence[int]], exact: Sequence[bool]):
        """Count transcriptions of a batch: their codes, and whether they are right."""
        exact_B = torch.tensor(exact, dtype=torch.long)
        for number, temperature in enumerate(TEMPERATURES):
            log_p_B = ctc.log_likelihoods(temper(log_probs_TBK, temperature), frames_B, labels).double().cpu()
            p_B = log_p_B.exp().clamp(LEAST, 1 - LEAST)
            for right in (0, 1):
                own_N = p_B[exact_B == right]
                self.sums[number, right] += len(own_N), own_N.log().sum().item(), (1 - own_N).log().sum().item()

    def fit(self) -> Calibration:
        """The best temperature; 1 without samples."""
        wrong, right = self.sums[0, :, 0]
        if not wrong + right:
            return Calibration()
        # Platt's targets: of `right` exact ones it is not certain that the next is exact too.
        target = np.array([1 / (wrong + 2), (right + 1) / (right + 2)])
        losses = -(self.sums[:, :, 1] @ target + self.sums[:, :, 2] @ (1 - target))
        return Calibration(_lowest(losses), int(wrong + right))


def _lowest(losses: np.ndarray) -> float:
    """The temperature of the lowest loss, by a parabola through the lowest point and its neighbours."""
    lowest = int(losses.argmin())
    step = math.log(TEMPERATURES[1] / TEMPERATURES[0])
    if not 0 < lowest < len(losses) - 1:
        return TEMPERATURES[lowest]
    before, at, after = losses[lowest - 1 : lowest + 2]
    bend = before - 2 * at + after
    shift = 0.5 * (before - after) / bend if bend > 0 else 0.0
    return TEMPERATURES[lowest] * math.exp(shift * step)
