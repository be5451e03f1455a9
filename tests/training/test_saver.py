"""When checkpoints are due, and that one in the background has the state of its step and does not stop training."""

import threading
from types import SimpleNamespace

import pytest
import torch

from raycrnn.config import Training
from raycrnn.storage import Directory
from raycrnn.training import checkpoint, collectives, saver
from raycrnn.training.learner import Learner
from raycrnn.training.output import RunOutput
from raycrnn.training.saver import CheckpointSaver
from tests.conftest import words
from tests.training.test_learner import CPU, make_batch, network
from tests.training.test_output import Activities


class Run:
    """A run with a learner, an output directory and a clock."""

    def __init__(self, folder, monkeypatch, **settings):
        self.learner = Learner(network(), Training(precision="fp32", **settings), CPU)
        self.output = RunOutput(Directory(str(folder)), Activities(), CPU)
        self.now = 1000.0
        monkeypatch.setattr(saver.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(saver.time, "time", lambda: self.now)
        monkeypatch.setattr(
            checkpoint,
            "make_state",
            lambda job, progress, seconds, rejected: {"progress": dict(vars(progress)), "seconds": seconds},
        )
        job = SimpleNamespace(started=1000.0, configuration=SimpleNamespace(training=self.learner.settings))
        self.saver = CheckpointSaver(job, self.output, self.learner, None, 40.0, None)

    def step(self) -> None:
        self.learner.train_step(make_batch(words(2)), 10)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.learner.state_tensors().items()}

    def saved(self) -> checkpoint.Checkpoint:
        found, problems = checkpoint.latest(self.output.path / "checkpoints")
        assert not problems
        return found


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    return lambda **settings: Run(tmp_path, monkeypatch, **settings)


def test_a_checkpoint_is_due_some_minutes_after_the_last_one(make_run):
    run, due = make_run(save_minutes=2), []
    for second in range(0, 400, 10):
        run.now = 1000.0 + second
        if run.saver.is_due_by_time():
            due.append(second)
            run.saver.save()
    assert due == [130, 260, 390]


def test_after_an_evaluation_a_checkpoint_is_due_unless_there_is_a_recent_one(make_run):
    run = make_run()
    assert run.saver.is_due_after_evaluation()
    run.saver.save()
    assert not run.saver.is_due_after_evaluation()
    run.now += 31
    assert run.saver.is_due_after_evaluation()


def test_a_notice_makes_all_workers_save_and_is_told_that_they_have(make_run):
    calls = []
    run = make_run()
    notices = SimpleNamespace(save_is_due=lambda: True, saved=lambda: calls.append(run.saved().path.name))
    assert not run.saver.is_due_at_once()
    run.saver._notices = notices
    assert run.saver.is_due_at_once()
    run.step()
    run.saver.save()
    assert calls == ["step_00000001"]


def test_a_step_is_saved_in_the_background_once_and_again_after_its_evaluation(make_run, monkeypatch):
    run, saves = make_run(), []
    monkeypatch.setattr(checkpoint, "save", lambda folder, step, state, tensors: saves.append(state["progress"]))
    run.step()
    run.saver.save()
    run.saver.save_in_background()
    run.learner.progress.evaluated_at = 1
    for _ in range(2):
        run.saver.save_in_background()
    run.output.close()
    assert [(progress["step"], progress["evaluated_at"]) for progress in saves] == [(1, -1), (1, 1)]


def test_only_worker_0_saves_in_the_background(make_run, monkeypatch):
    run = make_run()
    monkeypatch.setattr(collectives, "rank", lambda: 1)
    run.saver.save_in_background()
    run.output.close()
    assert run.saved() is None


@pytest.mark.parametrize("optimizer", ["adamw", "ada"])
def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(make_run, monkeypatch, optimizer):
    run, disk_is_ready, save = make_run(optimizer=optimizer), threading.Event(), checkpoint.save

    def save_slowly(*arguments) -> None:
        assert disk_is_ready.wait(60)
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", save_slowly)
    run.step()
    expected = run.tensors()
    run.saver.save_in_background()
    for _ in range(3):
        run.step()
    assert run.output.is_writing
    run.now += 10_000
    assert not run.saver.is_due_by_time(), "a second one would have to wait for the first"
    disk_is_ready.set()
    run.output.close()
    found = run.saved()
    assert found.state["seconds"] == {"command": 1000.0, "earlier": 40.0, "all": 40.0}
    assert found.state["progress"]["step"] == 1
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found.tensors[name], tensor), name
        assert name.endswith("num_batches_tracked") or not torch.equal(run.tensors()[name], tensor), name
