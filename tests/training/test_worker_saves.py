"""When a training worker saves checkpoints, with batches that need no cluster."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from raycrnn import config
from raycrnn.model.batch import Batch
from raycrnn.training import checkpoint, worker
from tests.conftest import words
from tests.training.test_learner import ALPHABET, CPU, make_batch

STEPS = 12


class Notices:
    """Notices of which one comes before step 5."""

    def __init__(self, reporter):
        self.asked, self.saves = 0, 0

    def save_is_due(self) -> bool:
        self.asked += 1
        return self.asked >= 5 and not self.saves

    def saved(self) -> None:
        self.saves += 1


class Batches:
    """A stream of equal batches."""

    rejected, waited, pixels, padding, problem = {}, 0.0, 1, 0, None

    def __iter__(self) -> Iterator[Batch]:
        yield from [make_batch(words(2))] * STEPS


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that trains for `STEPS` steps and returns the steps of the checkpoints."""

    def run(report_metrics=None, **training) -> list[int]:
        configuration = config.parse(
            {
                "data": {"csv_files_train": "labels.csv"},
                "model": {"cnn_channels": [8, 16, 32, 32, 48, 48, 48], "lstm_size": 32},
                "training": {"precision": "fp32", "n_epochs": 1, **training},
            }
        )
        data = SimpleNamespace(
            alphabet=ALPHABET, train=None, eval=None, sets={}, csv_digests={}, csv_row_digests={}, lexicon=None
        )
        job = SimpleNamespace(
            configuration=configuration,
            data=data,
            output=str(tmp_path),
            owner=None,
            allocation=SimpleNamespace(threads=1),
            started=time.time(),
            exchanges_weights=False,
            counts_all_minutes=False,
            trains_on=False,
            taken_over=None,
            initial_model=None,
            language_model=None,
        )
        saved, save = [], checkpoint.save

        def record(folder, step, state, tensors) -> None:
            saved.append(step)
            save(folder, step, state, tensors)

        monkeypatch.setattr(checkpoint, "save", record)
        monkeypatch.setattr(worker, "PreemptionNotices", Notices)
        monkeypatch.setattr(worker, "BatchStream", lambda *_, **__: Batches())
        monkeypatch.setattr(worker, "train_batch_spec", lambda *_: SimpleNamespace(batches_per_epoch=STEPS))
        reporter = Mock(stop_requested=False, check_stop=lambda: False)
        worker.Worker(job, reporter, CPU, report_metrics).run()
        assert reporter.result.call_args.args[0]["steps"] == STEPS
        return saved

    return run


def test_a_notice_causes_one_checkpoint_at_the_next_step(run):
    steps = run(report_metrics=lambda metrics: None)
    # The result of a step may be read after the next one was started.
    assert steps[0] in (5, 6)
    assert set(steps[1:]) == {STEPS}


def test_a_process_that_is_not_a_worker_of_ray_train_gets_no_notices(run):
    assert set(run()) == {STEPS}


def test_checkpoints_are_written_at_each_multiple_of_the_interval(run):
    steps = run(save_interval=5)
    assert steps[:2] == [5, 10]
    assert set(steps[2:]) == {STEPS}


def test_checkpoints_are_written_by_time(run):
    assert set(run(save_minutes=1e-9)) > {STEPS}
