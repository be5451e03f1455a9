"""The order of rows and their batches in an epoch.

The functions are pure: the order depends only on the arguments, the seed and the epoch, so it is the same on every
worker and after a resume.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_WINDOW_BATCHES = 128
"""Most batches in a window, within which rows of similar width are batched together."""

MAX_EXACT_SIZE = 16
"""With batches by area, larger sizes are rounded to four in each octave: 16, 20, 24, 28, 32, 40 … Kernels are compiled
for each shape of a batch, and those of many more shapes would not fit in oneDNN's cache (`runtime.keep_kernels`)."""


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch, in order."""

    rows: np.ndarray
    """Row numbers [draws], batch after batch."""
    passes: np.ndarray
    """How often each row was drawn before [draws], in this epoch and earlier ones; without weights, the number of the
    epoch. Pass and row number determine the augmentation, so a row that is drawn twice is augmented differently."""
    bounds: np.ndarray
    """Index in `rows` at which each batch starts, and the end [batches + 1]."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and the passes of a batch."""
        draws = slice(self.bounds[batch], self.bounds[batch + 1])
        return self.rows[draws], self.passes[draws]


@dataclass(frozen=True)
class Sources:
    """The sources of the rows, such as CSV files, with their sampling weights."""

    source_of_row: np.ndarray
    """Number of each row's source [rows]."""
    weights: tuple[float, ...]
    """Weight of each source; any positive numbers."""
    endless: tuple[bool, ...]
    """Whether each source is endless: its rows are generated."""

    @property
    def rows(self) -> np.ndarray:
        """Number of rows of each source."""
        return np.bincount(self.source_of_row, minlength=len(self.weights))


def count_draws(rows: Sequence[int], weights: Sequence[float] | None, endless: Sequence[bool]) -> int:
    """Return the number of draws in an epoch: as many as there are rows.

    With weights, rows of endless sources, which are generated, do not count. An epoch then has as many draws as it
    takes to draw as many finite rows as there are.

    Args:
        rows: Number of rows of each source.
        weights: Weight of each source; None if every row is drawn once.
        endless: Whether each source is endless.
    """
    finite = sum(count for count, is_endless in zip(rows, endless, strict=True) if not is_endless)
    if weights is None or not finite:
        return sum(rows)
    sources = [(weight, is_endless) for count, weight, is_endless in zip(rows, weights, endless, strict=True) if count]
    share = sum(weight for weight, is_endless in sources if not is_endless) / sum(weight for weight, _ in sources)
    return round(finite / share)


def train_epoch(
    widths: np.ndarray, batch_size: int, seed: int, epoch: int, by_area: bool = False, sources: Sources | None = None
) -> Epoch:
    """Return a training epoch in `batch_count` batches.

    All rows are shuffled once, or drawn by the weights of their sources. The sizes of the batches differ by at most
    one, in random order: a small batch at the end would move the statistics of batch normalisation just before they are
    evaluated. The batches are divided into windows of equal sizes. The draws of a window are sorted by width, except
    that each is moved by at most about a batch at random, and divided into its batches, which are then shuffled. Rows
    of similar width therefore share a batch, which needs little padding, but not the same rows in each epoch, and the
    order of the batches is random. With sources, every batch has each source's share of the draws, to within about one
    row.

    Args:
        widths: Widths of the rows' images in pixels [rows].
        batch_size: Rows of a batch; with `by_area`, the mean.
        seed: Seed of the random generators.
        epoch: Number of the epoch, from 0.
        by_area: Divide a window into batches of about the same total width instead of the same number of rows.
        sources: Draw the rows by the weights of these sources; None: every row once.
    """
    random = np.random.default_rng([seed, epoch])
    if sources is None:
        rows, passes = random.permutation(len(widths)), np.full(len(widths), epoch)
    else:
        rows, passes = _draw_by_weight(sources, seed, epoch)
        shuffled = _shuffle_evenly(sources.source_of_row[rows], random)
        rows, passes = rows[shuffled], passes[shuffled]
    batches = batch_count(len(rows), batch_size)
    bounds = np.linspace(0, len(rows), batches + 1).round().astype(np.int64)
    bounds = np.cumsum([0, *random.permutation(np.diff(bounds))])
    order, sizes = [], []
    for first, stop in itertools.pairwise(_windows(batches)):
        drawn = rows[bounds[first] : bounds[stop]]
        source_of_draw = sources.source_of_row[drawn] if sources else np.zeros(len(drawn), np.int64)
        by_width = _order_by_width(widths[drawn], source_of_draw, batch_size, random)
        starts = bounds[first + 1 : stop] - bounds[first]
        if by_area:
            starts = _starts_by_area(widths[drawn[by_width]], stop - first)
        parts = np.split(bounds[first] + by_width, starts)
        for batch in random.permutation(len(parts)):
            order.append(parts[batch])
            sizes.append(len(parts[batch]))
    draws = np.concatenate(order) if order else np.zeros(0, np.int64)
    return Epoch(rows[draws], passes[draws], np.cumsum([0, *sizes]))


def eval_epoch(widths: np.ndarray, batch_size: int) -> Epoch:
    """Return every row once, sorted by width to minimise padding."""
    rows = np.argsort(widths, kind="stable")
    bounds = np.minimum(np.arange(batch_count(len(rows), batch_size) + 1) * batch_size, len(rows))
    return Epoch(rows, np.zeros_like(rows), bounds)


def batch_count(rows: int, batch_size: int) -> int:
    """Return the number of batches in an epoch."""
    return -(-rows // batch_size)


def worker_share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return one worker's part of a global batch; the parts of all workers contain every row once."""
    return batch[rank::world_size]


def _windows(batches: int) -> list[int]:
    """Return the number of the batch at which each window starts, and the end."""
    windows = -(-batches // MAX_WINDOW_BATCHES)
    return [batches * number // max(1, windows) for number in range(windows + 1)]


def _order_by_width(
    widths: np.ndarray, sources: np.ndarray, batch_size: int, random: np.random.Generator
) -> np.ndarray:
    """Return the indices of draws in the order of their widths, each moved by at most about a batch at random.

    Moved further, rows would have more different companions in their batches, and these more padding. The order is that
    of each width's quantile within its source, so every part of it has the same share of each source.
    """
    moves = random.uniform(-batch_size, batch_size, len(widths))
    quantiles = np.empty(len(widths))
    for source in np.unique(sources):
        of_source = np.flatnonzero(sources == source)
        by_width = of_source[np.argsort(widths[of_source], kind="stable")]
        places = np.arange(len(by_width)) + moves[by_width] * len(by_width) / len(widths)
        quantiles[by_width[np.argsort(places)]] = (np.arange(len(by_width)) + 0.5) / len(by_width)
    return np.argsort(quantiles, kind="stable")


def _starts_by_area(widths: np.ndarray, batches: int) -> list[int]:
    """Return where each batch of a window starts, except the first, so that all have about the same total width.

    The sizes of all but the last batch, which has the widest and therefore fewest rows, are rounded (`MAX_EXACT_SIZE`).
    No batch is empty.
    """
    area = np.cumsum([0, *widths])
    starts = [0]
    for left in range(batches, 1, -1):
        start = starts[-1]
        even = area[start] + (area[-1] - area[start]) / left
        size = int(np.searchsorted(area, even)) - start
        step = 1 if size <= MAX_EXACT_SIZE else 1 << size.bit_length() - 3
        # Each batch needs at least one row, and enough rows must remain for the batches after it.
        stops = np.clip(start + size // step * step + np.array([0, step]), start + 1, len(widths) - left + 1)
        starts.append(int(stops[np.argmin(np.abs(area[stops] - even))]))
    return starts[1:]


def _shuffle_evenly(sources: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the indices of draws in a random order in which every part has about the same share of each source."""
    places = np.empty(len(sources))
    for source in np.unique(sources):
        of_source = random.permutation(np.flatnonzero(sources == source))
        places[of_source] = (np.arange(len(of_source)) + random.random()) / len(of_source)
    return np.argsort(places, kind="stable")


def _draw_by_weight(sources: Sources, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the rows of an epoch and their passes by the weights of the sources.

    Every row of a source is drawn once before any row of the source is drawn again.
    """
    rows, passes = [], []
    shares = np.where(sources.rows, sources.weights, 0.0)
    draws_of_source = _shares(shares, count_draws(sources.rows.tolist(), sources.weights, sources.endless))
    for source, draws in enumerate(draws_of_source):
        if not draws:
            continue
        of_source = np.flatnonzero(sources.source_of_row == source)
        first, stop = epoch * draws, (epoch + 1) * draws
        for number in range(first // len(of_source), batch_count(stop, len(of_source))):
            shuffled = np.random.default_rng([seed, source, number]).permutation(of_source)
            start = number * len(of_source)
            drawn = shuffled[max(0, first - start) : stop - start]
            rows.append(drawn)
            passes.append(np.full(len(drawn), number))
    return np.concatenate(rows), np.concatenate(passes)


def _shares(weights: np.ndarray, draws: int) -> np.ndarray:
    """Return whole numbers in proportion to the weights that add up to `draws`."""
    bounds = np.cumsum([0, *weights]) / sum(weights) * draws
    return np.diff(np.round(bounds).astype(np.int64))
