"""Which rows in which order: pure functions of (seed, epoch), the same on every worker and after a resume."""

from dataclasses import dataclass

import numpy as np

WINDOW_BATCHES = 64
"""Batches in a shuffle window: rows of like width are brought together within it."""


@dataclass(frozen=True)
class Epoch:
    """One epoch's batches, in order."""

    rows: np.ndarray
    """[draws] a row's number, batch after batch"""
    passes: np.ndarray
    """[draws] how often the row was drawn before, in this epoch and the ones before it: without weights the epoch.
    With the row's number it decides the augmentation, so that a row drawn twice is not seen twice alike."""
    bounds: np.ndarray
    """[batches + 1] where in `rows` each batch begins"""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and passes of a batch."""
        place = slice(self.bounds[batch], self.bounds[batch + 1])
        return self.rows[place], self.passes[place]


@dataclass(frozen=True)
class Sources:
    """Rows that are drawn by the weight of the source that they come from."""

    source_of_row: np.ndarray
    """[rows] number of each row's source"""
    weights: tuple[float, ...]
    """of each source, any positive numbers"""


def train_epoch(
    widths: np.ndarray, batch_size: int, seed: int, epoch: int, by_area: bool = False, sources: Sources | None = None
) -> Epoch:
    """One epoch of training: as many draws as there are rows, in `batch_count` batches.

    All rows are shuffled, or drawn by the weights of their sources. Within windows of at most `WINDOW_BATCHES` batches and
    half of the set they are sorted by width and cut into batches, and the batches of a window are shuffled: rows of
    like width share a batch and little is padded, while both the batches and their order stay random. With
    sources, each batch holds its share of every source, to a row.

    Args:
        widths: [rows] of the rows' images in pixels.
        by_area: cut into batches of about the same width in all, and not of the same number of rows.
    """
    random = np.random.default_rng([seed, epoch])
    if sources is None:
        rows, passes = random.permutation(len(widths)), np.full(len(widths), epoch)
    else:
        rows, passes = _draw(sources, seed, epoch)
        shuffled = random.permutation(len(rows))
        rows, passes = rows[shuffled], passes[shuffled]
    order, sizes = [], []
    for window in _windows(len(rows), batch_size):
        drawn = rows[window]
        by_width = np.argsort(_rank(widths[drawn], sources.source_of_row[drawn] if sources else None), kind="stable")
        bounds = _cut(widths[drawn[by_width]], batch_size, by_area)
        batches = np.split(window.start + by_width, bounds)
        for batch in random.permutation(len(batches)):
            order.append(batches[batch])
            sizes.append(len(batches[batch]))
    chosen = np.concatenate(order) if order else np.zeros(0, np.int64)
    return Epoch(rows[chosen], passes[chosen], np.cumsum([0, *sizes]))


def eval_epoch(widths: np.ndarray, batch_size: int) -> Epoch:
    """All rows once by width, so that batches are padded little."""
    rows = np.argsort(widths, kind="stable")
    bounds = np.minimum(np.arange(batch_count(len(rows), batch_size) + 1) * batch_size, len(rows))
    return Epoch(rows, np.zeros_like(rows), bounds)


def batch_count(rows: int, batch_size: int) -> int:
    """Batches of an epoch, whichever way they are cut."""
    return -(-rows // batch_size)


def worker_share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The part of a global batch that one worker takes; together the workers take each row once."""
    return batch[rank::world_size]


def _windows(rows: int, batch_size: int) -> list[slice]:
    """Of at most `WINDOW_BATCHES` batches and half of the set, for else every epoch would put the same rows together. What
    fills no batch is a window of its own, after the others: as it was shuffled, so that it may be any row."""
    whole = rows // batch_size
    step = batch_size * max(1, min(WINDOW_BATCHES, -(-whole // 2)))
    starts = range(0, whole * batch_size, step)
    windows = [slice(start, min(start + step, whole * batch_size)) for start in starts]
    return windows + ([slice(whole * batch_size, rows)] if whole * batch_size < rows else [])


def _rank(widths: np.ndarray, sources: np.ndarray | None) -> np.ndarray:
    """What a window is sorted by: the width, or with sources its quantile among those of its source, for then every
    stretch of the window holds the same share of each."""
    if sources is None:
        return widths
    quantiles = np.empty(len(widths))
    for source in np.unique(sources):
        of_source = np.flatnonzero(sources == source)
        by_width = of_source[np.argsort(widths[of_source], kind="stable")]
        quantiles[by_width] = (np.arange(len(by_width)) + 0.5) / len(by_width)
    return quantiles


def _cut(widths: np.ndarray, batch_size: int, by_area: bool) -> np.ndarray:
    """Where each batch of a window but the first begins. There are as many either way, and none is empty."""
    batches = batch_count(len(widths), batch_size)
    numbers = np.arange(1, batches)
    if not by_area:
        return numbers * batch_size
    area = np.cumsum(widths)
    even = np.searchsorted(area, numbers * (area[-1] / batches))
    # At least one row lies between neighbours, and as many behind as there are batches to come.
    distinct = np.maximum.accumulate(np.maximum(even, 1) - numbers) + numbers
    return np.minimum(distinct, len(widths) - batches + numbers)


def _draw(sources: Sources, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """An epoch's rows and their passes, by weight: of a source all rows come once before one comes again."""
    rows, passes = [], []
    counts = np.bincount(sources.source_of_row, minlength=len(sources.weights))
    for source, draws in enumerate(_shares(np.where(counts, sources.weights, 0.0), len(sources.source_of_row))):
        if not draws:
            continue
        of_source = np.flatnonzero(sources.source_of_row == source)
        first, stop = epoch * draws, (epoch + 1) * draws
        for number in range(first // len(of_source), batch_count(stop, len(of_source))):
            shuffled = np.random.default_rng([seed, source, number]).permutation(of_source)
            begin = number * len(of_source)
            taken = shuffled[max(0, first - begin) : stop - begin]
            rows.append(taken)
            passes.append(np.full(len(taken), number))
    return np.concatenate(rows), np.concatenate(passes)


def _shares(weights: np.ndarray, draws: int) -> np.ndarray:
    """Whole numbers in the proportion of the weights that add up to the draws."""
    bounds = np.cumsum([0, *weights]) / sum(weights) * draws
    return np.diff(np.round(bounds).astype(np.int64))
