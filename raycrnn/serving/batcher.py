"""Dynamic batching: lines from many requests are read together with lines of similar width.

The batcher never waits for a batch to fill up. Whenever a reader is free, it takes the line that has waited longest
and the waiting lines that are nearest to it in width. A single line is read at once; under load, batches grow.

Ray Serve's `@serve.batch` (2.60) does not replace it, even with a `batch_size_fn`:

- It batches in order of arrival, which pads narrow lines to the widest one.
- A line that does not fit into a batch goes to the back of the queue, where it may be overtaken again and again.
- Its queue has no limit: no request is refused because of the number of lines that wait, and no places can be reserved
  for images that are still being decoded.
- It needs Ray, and this module does not.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from raycrnn.data.image import PreparedImage
from raycrnn.data.lexicon import Lexicon
from raycrnn.model.transcription import Transcription

CLOSE_TIMEOUT_SECONDS = 60.0
"""Seconds after which `Batcher.close` gives up the lines that are still unread."""

MIN_WIDTH_RATIO = 0.7
"""Least ratio of a line's width to that of the first line in its batch, narrower to wider. The narrowest line of a
batch is therefore at least 0.49 times as wide as the widest."""


class LineReader(Protocol):
    """What the batcher uses of a `Recognizer`."""

    @property
    def max_batch_pixels(self) -> int: ...

    def transcribe(
        self, lines: Sequence[PreparedImage], n_best: int, spans: bool, *, lexicon: Lexicon | None
    ) -> list[Transcription]: ...


class QueueFull(Exception):
    """The queue has no room for the lines of a request.

    Args:
        waiting: Lines that wait.
        seconds: Estimated seconds until half of them are read.
    """

    def __init__(self, waiting: int, seconds: float):
        super().__init__(f"{waiting} lines wait")
        self.waiting, self.seconds = waiting, seconds


class BatcherClosed(Exception):
    """The batcher is closed, or gave up a line while closing."""


@dataclass(frozen=True)
class ReadOptions:
    """How the lines of a request are read."""

    n_best: int
    """Number of readings of each line."""
    spans: bool
    """Whether to return the units of each reading."""
    lexicon: Lexicon | None = None
    """The lexicon of the request; None for the model's. Lines with different ones are in different batches."""


@dataclass(eq=False)
class QueuedLine:
    """A line that waits to be read, and the future that takes its transcription."""

    line: PreparedImage
    options: ReadOptions
    result: asyncio.Future[Transcription] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def lexicon(self) -> Lexicon | None:
        return self.options.lexicon

    @property
    def width(self) -> int:
        """The line's width in pixels, without padding."""
        return self.line.pixels.shape[1]


class Batcher:
    """Reads lines from many requests in batches.

    On a CPU with many lines waiting, each reader thread reads a batch of its own with one torch thread. One batch on
    all cores reads a third fewer lines per second, because its threads wait for each other. When only one batch is
    there, it gets all cores.

    Args:
        recognizer: Reads the batches.
        max_waiting: Lines that may wait at the same time.
        readers: Executors of one thread each that run the network. Each keeps its thread, because torch starts
            worker threads for every thread that calls it. Their number is also the number of torch threads of a batch
            that is alone.
    """

    def __init__(self, recognizer: LineReader, max_waiting: int, readers: Sequence[Executor]):
        self.recognizer = recognizer
        self.max_waiting = max_waiting
        self.batches_read, self.lines_read = 0, 0
        self.seconds_per_line = 0.05
        """Exponential moving average; the start value is a guess."""
        self._closing = False
        self._reservations: set[Reservation] = set()
        self._queue: list[QueuedLine] = []
        self._being_read: list[QueuedLine] = []
        self._readers = list(readers)
        self._free_readers = list(readers)
        self._batch_tasks: set[asyncio.Task[None]] = set()
        self._wake_up = asyncio.Event()
        self._dispatcher = asyncio.get_running_loop().create_task(self._dispatch())

    @property
    def waiting(self) -> int:
        """Lines that are not read yet, including reserved ones."""
        reserved = sum(reservation.lines for reservation in self._reservations)
        return reserved + len(self._queue) + len(self._being_read)

    @property
    def longest_wait(self) -> float:
        """Seconds since the oldest reservation was made, or 0 without reservations."""
        since = min((reservation.since for reservation in self._reservations), default=None)
        return 0.0 if since is None else time.monotonic() - since

    @contextmanager
    def reserve(self, lines: int) -> Iterator["Reservation"]:
        """Reserve places in the queue for lines that are not decoded yet.

        Raises:
            QueueFull: There are fewer than `lines` places.
            BatcherClosed: `close` was called.
        """
        if self._closing:
            raise BatcherClosed
        if self.waiting + lines > self.max_waiting:
            raise QueueFull(self.waiting, 0.5 * self.waiting * self.seconds_per_line)
        reservation = Reservation(self, lines)
        self._reservations.add(reservation)
        try:
            yield reservation
        finally:
            self._reservations.discard(reservation)

    async def read(self, lines: Sequence[PreparedImage], options: ReadOptions) -> list[Transcription]:
        """Read all lines of a request.

        Raises:
            QueueFull, BatcherClosed: As `reserve` does; no line is read then.
            Exception: Whatever the recognizer raises.
        """
        with self.reserve(len(lines)) as reservation:
            return await reservation.read(lines, options)

    async def _read_queued(self, lines: list[QueuedLine]) -> list[Transcription]:
        self._queue += lines
        self._wake_up.set()
        try:
            return await asyncio.gather(*(line.result for line in lines))
        finally:
            # If the client has disconnected, the remaining lines need not be read.
            for line in lines:
                line.result.cancel()
            self._queue = [line for line in self._queue if not line.result.done()]

    async def close(self, timeout: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Refuse new lines and read those that wait or have a reservation; give them up after `timeout` seconds."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._reservations or self._being_read:
                    await asyncio.sleep(0.01)
        self._dispatcher.cancel()
        for reservation in self._reservations:
            reservation.closed = True
        for line in (*self._queue, *self._being_read):
            if not line.result.done():
                line.result.set_exception(BatcherClosed())

    async def _dispatch(self) -> None:
        """Give batches to free readers until cancelled."""
        while True:
            await self._wake_up.wait()
            self._wake_up.clear()
            while self._free_readers and (batch := self._take_batch()):
                alone = len(self._free_readers) == len(self._readers) and not self._queue
                threads = len(self._readers) if alone else 1
                task = asyncio.create_task(self._run_batch(self._free_readers.pop(), batch, threads))
                self._batch_tasks.add(task)
                task.add_done_callback(self._batch_tasks.discard)

    def _take_batch(self) -> list[QueuedLine]:
        """Move the next batch from the queue to the lines that are being read, at once: `waiting` counts each line."""
        batch = choose_batch(self._queue, self.recognizer.max_batch_pixels)
        taken = set(batch)
        self._queue = [line for line in self._queue if line not in taken]
        self._being_read += batch
        return batch

    async def _run_batch(self, reader: Executor, batch: list[QueuedLine], threads: int) -> None:
        try:
            await self._read_batch(reader, batch, threads)
        finally:
            finished = set(batch)
            self._being_read = [line for line in self._being_read if line not in finished]
            self._free_readers.append(reader)
            self._wake_up.set()

    async def _read_batch(self, reader: Executor, batch: list[QueuedLine], threads: int) -> None:
        start = time.perf_counter()
        try:
            transcriptions = await asyncio.get_running_loop().run_in_executor(reader, self._transcribe, batch, threads)
        except Exception as error:
            if len(batch) > 1:
                # One line may be the cause, for example one too large for the memory: only its request fails.
                for line in batch:
                    await self._read_batch(reader, [line], threads=1)
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        for line, transcription in zip(batch, transcriptions, strict=True):
            if not line.result.done():
                line.result.set_result(_trim(transcription, line))
        self.batches_read, self.lines_read = self.batches_read + 1, self.lines_read + len(batch)
        parallel = len(self._readers) if threads == 1 else 1
        seconds = (time.perf_counter() - start) / len(batch) / parallel
        self.seconds_per_line += 0.1 * (seconds - self.seconds_per_line)

    def _transcribe(self, batch: list[QueuedLine], threads: int) -> list[Transcription]:
        # This sets the number for the calling thread alone.
        torch.set_num_threads(threads)
        options = [line.options for line in batch]
        n_best, spans = max(each.n_best for each in options), any(each.spans for each in options)
        return self.recognizer.transcribe([line.line for line in batch], n_best, spans, lexicon=options[0].lexicon)


class Reservation:
    """Places in the queue that a request holds while its images are decoded."""

    def __init__(self, batcher: Batcher, lines: int):
        self._batcher = batcher
        self.lines = lines
        """Lines that are not in the queue yet."""
        self.since = time.monotonic()
        self.closed = False
        """Whether the batcher has given this reservation up."""

    async def read(self, lines: Sequence[PreparedImage], options: ReadOptions) -> list[Transcription]:
        """Read lines, at most as many as were reserved.

        Raises:
            BatcherClosed: The batcher closed before or while they were read.
            Exception: Whatever the recognizer raises.
        """
        if self.closed:
            raise BatcherClosed
        self.lines = 0
        return await self._batcher._read_queued([QueuedLine(line, options) for line in lines])


def choose_batch(queue: Sequence[QueuedLine], max_pixels: int) -> list[QueuedLine]:
    """Choose the first line and the lines nearest to it in width with the same lexicon.

    Args:
        queue: The lines that wait.
        max_pixels: Number of pixels that a batch can have, with padding.
    """
    if not queue:
        return []
    first, *others = queue

    def ratio(line: QueuedLine) -> float:
        return min(line.width, first.width) / max(line.width, first.width)

    batch, widest = [first], first.width
    # Those of a request have the same lexicon object, which is compared at once.
    similar = [other for other in others if ratio(other) >= MIN_WIDTH_RATIO and other.lexicon == first.lexicon]
    for line in sorted(similar, key=ratio, reverse=True):
        widest = max(widest, line.width)
        if (len(batch) + 1) * widest * first.line.pixels.shape[0] > max_pixels:
            break
        batch.append(line)
    return batch


def _trim(transcription: Transcription, line: QueuedLine) -> Transcription:
    """Drop the alternatives and units that only other lines of the batch asked for."""
    units = transcription.units if line.options.spans else None
    return replace(transcription, alternatives=transcription.alternatives[: line.options.n_best], units=units)
