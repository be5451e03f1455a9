"""Dynamic batching: everyone gets his own answer, and batches are of like width."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data.image import PreparedImage
from raycrnn.model.transcription import Alternative, Transcription, Unit
from raycrnn.serving.batcher import Batcher, Closed, QueuedLine, QueueFull, like_the_first
from tests.conftest import draw, words
from tests.model.test_recognizer import recognizer

READERS = [ThreadPoolExecutor(1)]


def line(width: int) -> PreparedImage:
    return PreparedImage(np.zeros((32, width, 1), np.uint8), width)


@dataclass
class Gated:
    """Stands in for a recogniser: answers with widths, once the gate is open."""

    fails_at: int | None = None
    max_batch_pixels: int = 2**20

    def __post_init__(self):
        self.gate = threading.Event()
        self.batches: list[list[int]] = []

    def transcribe(self, lines, n_best, spans):
        self.gate.wait(10)
        widths = [each.width for each in lines]
        self.batches.append(widths)
        if self.fails_at in widths:
            raise MemoryError(str(self.fails_at))
        units = (Unit("x", 0, 1.0, 0, 1),) if spans else None
        readings = [[Alternative(f"{w}.{n}", (0,), -n, 0.5) for n in range(n_best)] for w in widths]
        return [Transcription(tuple(each), None, units) for each in readings]


async def opened(batcher: Batcher, gate: threading.Event, *requests) -> list:
    """What becomes of requests (widths, n_best, spans) that all wait before the first is read."""
    tasks = [asyncio.create_task(batcher.read([line(w) for w in widths], n, s)) for widths, n, s in requests]
    while batcher.waiting < sum(len(widths) for widths, _, _ in requests):
        await asyncio.sleep(0.01)
    gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_each_gets_its_own_answer_and_no_more_than_it_asked_for():
    async def ask():
        reader = Gated()
        batcher = Batcher(reader, 100, READERS)
        requests = [([100, 110], 1, False), ([105], 3, True), ([300], 2, False)]
        found = await opened(batcher, reader.gate, *requests)
        await batcher.close()
        return found

    found = asyncio.run(ask())
    assert [[t.text for t in each] for each in found] == [["100.0", "110.0"], ["105.0"], ["300.0"]]
    assert [len(each[0].alternatives) for each in found] == [1, 3, 2]
    assert [each[0].units is not None for each in found] == [False, True, False]


def test_lines_of_like_width_are_read_together_the_longest_waiting_first():
    async def ask():
        reader = Gated()
        batcher = Batcher(reader, 100, READERS)
        await opened(batcher, reader.gate, *[([width], 1, False) for width in (100, 400, 110, 420, 90, 8)])
        await batcher.close()
        return reader.batches

    # The first is taken as soon as it comes; then the rest wait.
    first, *others = asyncio.run(ask())
    assert 100 in first
    assert sorted([*first, *(w for batch in others for w in batch)]) == [8, 90, 100, 110, 400, 420]
    assert [400, 420] in others
    assert [8] in others


def test_what_does_not_fit_is_refused_and_nothing_of_it_waits():
    async def ask():
        reader = Gated()
        batcher = Batcher(reader, 3, READERS)
        task = asyncio.create_task(batcher.read([line(100)] * 2, 1, False))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFull) as full:
            await batcher.read([line(100)] * 2, 1, False)
        waiting = batcher.waiting
        reader.gate.set()
        await task
        await batcher.close()
        return full.value.waiting, waiting

    assert asyncio.run(ask()) == (2, 2)


def test_who_goes_away_is_not_read_for():
    async def ask():
        reader = Gated()
        batcher = Batcher(reader, 100, READERS)
        first = asyncio.create_task(batcher.read([line(100)], 1, False))
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(batcher.read([line(500)], 1, False))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        reader.gate.set()
        await first
        await batcher.close()
        return reader.batches

    assert asyncio.run(ask()) == [[100]]


def test_a_line_that_cannot_be_read_costs_nobody_else_an_answer():
    async def ask():
        reader = Gated(fails_at=110)
        batcher = Batcher(reader, 100, READERS)
        found = await opened(batcher, reader.gate, *[([width], 1, False) for width in (400, 100, 110, 120)])
        await batcher.close()
        return found

    wide, before, failed, after = asyncio.run(ask())
    assert isinstance(failed, MemoryError)
    assert [each[0].text for each in (wide, before, after)] == ["400.0", "100.0", "120.0"]


def test_closing_reads_what_waits():
    async def ask():
        reader = Gated()
        batcher = Batcher(reader, 100, READERS)
        task = asyncio.create_task(batcher.read([line(100), line(900)], 1, False))
        await asyncio.sleep(0.05)
        reader.gate.set()
        await batcher.close()
        return [t.text for t in await task]

    assert asyncio.run(ask()) == ["100.0", "900.0"]


def test_who_is_still_preparing_is_read_for_before_it_ends_and_nobody_else():
    async def ask():
        reader = Gated()
        reader.gate.set()
        batcher = Batcher(reader, 100, READERS)
        with batcher.reserve(1) as room:
            closing = asyncio.create_task(batcher.close())
            await asyncio.sleep(0.1)
            with pytest.raises(Closed):
                await batcher.read([line(200)], 1, False)
            found = await asyncio.wait_for(room.read([line(100)], 1, False), 10)
        await closing
        with pytest.raises(Closed):
            await asyncio.wait_for(batcher.read([line(200)], 1, False), 10)
        return found[0].text

    assert asyncio.run(ask()) == "100.0"


def test_closing_gives_up_after_a_while_and_tells_those_who_wait():
    async def ask():
        reader = Gated()
        batcher = Batcher(reader, 100, READERS)
        in_reading = asyncio.create_task(batcher.read([line(100)], 1, False))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher.read([line(500)], 1, False))
        with batcher.reserve(1) as room:
            await asyncio.wait_for(batcher.close(0.1), 10)
            with pytest.raises(Closed):
                await asyncio.wait_for(room.read([line(100)], 1, False), 10)
        found = await asyncio.wait_for(asyncio.gather(in_reading, waiting, return_exceptions=True), 10)
        reader.gate.set()
        return [type(each) for each in found]

    assert asyncio.run(ask()) == [Closed, Closed]


def test_room_counts_as_waiting_until_it_is_given_back_or_used():
    async def ask():
        reader = Gated()
        reader.gate.set()
        batcher = Batcher(reader, 4, READERS)
        assert batcher.longest_wait == 0
        with batcher.reserve(3) as room:
            await asyncio.sleep(0.02)
            assert batcher.longest_wait >= 0.02
            with pytest.raises(QueueFull) as full, batcher.reserve(2):
                pass
            assert full.value.waiting == 3
            await room.read([line(100)], 1, False)
            left = batcher.waiting
        with batcher.reserve(4):
            return left, batcher.waiting

    assert asyncio.run(ask()) == (0, 4)


def test_those_who_go_away_leave_their_place_to_others_at_once():
    async def ask():
        reader = Gated()
        batcher = Batcher(reader, 4, READERS)
        first = asyncio.create_task(batcher.read([line(100)], 1, False))
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(batcher.read([line(100)] * 3, 1, False))
        await asyncio.sleep(0.05)
        before = batcher.waiting
        gone.cancel()
        await asyncio.sleep(0.05)
        after = batcher.waiting
        reader.gate.set()
        await first
        await batcher.close()
        return before, after

    assert asyncio.run(ask()) == (4, 1)


def test_a_real_recogniser_reads_the_same_through_it():
    reader = recognizer()
    lines = [reader.prepare(draw(text)) for text in words(20)]

    async def ask():
        batcher = Batcher(reader, 100, READERS)
        found = await asyncio.gather(*(batcher.read([each], 2, True) for each in lines))
        await batcher.close()
        return [each[0] for each in found]

    for found, expected in zip(asyncio.run(ask()), reader.transcribe(lines, 2), strict=True):
        assert found.text == expected.text
        assert [unit.left for unit in found.units] == [unit.left for unit in expected.units]


@given(st.lists(st.integers(8, 3000), min_size=1, max_size=80))
def test_a_batch_holds_the_first_stays_within_its_pixels_and_is_of_like_width(widths):
    waiting = [QueuedLine(line(width), 1, False, result=None) for width in widths]
    batch = like_the_first(waiting, 2**17)
    chosen = [each.width for each in batch]
    assert batch[0] is waiting[0]
    assert len({id(each) for each in batch}) == len(batch)
    assert len(batch) == 1 or len(batch) * max(chosen) * 32 <= 2**17
    assert min(chosen) * 2.05 >= max(chosen)
