"""A worker's stream of training batches, decoded ahead of the training."""

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from raycrnn.cluster import TrainingAllocation
from raycrnn.data.rejections import Rejection
from raycrnn.ingest import batches, map_ranges
from raycrnn.ingest.batches import BatchSpec
from raycrnn.ingest.image_cache import ImageCache
from raycrnn.ingest.prefetch import Prefetcher

if TYPE_CHECKING:
    import torch

    from raycrnn.model.batch import Batch

FIRST_BATCHES = 4
"""Batches that the worker decodes itself at the start, so that it need not wait for Ray Data."""

TENSOR_BATCHES = 4
"""Batches that wait as tensors in the worker."""

FIRST_TASKS = (1, 2, 4)
"""Tasks of the first executions: the first batches come soon, and the executions grow from there."""

TASKS_PER_SLOT = 8
"""Tasks of a later execution for each decoding task that runs at a time."""

IMAGES_PER_TASK = 256
MAX_IMAGES_PER_TASK = 2048
"""Tasks are small at first, so that their batches come soon. While training has to wait for batches the tasks grow,
because Ray takes about 50 ms for each task."""

MAX_EXECUTION_BYTES = 256 * 2**20
"""Bytes of decoded images in one execution, by the set's mean width. Three executions are in the object store at a
time."""


@dataclass
class BatchStream:
    """One worker's shares of the batches `first` … `stop` − 1, in order. Close its iterator to end the decoding.

    If object storage fails, the stream says so in `problem` and yields empty batches from then on, without end: the
    worker takes part in the steps until all workers know.
    """

    spec: BatchSpec
    allocation: TrainingAllocation
    first: int
    stop: int
    pin_memory: bool = False
    get_image_cache: Callable[[], ImageCache | None] = lambda: None
    """Returns the decoded images that are in memory by now."""
    report_changed: Callable[[str], None] = lambda uri: None
    """Called once, with the URI of the first image whose width is not the measured one."""
    waited: float = 0.0
    """Seconds that the consumer has waited for batches."""
    pixels: int = 0
    """Columns of pixels in the batches so far, padding included."""
    padding: int = 0
    """Columns of padding in the batches so far."""
    rejected: dict[int, Rejection] = field(default_factory=dict)
    """Samples that were left out so far, by row number."""
    problem: str | None = None
    """Why object storage does not deliver images."""
    _is_change_reported: bool = False
    _images_per_task: int = IMAGES_PER_TASK

    def __iter__(self) -> "Generator[Batch]":
        prefetcher = Prefetcher(self._read, TENSOR_BATCHES)
        try:
            for batch, notes in prefetcher:
                self.waited += prefetcher.waited
                self.rejected.update(notes.rejected)
                self.problem = notes.problem
                if notes.changed and not self._is_change_reported:
                    self.report_changed(notes.changed)
                    self._is_change_reported = True
                if len(batch):
                    pixels = len(batch) * batch.images_BCHW.shape[3]
                    self.pixels += pixels
                    self.padding += pixels - int(batch.widths_B.sum())
                yield batch
                while self.problem is not None:
                    yield batch
        finally:
            prefetcher.close()

    def _read(self) -> "Iterator[tuple[Batch, BatchNotes]]":
        executions = Prefetcher(self._executions, depth=1)
        try:
            yield from self._to_batches(batches.make_block(self._current_spec(), self.first, self._first_stop))
            for number, blocks in enumerate(executions):
                if number >= len(FIRST_TASKS) and executions.waited > 0.05:
                    self._images_per_task = min(2 * self._images_per_task, MAX_IMAGES_PER_TASK)
                for block in blocks:
                    yield from self._to_batches(block)
        finally:
            executions.close()

    @property
    def _first_stop(self) -> int:
        """The end of the batches that the worker decodes itself."""
        return min(self.first + FIRST_BATCHES, self.stop)

    def _current_spec(self) -> BatchSpec:
        return replace(self.spec, image_cache=self.get_image_cache())

    def _executions(self) -> Iterator[list[pa.Table]]:
        """Yield the blocks of one execution after the other, each block with several batches."""
        first, task_counts = self._first_stop, iter(FIRST_TASKS)
        batch_bytes = batches.batch_bytes(self.spec)
        while first < self.stop:
            # Batches for each task, of which the worker's shares hold about `_images_per_task` images.
            step = max(1, self._images_per_task * self.spec.world_size // self.spec.batch_size)
            step = min(step, max(1, MAX_EXECUTION_BYTES // batch_bytes))
            tasks = next(task_counts, max(FIRST_TASKS[-1], TASKS_PER_SLOT * self.allocation.decode_tasks))
            tasks = min(tasks, max(1, MAX_EXECUTION_BYTES // (batch_bytes * step)))
            stop = min(first + tasks * step, self.stop)
            ranges = [(start, min(start + step, stop)) for start in range(first, stop, step)]
            make = partial(batches.make_block, self._current_spec())
            yield map_ranges.map_ranges(make, ranges, self.allocation, batches.has_problem)
            first = stop

    def _to_batches(self, block: pa.Table) -> "Iterator[tuple[Batch, BatchNotes]]":
        return (_to_batch(block, row, self.pin_memory) for row in range(len(block)))


@dataclass(frozen=True)
class BatchNotes:
    """What a decoding task notes about a batch."""

    rejected: dict[int, Rejection]
    """Samples that were left out, by row number."""
    changed: str | None
    """URI of an image whose width is not the measured one."""
    problem: str | None
    """Why object storage did not deliver the images."""


def _to_batch(block: pa.Table, row: int, pin_memory: bool) -> "tuple[Batch, BatchNotes]":
    """Return a batch and the notes about it, of a row of a block with the schema `batches.BLOCK`."""
    # Imported here, because decoding tasks import this module and need neither torch's memory nor its import time.
    import torch

    from raycrnn.model.batch import Batch

    def tensor(name: str, dtype: type[np.generic]) -> "torch.Tensor":
        # A copy: the object store's memory is read-only, and it is freed with the block.
        return torch.from_numpy(np.frombuffer(block[name][row].as_buffer(), dtype).copy())

    images_BCHW = tensor("images", np.uint8).view(block["shape"][row].as_py())
    tensors = [images_BCHW, *(tensor(name, np.int64) for name in ("widths", "codes", "lengths", "rows"))]
    batch = Batch(*(each.pin_memory() if pin_memory else each for each in tensors))
    rejected, changed, problem = (block[name][row].as_py() for name in ("rejected", "changed", "problem"))
    rejections = {number: Rejection(*fields) for number, *fields in json.loads(rejected)}
    return batch, BatchNotes(rejections, changed, problem)
