"""Writing to the output directory of a run from its workers."""

import errno
import os
import threading

import pytest
import torch

from raycrnn.errors import StorageError, WriteError
from raycrnn.storage import Directory
from raycrnn.training import collectives
from raycrnn.training.output import RunOutput


class Activities:
    """A reporter that records the activities and warnings of a worker."""

    def __init__(self):
        self.descriptions, self.warnings = [], []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def set_activity(self, description: str) -> None:
        self.descriptions.append(description)


@pytest.fixture
def output(tmp_path):
    return RunOutput(Directory(str(tmp_path)), Activities(), torch.device("cpu"))


def full(*_) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_worker_0_writes_and_reports_what_it_does(output):
    output.write("numbers", lambda: (output.path / "numbers").write_text("1 2"), step=7)
    assert (output.path / "numbers").read_text() == "1 2"
    assert output._reporter.descriptions == ["writing numbers, or waiting for worker 0 to write it"]


def test_a_worker_whose_storage_fails_does_not_leave_the_others_waiting(output, monkeypatch):
    gathered = []

    def gather(problem: str | None) -> list[str | None]:
        gathered.append(problem)
        return [problem, "s3://bucket: cannot be read: access denied"]

    monkeypatch.setattr(collectives, "gather", gather)
    with pytest.raises(StorageError, match="access denied"):
        output.fetch("checkpoints")

    def fail(*_) -> None:
        raise StorageError("s3://bucket: cannot be read: time-out")

    monkeypatch.setattr(output.directory, "fetch", fail)
    with pytest.raises(StorageError, match="time-out"):
        output.fetch("checkpoints")
    assert gathered == [None, "s3://bucket: cannot be read: time-out"]


def test_other_workers_write_nothing(output, monkeypatch):
    monkeypatch.setattr(collectives, "rank", lambda: 1)
    output.write("numbers", full, step=7)
    assert not output.has_failed


def test_a_full_disk_is_reported_with_the_name_the_step_and_the_remedy(output):
    with pytest.raises(
        WriteError, match=r"/model: cannot be written at step 7: No space.*restore_model=true"
    ) as raised:
        output.write("model", full, step=7)
    assert str(output.path) in str(raised.value)


def test_other_workers_fail_with_worker_0(output, monkeypatch):
    monkeypatch.setattr(collectives, "rank", lambda: 1)
    # The sum over the workers: worker 0 has a problem.
    monkeypatch.setattr(collectives, "from_worker_0", lambda number, device: 1)
    with pytest.raises(WriteError, match="/model: cannot be written at step 7"):
        output.write("model", lambda: None, step=7)


class Disk:
    """A disk that writes when it is told to."""

    def __init__(self, error: Exception | None = None):
        self.is_ready, self.error, self.writes = threading.Event(), error, 0

    def write(self) -> None:
        assert self.is_ready.wait(60)
        self.writes += 1
        if self.error:
            raise self.error


def test_a_write_waits_for_the_one_in_the_background(output):
    disk, order = Disk(), []
    output.write_in_background("first", disk.write, step=7)
    assert output.is_writing
    threading.Timer(0.1, disk.is_ready.set).start()
    output.write("second", lambda: order.append(disk.writes), step=8)
    assert order == [1]
    assert not output.is_writing


def test_a_second_write_in_the_background_waits_for_the_first(output):
    disk = Disk()
    output.write_in_background("first", disk.write, step=7)
    threading.Timer(0.1, disk.is_ready.set).start()
    output.write_in_background("second", disk.write, step=8)
    assert disk.writes >= 1
    output.close()
    assert disk.writes == 2


def test_an_error_in_the_background_is_known_at_the_next_step_and_raised_on_all_workers(output):
    disk = Disk(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    output.write_in_background("checkpoints", disk.write, step=7)
    assert not output.has_failed
    disk.is_ready.set()
    output._wait()
    assert output.has_failed
    with pytest.raises(WriteError, match=r"/checkpoints: cannot be written at step 7: No space.*restore_model=true"):
        output.raise_failure("checkpoints", step=9)
    with pytest.raises(WriteError, match="/checkpoints: cannot be written at step 9 by worker 0"):
        output.raise_failure("checkpoints", step=9)


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), ValueError("a defect")])
def test_an_error_in_the_background_is_raised_by_the_next_write(output, error):
    disk, written = Disk(error), []
    disk.is_ready.set()
    output.write_in_background("checkpoints", disk.write, step=7)
    with pytest.raises(WriteError if isinstance(error, OSError) else ValueError, match=r"step 7|a defect"):
        output.write("model", lambda: written.append(True), step=8)
    assert not written
    output.write("model", lambda: written.append(True), step=8)
    assert written


def test_an_error_in_the_background_is_reported_if_the_run_ends_with_another_one(output):
    output.write_in_background("checkpoints", full, step=7)
    output.close()
    assert ["cannot be written at step 7" in warning for warning in output._reporter.warnings] == [True]
