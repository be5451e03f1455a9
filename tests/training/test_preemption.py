"""When workers save a checkpoint because a node or a worker is about to be lost."""

import signal

import pytest
from ray.train import PreemptionInfo

from raycrnn.cluster import ray_internals
from raycrnn.training import collectives, preemption
from raycrnn.training.preemption import PreemptionNotices

START = 1_700_000_000.0


class Lines:
    """A reporter that keeps what is logged."""

    def __init__(self):
        self.lines = []

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def cluster(monkeypatch):
    """The clock and Ray's last notice, which tests change."""

    class State:
        now = START
        notice = None

    monkeypatch.setattr(preemption.time, "time", lambda: State.now)
    monkeypatch.setattr(ray_internals, "preemption_notice", lambda: State.notice)
    return State


def notice(seconds: float | None, rank: int = 1) -> PreemptionInfo:
    return PreemptionInfo(int(1000 * (START + seconds)) if seconds else None, {f"node of {rank}": [rank]})


def seconds_of_saves(cluster, notices: PreemptionNotices, end: int) -> list[int]:
    """Return the seconds since `START` in which a checkpoint is due."""
    found = []
    for second in range(int(cluster.now - START), end):
        cluster.now = START + second
        if notices.save_is_due():
            found.append(second)
            notices.saved()
    return found


def test_without_a_notice_no_checkpoint_is_due(cluster):
    assert seconds_of_saves(cluster, PreemptionNotices(Lines()), 300) == []


def test_a_checkpoint_is_due_at_once_after_a_notice_and_before_its_deadline(cluster):
    notices = PreemptionNotices(Lines())
    assert seconds_of_saves(cluster, notices, 5) == []
    cluster.notice = notice(60)
    assert seconds_of_saves(cluster, notices, 300) == [4, 50]
    assert notices._reporter.lines == ["Ray loses the node of worker 1 in 56 seconds: saving a checkpoint"]


def test_a_checkpoint_is_due_until_it_is_saved(cluster):
    notices = PreemptionNotices(Lines())
    cluster.notice = notice(60)
    assert [notices.save_is_due() for _ in range(3)] == [True] * 3
    notices.saved()
    assert not notices.save_is_due()
    assert len(notices._reporter.lines) == 1


def test_one_checkpoint_is_due_if_the_deadline_is_near(cluster):
    cluster.notice = notice(8)
    assert seconds_of_saves(cluster, PreemptionNotices(Lines()), 300) == [0]


def test_without_a_deadline_the_last_checkpoint_is_due_before_ray_restarts_the_workers(cluster):
    cluster.notice = notice(None)
    assert seconds_of_saves(cluster, PreemptionNotices(Lines()), 300) == [0, 110]


def test_each_notice_has_its_checkpoints(cluster):
    notices = PreemptionNotices(Lines())
    cluster.notice = notice(60)
    assert seconds_of_saves(cluster, notices, 20) == [0]
    cluster.notice = notice(100, rank=2)
    assert seconds_of_saves(cluster, notices, 300) == [19, 90]


def test_only_worker_0_acts_on_a_notice_that_all_workers_get(cluster, monkeypatch):
    monkeypatch.setattr(collectives, "rank", lambda: 1)
    cluster.notice = notice(60)
    assert seconds_of_saves(cluster, PreemptionNotices(Lines()), 300) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_after_sigterm_a_checkpoint_is_due_and_then_the_process_ends(cluster, monkeypatch, rank):
    monkeypatch.setattr(collectives, "rank", lambda: rank)
    before, ends = signal.getsignal(signal.SIGTERM), []
    try:
        signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
        preemption._set_handler()
        notices = PreemptionNotices(Lines())
        assert not notices.save_is_due()
        notices.saved()
        signal.raise_signal(signal.SIGTERM)
        assert (ends, notices.save_is_due(), notices.save_is_due()) == ([], True, True)
        notices.saved()
        assert ends == [True]
        assert notices._reporter.lines == [f"worker {rank} received SIGTERM: it ends after a checkpoint"]
    finally:
        signal.signal(signal.SIGTERM, before)
        preemption.SIGTERM_RECEIVED.clear()


def test_a_second_sigterm_ends_the_process_at_once():
    before, ends = signal.getsignal(signal.SIGTERM), []
    try:
        signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
        preemption._set_handler()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert ends == [True]
    finally:
        signal.signal(signal.SIGTERM, before)
        preemption.SIGTERM_RECEIVED.clear()
