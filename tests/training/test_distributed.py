"""Several workers compute the same gradients, statistics and scores as one, and wait for each other equally often."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import astuple
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raycrnn.bench.host_reads import HostReads
from raycrnn.config import Data, Training
from raycrnn.data.rejections import Rejection
from raycrnn.model.batch import Batch
from raycrnn.training import validation
from raycrnn.training.learner import Learner, StepSignals
from raycrnn.training.rejected_samples import RejectedSamples
from tests.conftest import words
from tests.devices import DEVICES
from tests.training.test_learner import ALPHABET, CPU, EMPTY, make_batch, network

LABELS = words(10)

SETS = {"all rows": LABELS, "uneven shares": LABELS[:3], "empty shares": LABELS[:1]}

FROM_A_MODEL = {
    "initial_model": "model",
    "initial_model_sha256": "0",
    "frozen_convolutions": 3,
    "initial_layers_rate": 0.5,
}


def share(labels: list[str], rank: int, world_size: int) -> Batch:
    own = labels[rank::world_size]
    return make_batch(own) if own else EMPTY


def step_and_evaluate(
    rank: int, world_size: int, labels: list[str], device: torch.device = CPU, settings: dict | None = None
) -> dict:
    """Take one training step and one evaluation as a worker, and return the results."""
    torch.backends.cudnn.allow_tf32 = False
    learner = Learner(network(), Training(precision="fp32", gradient_clip=None, **settings or {}), device)
    batch = share(labels, rank, world_size)
    signals = StepSignals(stop=rank == 1, steps_left=7 * (rank == 0), read_failed=rank == 1, save=rank == 1)
    with HostReads() as reads:
        learner.queue_step(batch, 10, signals=signals)
    step = learner.read_step()
    evaluation = validation.evaluate(learner.network, [batch], ALPHABET, "fp32", device)
    # Every worker learns that one of them was asked to stop.
    assert validation.evaluate(learner.network, [batch], ALPHABET, "fp32", device, lambda: rank == 0) is None
    return {
        "gradients": {name: p.grad.cpu() for name, p in learner.network.named_parameters() if p.grad is not None},
        "buffers": {name: buffer.cpu() for name, buffer in learner.network.named_buffers()},
        "reads": reads.count,
        "loss": step.loss,
        "signals": astuple(step.signals),
        "counts": evaluation.counts.as_tuple(),
        "eval_loss": evaluation.loss,
    }


def save_results(rank: int, world_size: int, folder: str, backend: str) -> None:
    """Save the results of each of `SETS` as a worker, with nccl on a GPU of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", FutureWarning)
    device = torch.device("cuda", rank) if backend == "nccl" else CPU
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    results = {name: step_and_evaluate(rank, world_size, labels, device) for name, labels in SETS.items()}
    results["from a model"] = step_and_evaluate(rank, world_size, LABELS, device, FROM_A_MODEL)
    torch.save(results, f"{folder}/{rank} of {world_size}.pt")
    leave()


def leave() -> None:
    """End a worker process."""
    # gloo aborts a worker if another one leaves while they communicate.
    dist.barrier()
    dist.destroy_process_group()
    # A normal exit sometimes aborts the process, because threads of torch are still running.
    os._exit(0)


TWO_GPUS = pytest.param(
    (2, "nccl"),
    marks=[pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")],
    id="two GPUs",
)

WORKERS = [
    pytest.param((2, "gloo"), id="two workers", marks=pytest.mark.extended),
    pytest.param((3, "gloo"), id="three workers"),
    TWO_GPUS,
]


@pytest.fixture(scope="module", params=WORKERS)
def workers(request, tmp_path_factory) -> list[dict]:
    """The results of each worker, by the name of the set or of the settings."""
    folder = tmp_path_factory.mktemp("workers")
    count, backend = request.param
    mp.spawn(save_results, (count, str(folder), backend), nprocs=count)
    return [torch.load(folder / f"{rank} of {count}.pt", weights_only=True) for rank in range(count)]


@pytest.mark.parametrize("name", SETS)
def test_several_workers_compute_the_gradients_statistics_and_scores_of_one(workers, name):
    one, several = step_and_evaluate(0, 1, SETS[name]), [worker[name] for worker in workers]
    for worker in several:
        assert worker["reads"] == 0
        assert_same_results(worker, one)
        for key in one["buffers"]:
            assert torch.equal(worker["buffers"][key], several[0]["buffers"][key]), key
        assert worker["signals"] == (True, 7, False, False, False, True, True, False)
        assert worker["counts"][0] == one["counts"][0] == len(SETS[name])
        assert worker["counts"][3] == one["counts"][3] == sum(map(len, SETS[name]))


def test_several_workers_leave_the_same_convolutions_frozen(workers):
    one = step_and_evaluate(0, 1, LABELS, CPU, FROM_A_MODEL)
    trained = {name.rpartition(".")[0] for name in one["gradients"] if name.startswith("convolutions.")}
    assert trained == {
        *(f"convolutions.{index}.convolution" for index in (3, 4, 5, 6)),
        *(f"convolutions.{index}.norm" for index in (4, 6)),
    }
    for worker in workers:
        assert worker["from a model"]["gradients"].keys() == one["gradients"].keys()
        assert_same_results(worker["from a model"], one)


def assert_same_results(found: dict, expected: dict, gradient_error: float = 3e-5) -> None:
    """Compare the results of a step and an evaluation; float32 rounds sums over parts of a batch differently."""
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-4)
    for key, gradient in expected["gradients"].items():
        assert (found["gradients"][key] - gradient).norm() <= gradient_error * gradient.norm(), key
    for key, buffer in expected["buffers"].items():
        assert torch.allclose(found["buffers"][key], buffer, rtol=0, atol=1e-5 * buffer.abs().max()), key


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_on_a_gpu_is_that_on_a_cpu(device):
    expected = step_and_evaluate(0, 1, LABELS)
    assert_same_results(step_and_evaluate(0, 1, LABELS, torch.device(device)), expected, gradient_error=1e-3)


class Stream:
    """Evaluation batches of which one sample cannot be read, or none."""

    def __init__(self, batches: list[Batch], rejected: dict[int, Rejection], problem: str | None = None):
        self.batches, self.rejected, self.problem = batches, rejected, problem

    def __iter__(self) -> Iterator[Batch]:
        yield from self.batches


class Samples(NamedTuple):
    """The part of a sample table that counts rejections."""

    rows: int
    rejections: tuple[Rejection, ...] = ()


class Sets(NamedTuple):
    """The part of the training data that counts rejections."""

    sets: dict[str, Samples]


def evaluate_three_times(rank: int, world_size: int, folder: str) -> None:
    """Evaluate as a worker: worker 1 has an unreadable image, worker 2 more images than it keeps in memory."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    validation.MAX_CACHED_BYTES = 0 if rank == 2 else 2**20
    rejected = {1: Rejection("eval.csv", 2, "1.png", "damaged image", "truncated")} if rank == 1 else {}
    reads = []

    def open_stream() -> Stream:
        reads.append(rank)
        return Stream([share(LABELS, rank, world_size)], rejected)

    batches = validation.EvaluationBatches(open_stream)
    samples = RejectedSamples(
        Sets({"eval": Samples(len(LABELS) + 1)}), Data(csv_files_train=("train.csv",), max_rejected=0.5)
    )
    scores, net = [], network()
    for _ in range(3):
        result = validation.evaluate(net, batches, ALPHABET, "fp32", CPU)
        samples.share("eval", batches.rejected)
        scores.append((result.counts.as_tuple(), samples.counts()["eval"]))
    torch.save({"scores": scores, "reads": len(reads)}, f"{folder}/{rank} of {world_size}.pt")
    leave()


def test_workers_that_keep_their_evaluation_images_wait_for_those_that_read_them_again(tmp_path):
    mp.spawn(evaluate_three_times, (3, str(tmp_path)), nprocs=3)
    workers = [torch.load(tmp_path / f"{rank} of 3.pt", weights_only=True) for rank in range(3)]
    assert [worker["reads"] for worker in workers] == [1, 3, 3]
    for worker in workers:
        assert worker["scores"] == [workers[0]["scores"][0]] * 3
        assert worker["scores"][0][0][0] == len(LABELS)
        assert worker["scores"][0][1] == 1


def test_an_evaluation_ends_early_and_keeps_no_images_if_storage_fails():
    streams = iter(
        [Stream([share(LABELS, 0, 1)] * 3, {}, "s3://lines: no answer"), Stream([share(LABELS, 0, 1)] * 3, {})]
    )
    batches = validation.EvaluationBatches(lambda: next(streams))
    assert len(list(batches)) == 1 and batches.problem == "s3://lines: no answer"
    assert len(list(batches)) == 3
