"""The order of rows: complete, reproducible by seed and epoch, with little padding."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data import batch_order
from raycrnn.data.image import WIDTH_STEP

WIDTHS = st.lists(st.integers(8, 1024), max_size=300).map(np.array)
BATCH = st.integers(1, 40)
SEED = st.integers(0, 2**32 - 1)
ANY = (WIDTHS, BATCH, SEED, st.integers(0, 100), st.booleans())


def batches(epoch: batch_order.Epoch) -> list[list[int]]:
    return [epoch[number][0].tolist() for number in range(len(epoch))]


def padding(widths: np.ndarray, epoch: batch_order.Epoch) -> int:
    """Return the columns of padding in all batches of an epoch."""
    return sum(int(widths[rows].max() * len(rows) - widths[rows].sum()) for rows in batches(epoch))


def shuffled(widths: np.ndarray, batch_size: int) -> batch_order.Epoch:
    rows = np.random.default_rng(1).permutation(len(widths))
    return batch_order.Epoch(rows, rows, np.append(np.arange(0, len(rows), batch_size), len(rows)))


@given(*ANY)
def test_an_epoch_contains_every_row_once(widths, batch_size, seed, number, by_area):
    epoch = batch_order.train_epoch(widths, batch_size, seed, number, by_area)
    assert sorted(epoch.rows.tolist()) == list(range(len(widths)))
    assert [row for rows in batches(epoch) for row in rows] == epoch.rows.tolist()
    assert (epoch.passes == number).all()


@given(*ANY)
def test_the_order_depends_only_on_seed_and_epoch(widths, batch_size, seed, number, by_area):
    before = widths.copy()
    first = batch_order.train_epoch(widths, batch_size, seed, number, by_area)
    batch_order.train_epoch(widths, batch_size, seed, number + 1, by_area)
    assert batches(batch_order.train_epoch(widths, batch_size, seed, number, by_area)) == batches(first)
    assert np.array_equal(widths, before)


@given(*ANY)
def test_the_number_of_batches_is_batch_count_and_none_is_empty(widths, batch_size, seed, number, by_area):
    sizes = [len(rows) for rows in batches(batch_order.train_epoch(widths, batch_size, seed, number, by_area))]
    assert len(sizes) == batch_order.batch_count(len(widths), batch_size)
    assert all(sizes)


@given(WIDTHS, BATCH, SEED, st.integers(0, 100))
def test_the_sizes_of_batches_differ_by_at_most_one(widths, batch_size, seed, number):
    sizes = [len(rows) for rows in batches(batch_order.train_epoch(widths, batch_size, seed, number))]
    assert max(sizes, default=0) <= batch_size
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


def test_small_batches_are_at_random_places():
    """The last batch before an evaluation has no special size."""
    widths = np.random.default_rng(0).integers(8, 500, 2337)
    places = np.zeros(147)
    for number in range(200):
        sizes = np.diff(batch_order.train_epoch(widths, 16, 0, number).bounds)
        assert np.bincount(sizes).tolist() == [0] * 15 + [15, 132]
        places += sizes == 15
    # The expected number is 20.4 in 200 epochs, with a standard deviation of 4.3.
    assert places.min() > 3
    assert places.max() < 40


def test_epochs_and_seeds_have_different_orders():
    widths = np.random.default_rng(0).integers(8, 500, 64)
    orders = {batch_order.train_epoch(widths, 4, seed, epoch).rows.tobytes() for seed in range(6) for epoch in range(6)}
    assert len(orders) == 36


@pytest.mark.parametrize("batch_size", [4, 16, 50])
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("by_area", [False, True])
def test_batches_contain_rows_of_similar_width(batch_size, number, by_area):
    widths = np.random.default_rng(number).integers(8, 1000, 3000)
    found = padding(widths, batch_order.train_epoch(widths, batch_size, 0, number, by_area))
    assert found < padding(widths, shuffled(widths, batch_size)) / 3


def test_batches_are_not_sorted_by_width():
    widths = np.random.default_rng(2).integers(8, 1000, 32 * 64)
    means = widths[batch_order.train_epoch(widths, 16, 0, 0).rows].reshape(-1, 16).mean(axis=1)
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3
    assert 0.3 < (np.diff(means) > 0).mean() < 0.7


@pytest.mark.parametrize("rows", [40, 200, 2000])
def test_epochs_batch_different_rows_together(rows):
    widths = np.random.default_rng(3).permutation(rows)
    pairs = [
        {frozenset(batch) for batch in batches(batch_order.train_epoch(widths, 2, 0, number))} for number in range(2)
    ]
    assert len(pairs[0] & pairs[1]) < 0.5 * rows / 2


@pytest.mark.parametrize(("rows", "share"), [(80, 0.6), (160, 0.4), (500, 0.2)])
def test_rows_of_small_sets_change_companions_and_need_less_padding_than_at_random(rows, share):
    widths = np.random.default_rng(4).lognormal(5, 0.7, rows).clip(8, 1024).astype(int)
    epochs = [batch_order.train_epoch(widths, 16, 0, number) for number in range(60)]
    together = np.zeros((rows, rows), int)
    for batch in itertools.chain(*map(batches, epochs)):
        together[np.ix_(batch, batch)] += 1
    np.fill_diagonal(together, 0)
    # Twice as many as in one batch.
    assert (together > 0).sum(axis=1).min() >= 2 * 15
    # Of the companions of a row in one epoch, this share is expected in another one. At the ends of the order, it is
    # larger.
    again = (together**2).sum() / (60 * together.sum())
    assert again < 0.4
    needed = np.mean([padding(widths, epoch) for epoch in epochs])
    assert needed < share * padding(widths, shuffled(widths, 16))


def test_by_area_batches_have_about_the_same_total_width():
    widths = np.random.default_rng(5).choice([40, 1000], 4096)
    epoch = batch_order.train_epoch(widths, 16, 0, 0, by_area=True)
    assert len(epoch) == 256
    areas = np.array([widths[rows].sum() for rows in batches(epoch)])
    assert areas.std() < 0.1 * areas.mean()
    narrow, wide = (np.mean([len(rows) for rows in batches(epoch) if (widths[rows] == w).all()]) for w in (40, 1000))
    assert narrow > 10 * wide


@pytest.mark.parametrize(("rows", "batch_size"), [(500, 16), (2337, 16), (20_000, 16), (20_000, 32)])
def test_by_area_batches_have_few_shapes(rows, batch_size):
    """oneDNN's cache holds the kernels of about 160 shapes (`runtime.keep_kernels`)."""
    widths = (40 + 904 * np.random.default_rng(6).beta(1, 3, rows)).astype(int)
    shapes = set()
    for number in range(10):
        for batch in batches(batch_order.train_epoch(widths, batch_size, 0, number, by_area=True)):
            shapes.add((len(batch), -(-widths[batch].max() // WIDTH_STEP)))
    assert len(shapes) <= 160


# --- sources with weights


def sources(counts: list[int], weights: tuple[float, ...]) -> batch_order.Sources:
    return batch_order.Sources(np.repeat(np.arange(len(counts)), counts), weights, (False,) * len(weights))


@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 100)), min_size=1, max_size=4),
    BATCH,
    SEED,
    st.integers(0, 20),
    st.booleans(),
)
def test_draws_are_divided_among_sources_by_weight(counted, batch_size, seed, number, by_area):
    of_rows = sources([count for count, _ in counted], tuple(weight for _, weight in counted))
    rows = len(of_rows.source_of_row)
    widths = np.random.default_rng(seed).integers(8, 500, rows)
    epoch = batch_order.train_epoch(widths, batch_size, seed, number, by_area, of_rows)
    assert len(epoch.rows) == rows
    assert len(epoch) == batch_order.batch_count(rows, batch_size)
    drawn = np.bincount(of_rows.source_of_row[epoch.rows], minlength=len(counted))
    assert np.abs(drawn - rows * np.array(of_rows.weights) / sum(of_rows.weights)).max() <= 1


@given(st.lists(st.integers(1, 30), min_size=2, max_size=3), SEED)
def test_every_row_of_a_source_is_drawn_before_one_is_drawn_again(counts, seed):
    """This holds across epochs, and the passes of a row are all different."""
    of_rows = sources(counts, (1.0, 3.0, 0.5)[: len(counts)])
    widths = np.ones(sum(counts))
    drawn = {row: [] for row in range(sum(counts))}
    for number in range(6):
        epoch = batch_order.train_epoch(widths, 4, seed, number, sources=of_rows)
        for row, times in zip(epoch.rows.tolist(), epoch.passes.tolist(), strict=True):
            drawn[row].append(times)
    for source in range(len(counts)):
        times = [len(drawn[row]) for row in np.flatnonzero(of_rows.source_of_row == source)]
        assert max(times) - min(times) <= 1
    for passes in drawn.values():
        assert len(set(passes)) == len(passes)


def test_every_batch_has_the_share_of_each_source_whatever_its_widths():
    of_rows = sources([900, 100], (1.0, 1.0))
    widths = np.concatenate([np.random.default_rng(0).integers(8, 100, 900), np.full(100, 900)])
    epoch = batch_order.train_epoch(widths, 10, 0, 0, sources=of_rows)
    shares = [np.mean(of_rows.source_of_row[rows]) for rows in batches(epoch)]
    assert min(shares) >= 0.4
    assert max(shares) <= 0.6


def test_the_share_of_each_source_does_not_depend_on_the_window():
    of_rows = sources([70, 30], (3.0, 1.0))
    widths = np.random.default_rng(0).integers(8, 100, 100)
    for number in range(50):
        epoch = batch_order.train_epoch(widths, 8, 0, number, sources=of_rows)
        counts = [int((of_rows.source_of_row[rows] == 1).sum()) for rows in batches(epoch)]
        assert min(counts) >= 1
        assert max(counts) <= 3


def test_the_draws_of_a_source_without_rows_go_to_the_others():
    of_rows = batch_order.Sources(np.array([0, 0, 2]), (1.0, 5.0, 1.0), (False, False, False))
    epoch = batch_order.train_epoch(np.array([9, 9, 9]), 2, 0, 0, sources=of_rows)
    assert len(epoch.rows) == 3
    assert set(epoch.rows.tolist()) <= {0, 1, 2}


# --- evaluation and shares


@given(WIDTHS, BATCH)
def test_evaluation_is_sorted_by_width_and_stable(widths, batch_size):
    epoch = batch_order.eval_epoch(widths, batch_size)
    assert epoch.rows.tolist() == sorted(range(len(widths)), key=lambda row: (widths[row], row))
    assert all(len(batch) == batch_size for batch in batches(epoch)[:-1])
    assert len(epoch) == batch_order.batch_count(len(widths), batch_size)


@given(st.integers(0, 200), st.integers(1, 33))
def test_the_shares_of_workers_add_up_to_the_batch_and_are_of_equal_size(size, world_size):
    batch = np.random.default_rng(size).permutation(1000)[:size]
    shares = [batch_order.worker_share(batch, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("rows", "weights", "endless", "draws"),
    [
        ([10, 20], None, [False, True], 30),
        ([10, 20], (1.0, 5.0), [False, False], 30),
        ([10, 20_000], (1.0, 1.0), [False, True], 20),
        ([300, 20_000], (3.0, 1.0), [False, True], 400),
        ([100, 50, 20_000], (2.0, 1.0, 3.0), [False, False, True], 300),
        ([20_000], (2.0,), [True], 20_000),
        ([0, 20_000], (1.0, 1.0), [False, True], 20_000),
    ],
)
def test_rows_of_endless_sources_do_not_make_epochs_longer(rows, weights, endless, draws):
    assert batch_order.count_draws(rows, weights, endless) == draws


def test_an_endless_source_goes_on_with_other_rows_in_the_next_epoch():
    of_rows = batch_order.Sources(np.repeat([0, 1], [10, 100]), (1.0, 3.0), (False, True))
    epochs = [batch_order.train_epoch(np.full(110, 50), 8, 0, number, False, of_rows) for number in range(4)]
    for epoch in epochs:
        assert sorted(epoch.rows[epoch.rows < 10]) == list(range(10))
    drawn = [epoch.rows[epoch.rows >= 10].tolist() for epoch in epochs]
    assert [len(rows) for rows in drawn] == [30, 30, 30, 30]
    assert set(itertools.chain(*drawn)) == set(range(10, 110))
