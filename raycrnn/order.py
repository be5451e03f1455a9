"""Which rows in which order: pure functions of (seed, epoch), the same on every worker and after a resume."""

import numpy as np

WINDOW = 32
"""Batches in a shuffle window: rows of like width are brought together within it."""


def train_order(widths: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """One epoch's order of rows; batch b is `order[b * batch_size:(b + 1) * batch_size]`.

    All rows are shuffled, then sorted by width within windows of `WINDOW` batches, then the batches of a
    window are shuffled: rows of like width share a batch and little is padded, while the order of batches
    stays random. What does not fill a batch stays as it was shuffled and comes last.

    Args:
        widths: [rows] anything that grows with the width of a row's image.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(widths))
    in_batches = len(order) - len(order) % batch_size
    for start in range(0, in_batches, WINDOW * batch_size):
        rows = order[start : min(start + WINDOW * batch_size, in_batches)]
        rows = rows[np.argsort(widths[rows], kind="stable")]
        order[start : start + len(rows)] = random.permutation(rows.reshape(-1, batch_size)).reshape(-1)
    return order


def eval_order(widths: np.ndarray) -> np.ndarray:
    """Rows by width, so that batches are padded little."""
    return np.argsort(widths, kind="stable")


def batch_count(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


def worker_share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The rows of a global batch that one worker takes; together the workers take each row once."""
    return batch[rank::world_size]
