"""Several workers compute the same gradients, statistics and scores as one, and wait for each other equally often."""

import os
import warnings
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raycrnn.config import Training
from raycrnn.model.batch import Batch
from raycrnn.training import validation
from raycrnn.training.learner import Learner, StepSignals
from tests.conftest import words
from tests.training.test_learner import ALPHABET, CPU, EMPTY, make_batch, network

LABELS = words(10)


def share(labels: list[str], rank: int, world_size: int) -> Batch:
    own = labels[rank::world_size]
    return make_batch(own) if own else EMPTY


def step_and_save(rank: int, world_size: int, labels: list[str], folder: str) -> None:
    """Take one training step and one evaluation as a worker, and save the results."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", FutureWarning)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    learner = Learner(network(), Training(precision="fp32", gradient_clip=None), CPU)
    batch = share(labels, rank, world_size)
    step = learner.train_step(batch, 10, signals=StepSignals(stop=rank == 1, steps_left=7 * (rank == 0)))
    evaluation = validation.evaluate(learner.network, [batch], ALPHABET, "fp32", CPU)
    # Every worker learns that one of them was asked to stop.
    assert validation.evaluate(learner.network, [batch], ALPHABET, "fp32", CPU, lambda: rank == 0) is None
    result = {
        "gradients": {name: p.grad for name, p in learner.network.named_parameters()},
        "buffers": dict(learner.network.named_buffers()),
        "loss": step.loss,
        "signals": astuple(step.signals),
        "counts": evaluation.counts.as_tuple(),
        "eval_loss": evaluation.loss,
    }
    torch.save(result, f"{folder}/{rank} of {world_size}.pt")
    if world_size > 1:
        leave()


def leave() -> None:
    """End a worker process."""
    # gloo aborts a worker if another one leaves while they communicate.
    dist.barrier()
    dist.destroy_process_group()
    # A normal exit sometimes aborts the process, because threads of torch are still running.
    os._exit(0)


def run(world_size: int, labels: list[str], folder: Path) -> list[dict]:
    """Return the result of each worker."""
    if world_size == 1:
        step_and_save(0, 1, labels, str(folder))
    else:
        mp.spawn(step_and_save, (world_size, labels, str(folder)), nprocs=world_size)
    return [torch.load(folder / f"{rank} of {world_size}.pt", weights_only=True) for rank in range(world_size)]


@pytest.mark.parametrize(
    ("world_size", "labels"),
    [(2, LABELS[:3]), (2, LABELS[:1]), (3, LABELS), (3, LABELS[:2])],
    ids=["uneven", "one row for two workers", "three workers", "two rows for three workers"],
)
def test_several_workers_compute_the_gradients_and_statistics_of_one(tmp_path, world_size, labels):
    (one,), several = run(1, labels, tmp_path), run(world_size, labels, tmp_path)
    for worker in several:
        assert worker["loss"] == pytest.approx(one["loss"], rel=1e-5)
        for name, gradient in one["gradients"].items():
            # Float32 rounds sums over parts of a batch differently.
            assert (worker["gradients"][name] - gradient).norm() <= 3e-5 * gradient.norm(), name
        for name, buffer in one["buffers"].items():
            assert torch.allclose(worker["buffers"][name], buffer, rtol=0, atol=1e-5 * buffer.abs().max()), name
            assert torch.equal(worker["buffers"][name], several[0]["buffers"][name]), name


def test_signals_and_counts_are_shared_by_all_workers(tmp_path):
    (one,), two = run(1, LABELS, tmp_path), run(2, LABELS, tmp_path)
    for worker in two:
        assert worker["signals"] == (True, 7, False, False, False)
        assert worker["counts"][0] == one["counts"][0] == len(LABELS)
        assert worker["counts"][3] == one["counts"][3] == sum(map(len, LABELS))
