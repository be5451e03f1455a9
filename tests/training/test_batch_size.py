"""The warning about small shares of a batch, and the learning rate that fits a batch size."""

import pytest

from raycrnn.cluster import TrainingAllocation
from raycrnn.config import Training
from raycrnn.training.batch_size import scaled_learning_rate, small_share_warning


def allocation(workers: int, use_gpu: bool = True) -> TrainingAllocation:
    return TrainingAllocation(workers, use_gpu, cpus_per_worker=1, threads=1, decode_tasks=1, cpus_per_decode_task=1)


def test_a_four_times_larger_batch_has_twice_the_learning_rate():
    assert scaled_learning_rate(1e-3, 16, 64) == pytest.approx(2e-3)
    assert scaled_learning_rate(scaled_learning_rate(1e-3, 16, 100), 100, 16) == pytest.approx(1e-3)


def test_a_small_share_for_each_gpu_is_reported_with_settings_that_fit():
    warning = small_share_warning(Training(train_batch_size=16, learning_rate=1e-3), allocation(4))
    assert "has 4 images for each of 4 GPUs" in warning
    assert "training.train_batch_size=256 training.learning_rate=4.0e-03" in warning
    assert "has 8 images for the GPU" in small_share_warning(Training(train_batch_size=8), allocation(1))


def test_the_rule_for_the_learning_rate_is_not_applied_to_adadelta():
    assert "learning_rate" not in small_share_warning(Training(optimizer="ada", train_batch_size=8), allocation(2))


def test_large_shares_and_cpus_cause_no_warning():
    assert small_share_warning(Training(train_batch_size=16), allocation(1)) is None
    assert small_share_warning(Training(train_batch_size=64), allocation(4)) is None
    assert small_share_warning(Training(train_batch_size=16), allocation(4, use_gpu=False)) is None
