"""Temperature scaling: the temperature that made the data is found again."""

import numpy as np
import pytest
import torch

from raycrnn.errors import RaycrnnError
from raycrnn.model import calibration
from raycrnn.model.calibration import Calibration, TemperatureFitter


def lines(count: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list, list[bool]]:
    """Of one frame and two classes: a unit that is right as often as its probability at a temperature says."""
    random = np.random.default_rng(seed)
    logit = random.uniform(0, 6, count)
    log_probs_TBK = torch.tensor(np.stack([logit, np.zeros(count)], axis=1)).log_softmax(1).float()[None]
    exact = random.random(count) < 1 / (1 + np.exp(-logit / temperature))
    return log_probs_TBK, torch.ones(count, dtype=torch.long), [(0,)] * count, exact.tolist()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.3, 5.0])
def test_the_temperature_of_the_data_is_found(temperature):
    tally = TemperatureFitter()
    tally.add(*lines(20000, temperature))
    assert tally.fit().temperature == pytest.approx(temperature, rel=0.08)
    assert tally.fit().samples == 20000


def test_sums_of_parts_are_the_sum_of_all():
    whole, parts = TemperatureFitter(), TemperatureFitter()
    log_probs, frames, labels, exact = lines(300, 2.0)
    whole.add(log_probs, frames, labels, exact)
    for start in range(0, 300, 100):
        own = slice(start, start + 100)
        parts.add(log_probs[:, own], frames[own], labels[own], exact[own])
    assert parts.sums == pytest.approx(whole.sums)


@pytest.mark.parametrize("right", [True, False])
def test_where_all_are_exact_or_none_the_temperature_stays_within_bounds(right):
    tally = TemperatureFitter()
    log_probs, frames, labels, _ = lines(50, 1.0)
    tally.add(log_probs, frames, labels, [right] * 50)
    assert 0.5 <= tally.fit().temperature <= 8.0


def test_without_samples_nothing_is_changed():
    assert TemperatureFitter().fit() == Calibration(1.0, 0)
    log_probs, *_ = lines(5, 1.0)
    assert calibration.temper(log_probs, 1.0) is log_probs


def test_tempered_probabilities_are_probabilities():
    log_probs, *_ = lines(5, 1.0)
    assert calibration.temper(log_probs, 3.0).exp().sum(2) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [{}, {"temperature": 0, "samples": 1}, {"temperature": "1", "samples": 1}])
def test_what_is_no_calibration_is_refused(values):
    with pytest.raises(RaycrnnError, match=r"here: no calibration"):
        Calibration.from_json(values, "here")
