"""Orders: each row once, decided by (seed, epoch) alone, little padding, and shares that make the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycrnn import order

WIDTHS = st.lists(st.integers(8, 1024), max_size=300).map(np.array)
BATCH = st.integers(1, 40)
SEED = st.integers(0, 2**32 - 1)


def padding(widths: np.ndarray, rows: np.ndarray, batch_size: int) -> int:
    """Columns that the batches of an order add to make their images as wide as the widest."""
    batches = [widths[rows[start : start + batch_size]] for start in range(0, len(rows), batch_size)]
    return sum(int(batch.max() * len(batch) - batch.sum()) for batch in batches)


@settings(deadline=None)
@given(WIDTHS, BATCH, SEED, st.integers(0, 100))
def test_each_row_comes_once_an_epoch(widths, batch_size, seed, epoch):
    rows = order.train_order(widths, batch_size, seed, epoch)
    assert sorted(rows.tolist()) == list(range(len(widths)))


@settings(deadline=None)
@given(WIDTHS, BATCH, SEED, st.integers(0, 100))
def test_the_order_is_a_function_of_seed_and_epoch_alone(widths, batch_size, seed, epoch):
    before = widths.copy()
    first = order.train_order(widths, batch_size, seed, epoch)
    order.train_order(widths, batch_size, seed, epoch + 1)
    assert np.array_equal(order.train_order(widths, batch_size, seed, epoch), first)
    assert np.array_equal(widths, before)


def test_epochs_and_seeds_have_different_orders():
    widths = np.random.default_rng(0).integers(8, 500, 64)
    orders = {order.train_order(widths, 4, seed, epoch).tobytes() for seed in range(6) for epoch in range(6)}
    assert len(orders) == 36


@pytest.mark.parametrize("batch_size", [4, 16, 50])
@pytest.mark.parametrize("epoch", range(5))
def test_rows_of_like_width_share_a_batch(batch_size, epoch):
    widths = np.random.default_rng(epoch).integers(8, 1000, 3000)
    unsorted = padding(widths, np.random.default_rng(epoch).permutation(3000), batch_size)
    least = padding(widths, np.argsort(widths), batch_size)
    found = padding(widths, order.train_order(widths, batch_size, 0, epoch), batch_size)
    assert least <= found < unsorted / 3


def test_within_a_window_every_batch_holds_neighbours_by_width():
    widths = np.random.default_rng(1).permutation(order.WINDOW * 8)
    batches = order.train_order(widths, 8, seed=0, epoch=0).reshape(-1, 8)
    for batch in batches:
        assert np.ptp(widths[batch]) == 7


def test_the_batches_do_not_come_by_width():
    widths = np.random.default_rng(2).integers(8, 1000, 32 * 64)
    means = widths[order.train_order(widths, 16, 0, 0)].reshape(-1, 16).mean(axis=1)
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3
    assert 0.3 < (np.diff(means) > 0).mean() < 0.7


def test_which_rows_share_a_batch_changes_from_epoch_to_epoch():
    widths = np.random.default_rng(3).integers(8, 1000, 2000)
    pairs = []
    for epoch in range(2):
        batches = order.train_order(widths, 2, 0, epoch).reshape(-1, 2)
        pairs.append({frozenset(batch.tolist()) for batch in batches})
    assert len(pairs[0] & pairs[1]) < 100


@settings(deadline=None)
@given(st.integers(0, 300), BATCH)
def test_only_the_last_batch_is_partial(rows, batch_size):
    batches = [range(rows)[start : start + batch_size] for start in range(0, rows, batch_size)]
    assert order.batch_count(rows, batch_size) == len(batches)
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_what_fills_no_batch_comes_last_and_is_any_row():
    widths = np.arange(103)
    last = [frozenset(order.train_order(widths, 10, 0, epoch)[-3:].tolist()) for epoch in range(500)]
    assert len(set().union(*last)) == 103
    full = order.train_order(widths, 10, 0, 0)[:100].reshape(-1, 10)
    assert all((np.diff(batch) > 0).all() for batch in full)


@settings(deadline=None)
@given(WIDTHS)
def test_evaluation_goes_by_width_and_keeps_the_order_of_equals(widths):
    rows = order.eval_order(widths).tolist()
    assert rows == sorted(range(len(widths)), key=lambda row: (widths[row], row))


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 33))
def test_the_workers_shares_make_the_batch_with_none_twice_and_none_much_larger(size, world_size):
    batch = np.random.default_rng(size).permutation(1000)[:size]
    shares = [order.worker_share(batch, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
