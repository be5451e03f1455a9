"""Messages about stalled runs and how often they appear; when training may go on after an evaluation."""

import pytest

from raycrnn.cluster import allocate
from raycrnn.config import Cluster
from raycrnn.training import monitor
from raycrnn.training.console import Stall, TrainingProgress, describe_loss
from raycrnn.training.monitor import Monitor, WorkerActivity


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


def test_a_stall_is_reported_after_30_seconds_and_then_less_often(clock):
    stall = Stall()
    reported = []
    for second in range(1, 301):
        clock.now += 1
        if stall.lasts(7 if second > 5 else None):
            reported.append(second - 6)
    assert reported == [30, 60, 120, 240]


def test_a_stall_message_says_what_each_worker_is_doing(clock):
    stall = Stall()
    clock.now += 42
    message = stall.describe(
        {1: WorkerActivity("computing step 8", 40.2), 0: WorkerActivity("waiting for the images of step 9", 41.6)}
    )
    assert message == (
        "no step for 42 seconds: worker 0: waiting for the images of step 9 (42 s); worker 1: computing step 8 (40 s)"
    )


@pytest.mark.ray
def test_without_heartbeats_a_stall_message_says_that_no_worker_has_started(local_ray, clock):
    assert "Ray has not started the workers yet" in Stall().describe({})


def test_without_a_terminal_progress_is_a_plain_line_every_30_seconds_with_steps(clock, capsys):
    progress = TrainingProgress()
    for second in range(200):
        clock.now += 1
        # No step between second 100 and 150, as in an evaluation; then its line.
        step = second if second < 100 else max(100, second - 50)
        if second == 150:
            progress.restart_timer()
        report = {"epoch": "1.5", "step": step, "share": 0.25, "loss": 2.5, "images_per_second": 9, "seconds_left": 75}
        progress.show(report)
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "epoch 1.5 step 30 · 25 % · loss 2.500 · 9 img/s · 01:15 left"
    assert [line.split()[3] for line in lines] == ["30", "61", "92", "100", "131"]


CPU, GPU, HEAD = (4.0, 0.0), (8.0, 1.0), (0.0, 0.0)


@pytest.mark.parametrize(
    ("before", "now", "lost"),
    [
        ([CPU, CPU], [CPU], "1 of its 2 nodes"),
        ([HEAD, GPU, GPU, CPU], [CPU, HEAD], "2 of its 4 nodes"),
        # A node without a GPU does not replace one with a GPU.
        ([HEAD, GPU, GPU], [CPU, GPU, HEAD], "1 of its 3 nodes"),
    ],
)
def test_a_stall_message_counts_the_lost_nodes(before, now, lost):
    message = describe_loss(before, now, None)
    assert message == f"; the cluster has lost {lost} since the start: see `ray status`"


@pytest.mark.parametrize("now", [[CPU, GPU], [GPU, CPU], [CPU, CPU, GPU]])
def test_replaced_nodes_are_not_reported_as_lost(now):
    assert describe_loss([CPU, GPU], now, None) == ""


def test_a_loss_names_the_resources_that_missing_workers_wait_for():
    two = allocate(Cluster(num_workers=2), None, [CPU, CPU])
    assert describe_loss([CPU, CPU], [CPU], two).endswith(
        "and 2 worker(s) that need 3.6 CPUs each wait for free resources: see `ray status`"
    )
    one_or_two = allocate(Cluster(num_workers=(1, 2)), None, [GPU, GPU])
    assert "at least 1 worker(s) that need 1 CPUs and a GPU each wait" in describe_loss([GPU, GPU], [CPU], one_or_two)


def test_training_goes_on_when_the_search_has_decided_about_all_evaluations_or_stops_it():
    monitor = Monitor()
    assert monitor.may_go_on()
    for _ in range(2):
        monitor.post(evaluation={"loss": 1.0})
    monitor.judge()
    assert not monitor.may_go_on()
    monitor.judge()
    assert monitor.may_go_on()
    monitor.post(evaluation={"loss": 1.0})
    monitor.stop()
    assert monitor.may_go_on()
