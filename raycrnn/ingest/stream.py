"""A stream of training batches with their tasks ahead."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import ray

from raycrnn.cluster import TrainingAllocation
from raycrnn.data.rejections import Rejection
from raycrnn.ingest import batches, map_ranges
from raycrnn.ingest.batches import IMAGES_PER_TASK, MOST_BYTES, MOST_IMAGES_PER_TASK, BatchSpec
from raycrnn.ingest.image_cache import ImageCache
from raycrnn.ingest.prefetch import Prefetcher

if TYPE_CHECKING:
    from raycrnn.model.batch import Batch


TASKS_AT_FIRST = (1, 2, 4)
"""of the first executions of `ranges.execute`"""

BATCHES_AT_FIRST = 4
"""Made by the worker itself, so that it need not wait for Ray Data's start, which takes some seconds."""

BATCHES_AHEAD = 4
"""Batches that wait as tensors in the worker."""


@dataclass
class BatchStream:
    """One worker's share of the batches `first` … `stop` − 1, in order; close it to end the decoding."""

    spec: BatchSpec
    allocation: TrainingAllocation
    first: int
    stop: int
    pin_memory: bool = False
    get_image_cache: Callable[[], ImageCache | None] = lambda: None
    """what is kept of the set's images by now"""
    waited: float = 0.0
    """seconds that the consumer waited for batches"""
    pixels: int = 0
    """columns of pixels in the batches so far"""
    padding: int = 0
    """of them those that only make images as wide as the widest"""
    rejected: dict[int, Rejection] = field(default_factory=dict)
    """what was left out so far, by row number"""
    _images_per_task: int = IMAGES_PER_TASK

    def __iter__(self) -> "Iterator[Batch]":
        ahead = Prefetcher(self._read, BATCHES_AHEAD)
        try:
            for batch, rejected in ahead:
                self.waited += ahead.waited
                self.rejected.update(rejected)
                if len(batch):
                    pixels = len(batch) * batch.images_BCHW.shape[3]
                    self.pixels += pixels
                    self.padding += pixels - int(batch.widths_B.sum())
                yield batch
        finally:
            ahead.close()

    def _read(self) -> "Iterator[tuple[Batch, dict[int, Rejection]]]":
        executions = Prefetcher(self._executions, depth=1)
        try:
            at_first = batches.make_block(
                replace(self.spec, image_cache=self.get_image_cache()), self.first, self._after_first()
            )
            yield from (_to_batch(at_first, row, self.pin_memory) for row in range(len(at_first)))
            for number, blocks in enumerate(executions):
                if number >= len(TASKS_AT_FIRST) and executions.waited > 0.05:
                    self._images_per_task = min(2 * self._images_per_task, MOST_IMAGES_PER_TASK)
                for block in blocks:
                    table = ray.get(block)
                    for row in range(len(table)):
                        yield _to_batch(table, row, self.pin_memory)
        finally:
            executions.close()

    def _after_first(self) -> int:
        return min(self.first + BATCHES_AT_FIRST, self.stop)

    def _executions(self) -> Iterator[list[ray.ObjectRef]]:
        """Blocks of whole batches, execution by execution."""
        first, at_first = self._after_first(), iter(TASKS_AT_FIRST)
        bytes_each = batches.bytes_of_batch(self.spec)
        while first < self.stop:
            step = min(batches.batches_of(self.spec, self._images_per_task), max(1, MOST_BYTES // bytes_each))
            most = max(1, MOST_BYTES // (bytes_each * step))
            tasks = min(next(at_first, max(TASKS_AT_FIRST[-1], 8 * self.allocation.decode_tasks)), most)
            stop = min(first + tasks * step, self.stop)
            starts = range(first, stop, step)
            make = partial(batches.make_block, replace(self.spec, image_cache=self.get_image_cache()))
            parts = [(start, min(start + step, stop)) for start in starts]
            yield map_ranges.map_ranges(make, parts, step * bytes_each, self.allocation)
            first = stop


def _to_batch(block: pa.Table, row: int, pin_memory: bool) -> "tuple[Batch, dict[int, Rejection]]":
    # Imported here: the decoding tasks share this module and do without torch's memory and seconds.
    import torch

    from raycrnn.model.batch import Batch

    def tensor(name: str, kind: type) -> torch.Tensor:
        # A copy, because the object store's memory is read-only and given back when the block goes.
        return torch.from_numpy(np.frombuffer(block[name][row].as_buffer(), kind).copy())

    images_BCHW = tensor("images", np.uint8).view(block["shape"][row].as_py())
    numbers = [tensor(name, np.int64) for name in ("widths", "codes", "lengths", "rows")]
    batch = Batch(images_BCHW.pin_memory() if pin_memory else images_BCHW, *numbers)
    rejected = json.loads(block["rejected"][row].as_py())
    return batch, {number: Rejection(*fields) for number, *fields in rejected}
