"""Several workers compute the same gradients and scores as one, and share their statistics."""

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
from raycrnn.model.crnn import CRNN
from raycrnn.training import collectives, validation
from raycrnn.training.learner import Learner, StepSignals
from tests.conftest import words
from tests.training.test_learner import ALPHABET, CPU, EMPTY, make_batch, network

LABELS = words(10)


def frozen(net: CRNN) -> CRNN:
    """Fix the batch-norm statistics, which would differ between a part of a batch and the full batch."""
    net.eval()
    net.train = lambda mode=True: net
    return net


def share(labels: list[str], rank: int, world_size: int) -> Batch:
    own = labels[rank::world_size]
    return make_batch(own) if own else EMPTY


def step_and_save(rank: int, world_size: int, labels: list[str], folder: str) -> None:
    """Take one training step and one evaluation as a worker; worker 0 saves the results."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", FutureWarning)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    learner = Learner(frozen(network()), Training(precision="fp32", gradient_clip=None), CPU)
    batch = share(labels, rank, world_size)
    step = learner.train_step(batch, 10, signals=StepSignals(stop=rank == 1, steps_left=7 * (rank == 0)))
    gradients = {name: p.grad for name, p in learner.network.named_parameters()}
    # Each worker gets different statistics, as after training on different shares.
    for buffer in learner.network.buffers():
        if buffer.is_floating_point():
            buffer.fill_(1.0 + rank)
    collectives.share_statistics(learner.network)
    buffers = {name: b for name, b in learner.network.named_buffers() if b.is_floating_point()}
    evaluation = validation.evaluate(learner.network, [batch], ALPHABET, "fp32", CPU)
    # Every worker learns that one of them was asked to stop.
    assert validation.evaluate(learner.network, [batch], ALPHABET, "fp32", CPU, lambda: rank == 0) is None
    if rank == 0:
        result = {
            "gradients": gradients,
            "buffers": buffers,
            "loss": step.loss,
            "signals": astuple(step.signals),
            "counts": evaluation.counts.as_tuple(),
            "eval_loss": evaluation.loss,
        }
        torch.save(result, f"{folder}/{world_size}.pt")
    if world_size > 1:
        # gloo aborts a worker if another one leaves while they communicate.
        dist.barrier()
        dist.destroy_process_group()
        # A normal exit sometimes aborts the process, because threads of torch are still running.
        os._exit(0)


def run(world_size: int, labels: list[str], folder: Path) -> dict:
    if world_size == 1:
        step_and_save(0, 1, labels, str(folder))
    else:
        mp.spawn(step_and_save, (world_size, labels, str(folder)), nprocs=world_size)
    return torch.load(folder / f"{world_size}.pt", weights_only=True)


@pytest.mark.parametrize("labels", [LABELS, LABELS[:3], LABELS[:1]], ids=["even", "odd", "one row for two workers"])
def test_two_workers_compute_the_gradients_of_one_with_the_same_global_batch(tmp_path, labels):
    one, two = run(1, labels, tmp_path), run(2, labels, tmp_path)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name, gradient in one["gradients"].items():
        assert torch.allclose(two["gradients"][name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max()), name


def test_signals_counts_and_statistics_are_shared_by_all_workers(tmp_path):
    one, two = run(1, LABELS, tmp_path), run(2, LABELS, tmp_path)
    assert two["signals"] == (True, 7, False, False, False)
    assert two["counts"][0] == one["counts"][0] == len(LABELS)
    assert two["counts"][3] == one["counts"][3] == sum(map(len, LABELS))
    assert all((buffer == 1.5).all() for buffer in two["buffers"].values())
