"""Calibration of confidences."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from raycrnn.errors import RaycrnnError
from raycrnn.metrics import reliability
from raycrnn.model import calibration
from raycrnn.model.calibration import UNCHANGED, Calibration, CalibrationFitter


def lines(count: int, weights: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """Return rows of log-probability, units, frames and exact, in which exact is drawn with the weights."""
    random = np.random.default_rng(seed)
    units = random.integers(1, 60, count)
    frames = units * 4 + random.integers(0, 20, count)
    rows = np.stack([-np.exp(random.uniform(-6, 2, count)), units, frames, np.zeros(count)], axis=1)
    rows[:, 3] = random.random(count) < confidences(Calibration(1.0, count, weights), rows)
    return rows


def confidences(fitted: Calibration, rows: np.ndarray) -> list[float]:
    return [fitted.confidence(log_prob, int(units), int(frames)) for log_prob, units, frames, _ in rows]


@pytest.mark.parametrize("weights", [UNCHANGED, (1.5, 0.6, -1.0, 0.2), (-1.0, 1.8, 0.5, 0.0)])
def test_the_fit_holds_for_short_middle_and_long_lines(weights):
    fitted = CalibrationFitter(lines(3000, weights)).fit()
    assert fitted.samples == 3000
    others = lines(6000, weights, seed=1)
    for low, high in ((1, 20), (20, 40), (40, 60)):
        own = others[(low <= others[:, 1]) & (others[:, 1] < high)]
        bins = reliability.reliability(confidences(fitted, own), own[:, 3])
        assert reliability.calibration_error(bins) < 0.03


def test_the_probability_of_a_long_line_is_not_lost_to_its_blank_frames():
    """81 classes and 255 frames, of which most are blanks: at a temperature of 1.2, 0.78 would become about 0.2."""
    rows = np.array([[np.log(0.78), 40, 255, index % 10 != 0] for index in range(500)])
    assert CalibrationFitter(rows).fit().confidence(np.log(0.78), 40, 255) == pytest.approx(0.9, abs=0.01)


def test_the_rows_of_a_batch_are_its_ctc_probabilities_lengths_and_results():
    log_probs_TBK = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]], [[0.6, 0.1, 0.3], [0.2, 0.2, 0.6]]]).log()
    fitter = CalibrationFitter()
    fitter.add(log_probs_TBK, torch.tensor([2, 1]), [(0,), (1,)], [True, False])
    exact_probability = 0.7 * 0.6 + 0.7 * 0.3 + 0.1 * 0.6
    assert fitter.rows == pytest.approx(
        np.array([[np.log(exact_probability), 1, 2, 1], [np.log(0.4), 1, 1, 0]]), abs=1e-6
    )


def test_a_batch_is_passed_through_ctc_once(monkeypatch):
    calls = []
    original = calibration.ctc.log_likelihoods
    monkeypatch.setattr(calibration.ctc, "log_likelihoods", lambda *given: calls.append(1) or original(*given))
    CalibrationFitter().add(torch.zeros(3, 2, 4).log_softmax(2), torch.tensor([3, 3]), [(0,), ()], [True, False])
    assert len(calls) == 1


@pytest.mark.parametrize("right", [True, False])
def test_the_fit_is_finite_and_not_certain_if_all_transcriptions_are_exact_or_none(right):
    rows = lines(50, UNCHANGED)
    rows[:, 3] = right
    found = confidences(CalibrationFitter(rows).fit(), rows)
    assert all(0 < confidence < 1 for confidence in found)
    assert (np.mean(found) > 0.8) if right else (np.mean(found) < 0.2)


def test_without_samples_nothing_changes():
    assert CalibrationFitter().fit() == Calibration(1.0, 0)
    assert CalibrationFitter(np.array([[np.nan, 3, 20, 0]])).fit() == Calibration(1.0, 0)
    assert Calibration().confidence(np.log(0.3), 5, 60) == pytest.approx(0.3)


def test_a_temperature_of_1_changes_nothing_and_others_give_probabilities_that_add_up_to_1():
    log_probs = torch.randn(4, 3, 5).log_softmax(2)
    assert calibration.apply_temperature(log_probs, 1.0) is log_probs
    assert calibration.apply_temperature(log_probs, 3.0).exp().sum(2).numpy() == pytest.approx(1.0, abs=1e-5)


def test_a_calibration_is_the_same_after_a_round_trip_and_an_earlier_one_is_read():
    fitted = Calibration(1.0, 20, (0.5, 1.25, -0.75, 0.0))
    assert Calibration.from_json(json.loads(fitted.to_json()), "here") == fitted
    both = replace(fitted, with_language_model=Calibration(1.0, 10, (0.0, 0.5, 0.25, 0.125)))
    assert Calibration.from_json(json.loads(both.to_json()), "here") == both
    assert Calibration.from_json({"temperature": 1.31, "samples": 260}, "here") == Calibration(1.31, 260)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 0, "samples": 1},
        {"temperature": "1", "samples": 1},
        {"temperature": 1, "samples": 1, "weights": [1, 2]},
        {"temperature": 1, "samples": 1, "weights": {"constant": 1}},
        {"temperature": 1, "samples": 1, "weights": dict.fromkeys(calibration.FEATURES, float("nan"))},
        {"temperature": 1, "samples": 1, "with_language_model": 1},
        {"temperature": 1, "samples": 1, "with_language_model": {"samples": 1}},
    ],
)
def test_invalid_calibration_files_are_refused(values):
    with pytest.raises(RaycrnnError, match=r"here: not a calibration"):
        Calibration.from_json(values, "here")
