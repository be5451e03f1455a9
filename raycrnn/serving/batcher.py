"""Dynamic batching: lines that wait are read together with those of like width.

Nothing waits for a batch to fill up: whenever the network is free, it takes the line that has waited longest and, of
the others, those nearest to it in width. A lone line is read at once, and under load batches grow by themselves.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import torch

from raycrnn.data.image import PreparedImage
from raycrnn.model.recognizer import Recognizer
from raycrnn.model.transcription import Transcription

CLOSING_SECONDS = 60.0
"""after which a batcher that closes gives up what it has not read"""

LEAST_LIKENESS = 0.7
"""of a width to the first one's in a batch: so none is less than half as wide as the widest."""


class QueueFull(Exception):
    """As many lines wait as may. `seconds`: until about half of them are read."""

    def __init__(self, waiting: int, seconds: float):
        super().__init__(f"{waiting} lines wait")
        self.waiting, self.seconds = waiting, seconds


class Closed(Exception):
    """Nothing is read any more."""


@dataclass(eq=False)
class QueuedLine:
    """A line that waits to be read, and for whom."""

    line: PreparedImage
    n_best: int
    spans: bool
    result: asyncio.Future = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def width(self) -> int:
        return self.line.pixels.shape[1]


class Batcher:
    """Reads lines from many requests with one recogniser, batch after batch.

    On a CPU each of its cores reads a batch of its own while many lines wait: all of them on one batch read a third
    fewer lines a second, for they wait for each other and for whatever else runs. A batch that is alone gets all.
    """

    def __init__(self, recognizer: Recognizer, most_waiting: int, readers: Sequence[Executor]):
        """
        Args:
            most_waiting: lines that may wait at a time.
            readers: where the network computes, each of one thread: each thread that calls torch gets worker threads
                of its own, so it is always the same ones. A lone batch may use as many CPU threads as there are
                readers.
        """
        self.recognizer = recognizer
        self.most_waiting = most_waiting
        self.batches, self.lines = 0, 0
        """read so far"""
        self.seconds_a_line = 0.05
        """moving average"""
        self._closing = False
        self._rooms: set[Reservation] = set()
        self._waiting: list[QueuedLine] = []
        self._in_reading: list[QueuedLine] = []
        self._readers = list(readers)
        self._free = list(readers)
        self._tasks: set[asyncio.Task] = set()
        self._arrived = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def waiting(self) -> int:
        """Lines that are not read yet, those included that have yet to be prepared."""
        return sum(room.lines for room in self._rooms) + len(self._waiting) + len(self._in_reading)

    @property
    def longest_wait(self) -> float:
        """Seconds since room was taken for what waits longest; 0 where nothing waits."""
        return time.monotonic() - min(room.since for room in self._rooms) if self._rooms else 0.0

    @contextmanager
    def reserve(self, lines: int) -> Iterator["Reservation"]:
        """Room for so many lines, which may have yet to be prepared.

        Raises:
            Full: if so many more may not wait.
            Closed: after `close`.
        """
        if self._closing:
            raise Closed
        if self.waiting + lines > self.most_waiting:
            raise QueueFull(self.waiting, 0.5 * self.waiting * self.seconds_a_line)
        room = Reservation(self, lines)
        self._rooms.add(room)
        try:
            yield room
        finally:
            self._rooms.discard(room)

    async def read(self, lines: Sequence[PreparedImage], n_best: int, spans: bool) -> list[Transcription]:
        """Read lines, all or none. Raises `Full`, `Closed`, and what the recogniser raises."""
        with self.reserve(len(lines)) as room:
            return await room.read(lines, n_best, spans)

    async def _read_all(self, own: list[QueuedLine]) -> list[Transcription]:
        self._waiting += own
        self._arrived.set()
        try:
            return await asyncio.gather(*(each.result for each in own))
        finally:
            # Who asked may have gone away; then nobody waits for the rest.
            for each in own:
                each.result.cancel()
            self._waiting = [each for each in self._waiting if not each.result.done()]

    async def close(self, seconds: float = CLOSING_SECONDS) -> None:
        """Take nothing more, and read what waits and what room was reserved for; after so many seconds give it up."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._rooms or self._in_reading:
                    await asyncio.sleep(0.01)
        self._task.cancel()
        for room in self._rooms:
            room.closed = True
        for each in (*self._waiting, *self._in_reading):
            if not each.result.done():
                each.result.set_exception(Closed())

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._free and (batch := self._take()):
                alone = len(self._free) == len(self._readers) and not self._waiting
                task = asyncio.create_task(self._read_by(self._free.pop(), batch, len(self._readers) if alone else 1))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[QueuedLine]:
        """The next batch, which waits no longer."""
        batch = like_the_first(self._waiting, self.recognizer.max_batch_pixels)
        taken = set(map(id, batch))
        self._waiting = [each for each in self._waiting if id(each) not in taken]
        return batch

    async def _read_by(self, reader: Executor, batch: list[QueuedLine], threads: int) -> None:
        self._in_reading += batch
        try:
            await self._read(reader, batch, threads)
        finally:
            self._in_reading = [each for each in self._in_reading if each not in batch]
            self._free.append(reader)
            self._arrived.set()

    async def _read(self, reader: Executor, batch: list[QueuedLine], threads: int) -> None:
        start = time.perf_counter()
        try:
            found = await asyncio.get_running_loop().run_in_executor(reader, self._transcribe, batch, threads)
        except Exception as error:
            await self._fail(reader, batch, error)
            return
        for each, transcription in zip(batch, found, strict=True):
            if not each.result.done():
                each.result.set_result(_as_asked(transcription, each))
        self.batches, self.lines = self.batches + 1, self.lines + len(batch)
        seconds = (time.perf_counter() - start) / len(batch) / (len(self._readers) if threads == 1 else 1)
        self.seconds_a_line += 0.1 * (seconds - self.seconds_a_line)

    def _transcribe(self, batch: list[QueuedLine], threads: int) -> list[Transcription]:
        # Of the calling thread alone.
        torch.set_num_threads(threads)
        n_best, spans = max(each.n_best for each in batch), any(each.spans for each in batch)
        return self.recognizer.transcribe([each.line for each in batch], n_best, spans)

    async def _fail(self, reader: Executor, batch: list[QueuedLine], error: Exception) -> None:
        """Whoever asked for a line that cannot be read, as for want of memory, is told; the others are not harmed."""
        if len(batch) > 1:
            for each in batch:
                await self._read(reader, [each], threads=1)
        elif not batch[0].result.done():
            batch[0].result.set_exception(error)


class Reservation:
    """Lines that somebody will ask for, counted from now on among those that wait."""

    def __init__(self, batcher: Batcher, lines: int):
        self._batcher = batcher
        self.lines = lines
        """that have yet to be prepared"""
        self.since = time.monotonic()
        self.closed = False
        """whether it is too late to ask"""

    async def read(self, lines: Sequence[PreparedImage], n_best: int, spans: bool) -> list[Transcription]:
        """Read lines, as many as there is room for or fewer. Raises `Closed`, and what the recogniser raises."""
        if self.closed:
            raise Closed
        self.lines = 0
        return await self._batcher._read_all([QueuedLine(line, n_best, spans) for line in lines])


def like_the_first(waiting: Sequence[QueuedLine], most_pixels: int) -> list[QueuedLine]:
    """The first and, of the others, those nearest to it in width, at most so many pixels with padding."""
    if not waiting:
        return []
    first, *others = waiting
    others = [each for each in others if _likeness(each, first) >= LEAST_LIKENESS]
    batch, widest = [first], first.width
    for each in sorted(others, key=lambda other: -_likeness(other, first)):
        widest = max(widest, each.width)
        if (len(batch) + 1) * widest * first.line.pixels.shape[0] > most_pixels:
            break
        batch.append(each)
    return batch


def _likeness(one: QueuedLine, other: QueuedLine) -> float:
    return min(one.width, other.width) / max(one.width, other.width)


def _as_asked(found: Transcription, asked: QueuedLine) -> Transcription:
    """Others in the batch may have asked for more."""
    units = found.units if asked.spans else None
    return replace(found, alternatives=found.alternatives[: asked.n_best], units=units)
