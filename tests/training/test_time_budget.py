"""The time budget and the rates of a run, with a fake clock."""

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


def run(now, budget, durations, evaluate_every=None, first_wait=10):
    """Take steps until none is left; return the times and the progress of the schedule, as in `Learner.train_step`."""
    progress, step, curve = 0.0, 0, []
    left = budget.steps_left(0)
    now.seconds += first_wait
    while left > 0:
        now.seconds += durations(step)
        step += 1
        progress += (1 - progress) / max(1, left)
        curve.append((now.seconds, progress))
        left = budget.steps_left(step)
        if evaluate_every and step % evaluate_every == 0 and left > 0:
            now.seconds += 5
            budget.evaluated(5)
    return curve


@pytest.mark.parametrize("slow", [0.2, 0.6, 1.5])
def test_the_schedule_is_linear_in_time_even_after_a_slow_start(now, slow):
    budget = TimeBudget(10**6, deadline=180, eval_share=10)
    curve = run(now, budget, lambda step: slow if step < 20 else 0.2)
    end = curve[-1][0]
    assert 160 < end <= 180 - time_budget.CLOSING_SECONDS
    assert curve[-1][1] > 0.99
    for seconds, progress in curve:
        assert progress == pytest.approx(seconds / end, abs=0.15)


def test_evaluations_count_towards_the_time_limit(now):
    budget = TimeBudget(10**6, deadline=120, eval_share=10)
    curve = run(now, budget, lambda step: 0.25, evaluate_every=80)
    assert 90 < curve[-1][0] <= 120 - time_budget.CLOSING_SECONDS


def test_without_a_time_limit_the_epochs_decide(now):
    assert [TimeBudget(10, None, 1).steps_left(step) for step in (0, 9, 10)] == [10, 1, 0]
    assert TimeBudget(10, 1e9, 1).steps_left(4) == 6


def test_no_steps_are_left_after_the_deadline(now):
    now.seconds = 100
    assert TimeBudget(10**6, deadline=100, eval_share=1).steps_left(0) == 0


def test_rates_describe_the_last_steps_without_evaluations(now):
    throughput = Throughput()
    for step in range(200):
        now.seconds += 2.0 if step < 90 else 0.5
        throughput.add(samples=16, waited=0.05 * (step + 1), pixels=120 * (step + 1), padding=20 * (step + 1))
        if step == 150:
            now.seconds += 60
            throughput.pause(60)
    assert throughput.images_per_second() == pytest.approx(32)
    assert throughput.data_wait() == pytest.approx(0.1)
    assert throughput.padding() == pytest.approx(0.2)
    assert throughput.seconds_per_step() == pytest.approx(0.5)
