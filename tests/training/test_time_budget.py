"""A run's clock and its rates, by a clock of the tests' own."""

import pytest

from raycrnn.training import time_budget
from raycrnn.training.time_budget import Throughput, TimeBudget


@pytest.fixture
def now(monkeypatch):
    class Now:
        seconds = 0.0

    monkeypatch.setattr(time_budget.time, "time", lambda: Now.seconds)
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: Now.seconds)
    return Now


def run(now, clock, durations, evaluate_every=None, first_wait=10):
    """Take steps until none is left; the progress of the schedule by the time, as `Learner.train_step` counts it."""
    progress, step, curve = 0.0, 0, []
    left = clock.steps_left(0)
    now.seconds += first_wait
    while left > 0:
        now.seconds += durations(step)
        step += 1
        progress += (1 - progress) / max(1, left)
        curve.append((now.seconds, progress))
        left = clock.steps_left(step)
        if evaluate_every and step % evaluate_every == 0 and left > 0:
            now.seconds += 5
            clock.evaluated(5)
    return curve


@pytest.mark.parametrize("slow", [0.2, 0.6, 1.5])
def test_the_schedule_goes_with_the_time_even_after_a_slow_start(now, slow):
    clock = TimeBudget(10**6, deadline=180, eval_share=10)
    curve = run(now, clock, lambda step: slow if step < 20 else 0.2)
    end = curve[-1][0]
    assert 160 < end <= 180 - time_budget.CLOSING_SECONDS
    assert curve[-1][1] > 0.99
    for seconds, progress in curve:
        assert progress == pytest.approx(seconds / end, abs=0.15)


def test_evaluations_take_their_time_from_the_limit(now):
    clock = TimeBudget(10**6, deadline=120, eval_share=10)
    curve = run(now, clock, lambda step: 0.25, evaluate_every=80)
    assert 90 < curve[-1][0] <= 120 - time_budget.CLOSING_SECONDS


def test_without_a_limit_the_epochs_count(now):
    assert [TimeBudget(10, None, 1).steps_left(step) for step in (0, 9, 10)] == [10, 1, 0]
    assert TimeBudget(10, 1e9, 1).steps_left(4) == 6


def test_past_the_limit_nothing_is_left(now):
    now.seconds = 100
    assert TimeBudget(10**6, deadline=100, eval_share=1).steps_left(0) == 0


def test_rates_are_of_the_last_steps_without_the_evaluation(now):
    window = Throughput()
    for step in range(200):
        now.seconds += 2.0 if step < 90 else 0.5
        window.add(samples=16, waited=0.05 * (step + 1), pixels=120 * (step + 1), padding=20 * (step + 1))
        if step == 150:
            now.seconds += 60
            window.pause(60)
    assert window.images_per_second() == pytest.approx(32)
    assert window.data_wait() == pytest.approx(0.1)
    assert window.padding() == pytest.approx(0.2)
    assert window.seconds_per_step() == pytest.approx(0.5)
