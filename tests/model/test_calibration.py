"""Temperature scaling of confidences."""

import numpy as np
import pytest
import torch

from raycrnn.errors import RaycrnnError
from raycrnn.model import calibration
from raycrnn.model.calibration import Calibration, TemperatureFitter


def lines(count: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list, list[bool]]:
    """Return lines of one frame and two classes, whose unit is right with its probability at a temperature."""
    random = np.random.default_rng(seed)
    logit = random.uniform(0, 6, count)
    log_probs_TBK = torch.tensor(np.stack([logit, np.zeros(count)], axis=1)).log_softmax(1).float()[None]
    exact = random.random(count) < 1 / (1 + np.exp(-logit / temperature))
    return log_probs_TBK, torch.ones(count, dtype=torch.long), [(0,)] * count, exact.tolist()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.3, 5.0])
def test_the_fit_finds_the_temperature_of_the_data(temperature):
    fitter = TemperatureFitter()
    fitter.add(*lines(20000, temperature))
    assert fitter.fit().temperature == pytest.approx(temperature, rel=0.08)
    assert fitter.fit().samples == 20000


def test_the_sums_of_parts_add_up_to_the_sums_of_all():
    whole, parts = TemperatureFitter(), TemperatureFitter()
    log_probs, frames, labels, exact = lines(300, 2.0)
    whole.add(log_probs, frames, labels, exact)
    for start in range(0, 300, 100):
        own = slice(start, start + 100)
        parts.add(log_probs[:, own], frames[own], labels[own], exact[own])
    assert parts.sums == pytest.approx(whole.sums)


@pytest.mark.parametrize("right", [True, False])
def test_the_temperature_is_bounded_if_all_transcriptions_are_exact_or_none(right):
    fitter = TemperatureFitter()
    log_probs, frames, labels, _ = lines(50, 1.0)
    fitter.add(log_probs, frames, labels, [right] * 50)
    assert 0.5 <= fitter.fit().temperature <= 8.0


def test_without_samples_the_temperature_is_1():
    assert TemperatureFitter().fit() == Calibration(1.0, 0)
    log_probs, *_ = lines(5, 1.0)
    assert calibration.apply_temperature(log_probs, 1.0) is log_probs


def test_probabilities_at_a_temperature_add_up_to_1():
    log_probs, *_ = lines(5, 1.0)
    assert calibration.apply_temperature(log_probs, 3.0).exp().sum(2) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [{}, {"temperature": 0, "samples": 1}, {"temperature": "1", "samples": 1}])
def test_invalid_calibration_files_are_refused(values):
    with pytest.raises(RaycrnnError, match=r"here: not a calibration"):
        Calibration.from_json(values, "here")
