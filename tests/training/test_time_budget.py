"""The time budget and the rates of a run, with a fake clock."""

import itertools

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


def run(now, budget, durations, evaluate_every=None, first_wait=10, evaluation=5.0):
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
        if evaluate_every and step % evaluate_every == 0 and left > 0 and budget.has_time_to_evaluate(durations(step)):
            now.seconds += evaluation
            budget.evaluated(evaluation)
    return curve


@pytest.mark.parametrize("slow", [0.2, 0.6, 1.5])
def test_the_schedule_is_linear_in_time_even_after_a_slow_start(now, slow):
    budget = TimeBudget(10**6, deadline=180, eval_share=10, interval=10**6)
    curve = run(now, budget, lambda step: slow if step < 20 else 0.2)
    end = curve[-1][0]
    assert 160 < end <= 180 - time_budget.CLOSING_SECONDS
    assert curve[-1][1] > 0.99
    for seconds, progress in curve:
        assert progress == pytest.approx(seconds / end, abs=0.15)


def test_evaluations_count_towards_the_time_limit(now):
    budget = TimeBudget(10**6, deadline=120, eval_share=10, interval=80)
    curve = run(now, budget, lambda step: 0.25, evaluate_every=80)
    assert 90 < curve[-1][0] <= 120 - time_budget.CLOSING_SECONDS
    # What follows the last evaluation takes six times as long as it.
    now.seconds = 0
    budget = TimeBudget(10**6, deadline=120, eval_share=10, interval=80, trial=6)
    end = run(now, budget, lambda step: 0.25, evaluate_every=80)[-1][0]
    assert 60 < end <= 120 - time_budget.CLOSING_SECONDS - 7 * 5


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("share", [0, 0.33, 0.6])
def test_the_schedule_is_linear_in_time_wherever_evaluations_take_it(now, share, known):
    """Evaluations every 40 seconds of training take a share of the time; `known`: the first guess is right."""
    evaluation = 40 * share / (1 - share)
    budget = TimeBudget(10**6, 1800, eval_share=evaluation / 0.2 / 0.7 if known else 30, interval=200)
    curve = run(now, budget, lambda step: 0.2, evaluate_every=200, first_wait=3, evaluation=evaluation)
    end, last = curve[-1]
    assert end + evaluation == pytest.approx(1800 - time_budget.CLOSING_SECONDS, abs=1)
    assert last > 0.999
    at_half_time = max(progress for seconds, progress in curve if seconds <= end / 2)
    assert at_half_time == pytest.approx(0.5, abs=0.05)
    # The end comes smoothly: no step does much more of the schedule than the mean step.
    steps = [after - before for (_, before), (_, after) in itertools.pairwise(curve)]
    assert max(steps) < 2 / len(steps)


def test_an_evaluation_that_would_leave_too_little_time_for_training_is_left_out(now):
    budget = TimeBudget(10**6, deadline=100, eval_share=1, interval=10)
    budget.evaluated(20)
    # 20 seconds for the evaluation at the end, 20 for this one, and more than 20 for training after it.
    now.seconds = 39 - time_budget.CLOSING_SECONDS
    assert budget.has_time_to_evaluate(0.1)
    now.seconds += 2
    assert not budget.has_time_to_evaluate(0.1)


def test_without_a_time_limit_the_epochs_decide(now):
    assert [TimeBudget(10, None, 1, 5).steps_left(step) for step in (0, 9, 10)] == [10, 1, 0]
    assert TimeBudget(10, 1e9, 1, 5).steps_left(4) == 6


def test_no_steps_are_left_after_the_deadline(now):
    now.seconds = 100
    assert TimeBudget(10**6, deadline=100, eval_share=1, interval=5).steps_left(0) == 0


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
