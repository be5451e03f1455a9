"""What a stalled run says, and that it says it ever more rarely."""

import pytest

from raycrnn.cluster import allocate
from raycrnn.config import Cluster
from raycrnn.training import monitor
from raycrnn.training.console import Stall, describe_loss
from raycrnn.training.monitor import WorkerActivity


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
    said = stall.describe(
        {1: WorkerActivity("computing step 8", 40.2), 0: WorkerActivity("waiting for the images of step 9", 41.6)}
    )
    assert said == (
        "no step for 42 seconds: worker 0: waiting for the images of step 9 (42 s); worker 1: computing step 8 (40 s)"
    )


@pytest.mark.ray
def test_before_the_workers_were_heard_of_it_names_the_free_cpus(local_ray, clock):
    assert "Ray has not started the workers yet" in Stall().describe({})


CPU, GPU, HEAD = (4.0, 0.0), (8.0, 1.0), (0.0, 0.0)


@pytest.mark.parametrize(
    ("before", "now", "there"),
    [
        ([CPU, CPU], [CPU], "1 of the 2 nodes"),
        ([HEAD, GPU, GPU, CPU], [CPU, HEAD], "2 of the 4 nodes"),
        # Another came, of a kind that cannot stand in.
        ([HEAD, GPU, GPU], [CPU, GPU, HEAD], "2 of the 3 nodes"),
    ],
)
def test_a_stall_tells_how_many_nodes_are_gone(before, now, there):
    found = describe_loss(before, now, None)
    assert found == f"; the cluster has {there} that were there at the start: see `ray status`"


@pytest.mark.parametrize("now", [[CPU, GPU], [GPU, CPU], [CPU, CPU, GPU]])
def test_where_all_nodes_are_there_or_like_ones_nothing_is_added(now):
    assert describe_loss([CPU, GPU], now, None) == ""


def test_workers_that_ray_has_not_started_wait_for_the_room_of_what_is_gone():
    two = allocate(Cluster(num_workers=2), None, [CPU, CPU])
    assert describe_loss([CPU, CPU], [CPU], two).endswith("and 2 worker(s) of 3.6 CPUs wait for room: see `ray status`")
    one_or_two = allocate(Cluster(num_workers=(1, 2)), None, [GPU, GPU])
    assert "at least 1 worker(s) of 1 CPUs and a GPU wait" in describe_loss([GPU, GPU], [CPU], one_or_two)
