"""Writing to the output directory of a run from its workers."""

import errno
import os

import pytest
import torch

from raycrnn.errors import StorageError, WriteError
from raycrnn.storage import Directory
from raycrnn.training import collectives
from raycrnn.training.output import RunOutput


class Activities:
    """A reporter that records the activities of a worker."""

    def __init__(self):
        self.descriptions = []

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
