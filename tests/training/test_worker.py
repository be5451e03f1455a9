"""The loop of a worker, without Ray: its steps, evaluations, checkpoints, and how it stops."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from raycrnn import config
from raycrnn.config import Training
from raycrnn.data.alphabet import Alphabet
from raycrnn.errors import StorageError, WriteError
from raycrnn.model.batch import Batch
from raycrnn.training import checkpoint, collectives, evaluator, run_log, worker
from raycrnn.training.initial_model import InitialModel
from raycrnn.training.learner import Learner
from raycrnn.training.worker import Worker
from tests.conftest import words
from tests.training.test_learner import ALPHABET, CPU, SMALL, make_batch, network

BATCHES_PER_EPOCH = 4

FROM_A_MODEL = {"initial_model": "model", "initial_model_sha256": "0"}
"""The settings of a run that starts from a model."""

EVALUATION = make_batch(words(8, 99))

BATCHES = [make_batch(words(2, seed)) for seed in range(3 * BATCHES_PER_EPOCH)]


class Reporter:
    """The worker's side of a monitor, without the monitor."""

    def __init__(self) -> None:
        self.stop_requested = False
        self.evaluated: list[dict] = []
        self.ended: dict = {}

    def set_activity(self, description: str) -> None: ...

    def log(self, text: str, level: int = logging.INFO) -> None: ...

    def progress(self, make: Callable[[], object]) -> None:
        make()

    def check_stop(self) -> bool:
        return self.stop_requested

    def evaluation(self, record: dict) -> None:
        self.evaluated.append(record)

    def result(self, result: dict) -> None:
        self.ended = result


class Stream:
    """Batches from memory."""

    waited, pixels, padding, problem = 0.0, 1, 0, None

    def __init__(self, first: int, stop: int, before_batch: Callable[[int], None]):
        self.rejected: dict = {}
        self._numbers, self._before_batch = range(first, stop), before_batch

    def __iter__(self) -> Iterator[Batch]:
        for number in self._numbers:
            self._before_batch(number)
            yield BATCHES[number]


class EvaluationStream:
    """The evaluation batch from memory."""

    problem = None

    def __init__(self) -> None:
        self.rejected: dict = {}

    def __iter__(self) -> Iterator[Batch]:
        yield EVALUATION


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Train in a folder of the test, and return the reporter and the last checkpoint."""

    def train(
        name: str,
        before_batch: Callable[[Reporter, int], None] = lambda *_: None,
        model: InitialModel | None = None,
        eval_rows: int = 0,
        is_trial: bool = False,
        **settings: object,
    ) -> tuple[Reporter, checkpoint.Checkpoint]:
        reporter, output = Reporter(), tmp_path / name
        configuration = config.parse(
            {
                "data": {"csv_files_train": ["train.csv"]},
                "decoding": {"language_model": None},
                "model": {"cnn_channels": SMALL, "lstm_size": 32},
                "training": {"n_epochs": 3, "precision": "fp32", **settings},
            }
        )
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        spec = SimpleNamespace(batches_per_epoch=BATCHES_PER_EPOCH)
        monkeypatch.setattr(worker, "train_batch_spec", lambda *_: spec)
        monkeypatch.setattr(
            worker,
            "BatchStream",
            lambda spec, allocation, first, stop, **_: Stream(
                first, stop, lambda number: before_batch(reporter, number)
            ),
        )
        monkeypatch.setattr(evaluator, "open_eval_stream", lambda _: EvaluationStream())
        job = make_job(configuration, output, model, eval_rows)
        job.counts_all_minutes = is_trial
        Worker(job, reporter, CPU, None).run()
        return reporter, checkpoint.latest(output / "checkpoints")[0]

    return train


def make_job(
    configuration: config.Configuration, output: Path, initial_model: InitialModel | None, eval_rows: int = 0
) -> SimpleNamespace:
    """Return the parts of a job that a worker without Ray needs."""
    samples = SimpleNamespace(rows=len(BATCHES), usable=len(BATCHES), rejections=())
    evaluation = SimpleNamespace(rows=eval_rows, usable=eval_rows, rejections=()) if eval_rows else None
    data = SimpleNamespace(
        alphabet=ALPHABET,
        train=samples,
        eval=evaluation,
        sets={"train": samples} | ({"eval": evaluation} if evaluation else {}),
        csv_digests={},
        csv_row_digests={},
        lexicon=None,
    )
    return SimpleNamespace(
        configuration=configuration,
        data=data,
        output=str(output),
        owner=None,
        allocation=SimpleNamespace(threads=torch.get_num_threads()),
        started=time.time(),
        counts_all_minutes=False,
        taken_over=None,
        trains_on=False,
        exchanges_weights=False,
        initial_model=initial_model,
        language_model=None,
    )


def test_all_steps_are_taken_and_read_before_each_evaluation_and_checkpoint(train):
    reporter, last = train("all", save_interval=5)
    assert [(record["step"], record["epoch"]) for record in reporter.evaluated] == [(4, 1), (8, 2), (12, 3)]
    assert reporter.ended["steps"] == 12
    assert last.state["progress"]["step"] == 12
    assert last.state["progress"]["schedule"] == pytest.approx(1)
    assert last.tensors["optimizer.0.step"] == 12


@pytest.mark.parametrize(("asked_before", "stopped_at"), [(6, 7), (8, 8)])
def test_a_request_to_stop_acts_at_most_one_step_later_and_the_run_resumes_with_the_same_weights(
    train, asked_before, stopped_at
):
    """Results are read at once before an evaluation, else after the next step has been queued."""

    def ask(reporter: Reporter, number: int) -> None:
        reporter.stop_requested = number + 1 >= asked_before

    reporter, stopped = train("stopped", ask)
    assert reporter.ended == {"stopped": stopped_at}
    assert stopped.state["progress"]["step"] == stopped_at == stopped.tensors["optimizer.0.step"]
    _, resumed = train("stopped")
    _, straight = train("straight")
    for name, tensor in straight.tensors.items():
        assert tensor.equal(resumed.tensors[name]), name
    assert resumed.state["progress"] == straight.state["progress"]


def test_a_run_that_started_from_a_model_resumes_from_its_checkpoint_without_the_model(train, tmp_path):
    def ask(reporter: Reporter, number: int) -> None:
        reporter.stop_requested = number + 1 >= 6

    settings = {**FROM_A_MODEL, "initial_layers_rate": 0.5, "frozen_convolutions": 2}
    own = config.parse({"data": {"csv_files_train": "old.csv"}})
    weights = safetensors.torch.save(network(seed=5).state_dict())
    # The model has the units in another order.
    initial = InitialModel("model", own, Alphabet(ALPHABET.units[::-1]), "", weights)
    train("stopped", ask, initial, **settings)
    _, resumed = train("stopped", **settings)
    _, straight = train("straight", model=initial, **settings)
    assert resumed.state["progress"] == straight.state["progress"]
    assert resumed.tensors.keys() == straight.tensors.keys()
    for name, tensor in straight.tensors.items():
        assert tensor.equal(resumed.tensors[name]), name
    kernel = "convolutions.1.convolution.weight"
    assert straight.tensors[f"network.{kernel}"].equal(network(seed=5).state_dict()[kernel])


def initial_model(weights: dict[str, torch.Tensor]) -> InitialModel:
    """Return a model of the alphabet with these weights."""
    own = config.parse({"data": {"csv_files_train": "old.csv"}})
    return InitialModel("model", own, ALPHABET, "", safetensors.torch.save(weights))


@pytest.fixture(scope="module")
def learnt() -> dict[str, torch.Tensor]:
    """The weights of a network that has learnt the evaluation rows."""
    learner = Learner(network(seed=5), Training(learning_rate=3e-3, precision="fp32"), CPU)
    for step in range(100):
        learner.train_step(EVALUATION, 100 - step)
    return {name: tensor.contiguous() for name, tensor in learner.network.state_dict().items()}


WORSE = {**FROM_A_MODEL, "learning_rate": 3e-2}
"""Settings with which training makes that network worse."""


def test_a_model_is_evaluated_before_it_is_trained_on_and_kept_if_training_makes_it_worse(train, tmp_path, learnt):
    # The evaluations after the first one do not count as ones without improvement.
    reporter, last = train("model", model=initial_model(learnt), eval_rows=8, early_stopping=1, **WORSE)
    assert [record["step"] for record in reporter.evaluated] == [0, 4, 8, 12]
    first, *later = reporter.evaluated
    assert first["cer"] < min(record["cer"] for record in later)
    assert [record["best"] for record in reporter.evaluated] == [True, False, False, False]
    scores = {name: first[name] for name in ("cer", "wer", "accuracy", "loss")}
    assert reporter.ended["best"] == last.state["progress"]["best"] == {**scores, "epoch": 0, "step": 0}
    kept = safetensors.torch.load_file(tmp_path / "model" / "model" / "model.safetensors")
    assert all(kept[name].equal(tensor) for name, tensor in learnt.items())


def test_a_run_that_is_stopped_while_it_evaluates_its_model_evaluates_it_when_it_is_resumed(train, monkeypatch, learnt):
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "check_stop", lambda _: True)
        stopped, last = train("run", model=initial_model(learnt), eval_rows=8, **WORSE)
    assert stopped.ended == {"stopped": 0} and not stopped.evaluated
    assert last.state["progress"]["step"] == 0
    resumed, _ = train("run", eval_rows=8, **WORSE)
    assert [record["step"] for record in resumed.evaluated] == [0, 4, 8, 12]
    assert resumed.ended["best"]["step"] == 0


@pytest.mark.parametrize(
    ("eval_rows", "settings", "is_trial", "steps"),
    [
        (len(BATCHES), {**FROM_A_MODEL, "max_minutes": 99.0}, False, [0, 4, 8, 12]),
        (len(BATCHES) + 1, {**FROM_A_MODEL, "max_minutes": 99.0}, False, [4, 8, 12]),
        (len(BATCHES) + 1, FROM_A_MODEL, False, [0, 4, 8, 12]),
        (8, FROM_A_MODEL, True, [4, 8, 12]),
        (0, FROM_A_MODEL, False, [4, 8, 12]),
        (8, {}, False, [4, 8, 12]),
    ],
)
def test_random_weights_are_not_evaluated_before_the_first_step_nor_a_model_if_that_takes_too_long(
    train, eval_rows, settings, is_trial, steps
):
    initial = initial_model(network().state_dict()) if settings else None
    reporter, _ = train("run", model=initial, eval_rows=eval_rows, is_trial=is_trial, **settings)
    assert [record["step"] for record in reporter.evaluated] == steps


def test_a_failure_to_write_the_logs_ends_the_run_with_the_reason(train, monkeypatch):
    monkeypatch.setattr(run_log, "STEPS_BETWEEN_SCALARS", 2)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_log.RunLog, "scalars", fail)
    with pytest.raises(WriteError, match="No space left on device"):
        train("full")


def test_only_the_checkpoint_of_another_run_has_no_best_model_of_this_one(train, tmp_path):
    _, last = train("donor")
    job = make_job(config.parse({"data": {"csv_files_train": ["train.csv"]}}), tmp_path, None)
    assert worker.restored_progress(job, last, BATCHES_PER_EPOCH).best["step"] == 12
    job.taken_over = last.path.name
    assert worker.restored_progress(job, last, BATCHES_PER_EPOCH).best == {}
    # A worker of this run has died after a checkpoint of its own.
    job.taken_over = "step_00000008"
    assert worker.restored_progress(job, last, BATCHES_PER_EPOCH).best["step"] == 12


def test_all_workers_end_if_the_storage_of_one_fails(monkeypatch):
    collectives.raise_if_storage_failed(None)
    monkeypatch.setattr(collectives, "gather", lambda problem: [problem, "s3://lines/a.png: SLOW_DOWN"])
    with pytest.raises(StorageError, match=r"a\.png: SLOW_DOWN.*restore_model=true"):
        collectives.raise_if_storage_failed(None)
