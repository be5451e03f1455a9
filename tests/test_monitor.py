"""What a stalled run says, and that it says it ever more rarely."""

import pytest

from raycrnn import monitor
from raycrnn.monitor import Doing, Stall


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(monitor.time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_run_that_takes_steps_does_not_stall(clock):
    stall = Stall()
    for step in (None, 1, 2, 3):
        clock.now += 29
        assert not stall.lasts(step)


def test_a_stall_is_told_after_half_a_minute_and_then_ever_more_rarely(clock):
    stall = Stall()
    told = []
    for second in range(1, 301):
        clock.now += 1
        if stall.lasts(7 if second > 5 else None):
            told.append(second - 6)
    assert told == [30, 60, 120, 240]


def test_a_stall_names_what_each_worker_waits_for(clock):
    stall = Stall()
    clock.now += 42
    said = stall.describe({1: Doing("takes step 8", 40.2), 0: Doing("waits for the images of step 9", 41.6)})
    assert said == (
        "no step for 42 seconds: worker 0 waits for the images of step 9 (42 s); worker 1 takes step 8 (40 s)"
    )


@pytest.mark.ray
def test_before_the_workers_were_heard_of_it_names_the_free_cpus(local_ray, clock):
    assert "Ray has not started the workers yet" in Stall().describe({})
