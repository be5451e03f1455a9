"""Dynamic batching: each request gets its own results, and batches have similar widths."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data.image import PreparedImage
from raycrnn.data.lexicon import Lexicon
from raycrnn.model.transcription import Alternative, Transcription, Unit
from raycrnn.serving.batcher import Batcher, BatcherClosed, QueuedLine, QueueFull, ReadOptions, choose_batch
from tests.conftest import draw, words
from tests.model.test_recognizer import recognizer

READERS = [ThreadPoolExecutor(1)]


def line(width: int) -> PreparedImage:
    return PreparedImage(np.zeros((32, width, 1), np.uint8), (width, 32))


@dataclass
class GatedRecognizer:
    """A recognizer that returns the widths as texts once its gate is open."""

    fails_at: int | None = None
    max_batch_pixels: int = 2**20

    def __post_init__(self):
        self.gate = threading.Event()
        self.batches: list[list[int]] = []
        self.read_with: list[tuple[list[int], Lexicon | None]] = []

    def transcribe(self, lines, n_best, spans, lexicon):
        self.gate.wait(10)
        widths = [each.original_size[0] for each in lines]
        self.batches.append(widths)
        self.read_with.append((widths, lexicon))
        if self.fails_at in widths:
            raise MemoryError(str(self.fails_at))
        units = (Unit("x", 0, 1.0, 0, 0, 1, 32),) if spans else None
        readings = [[Alternative(f"{w}.{n}", (0,), -n, 0.5) for n in range(n_best)] for w in widths]
        return [Transcription(tuple(each), None, units) for each in readings]


async def read_together(batcher: Batcher, gate: threading.Event, *requests) -> list:
    """Return the results of requests (widths, options) that all wait before the first one is read."""
    tasks = [asyncio.create_task(batcher.read([line(w) for w in widths], options)) for widths, options in requests]
    while batcher.waiting < sum(len(widths) for widths, _ in requests):
        await asyncio.sleep(0.01)
    gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_each_request_gets_only_what_it_asked_for():
    async def run():
        recognizer_ = GatedRecognizer()
        batcher = Batcher(recognizer_, 100, READERS)
        requests = [([100, 110], ReadOptions(1, False)), ([105], ReadOptions(3, True)), ([300], ReadOptions(2, False))]
        results = await read_together(batcher, recognizer_.gate, *requests)
        await batcher.close()
        return results

    results = asyncio.run(run())
    assert [[t.text for t in each] for each in results] == [["100.0", "110.0"], ["105.0"], ["300.0"]]
    assert [len(each[0].alternatives) for each in results] == [1, 3, 2]
    assert [each[0].units is not None for each in results] == [False, True, False]


def test_lines_are_counted_at_all_times_until_they_are_read():
    async def run():
        recognizer_ = GatedRecognizer()
        batcher = Batcher(recognizer_, 100, READERS)
        task = asyncio.create_task(batcher.read([line(100), line(110)], ReadOptions(1, False)))
        counts = []
        for _ in range(20):
            await asyncio.sleep(0)
            counts.append(batcher.waiting)
        recognizer_.gate.set()
        await task
        await batcher.close()
        return counts

    assert set(asyncio.run(run())) == {2}


def test_lines_of_similar_width_are_read_together():
    async def run():
        recognizer_ = GatedRecognizer()
        batcher = Batcher(recognizer_, 100, READERS)
        await read_together(
            batcher, recognizer_.gate, *[([width], ReadOptions(1, False)) for width in (100, 400, 110, 420, 90, 8)]
        )
        await batcher.close()
        return recognizer_.batches

    # The first line is read as soon as it arrives; the others wait.
    first, *others = asyncio.run(run())
    assert 100 in first
    assert sorted([*first, *(w for batch in others for w in batch)]) == [8, 90, 100, 110, 400, 420]
    assert [400, 420] in others
    assert [8] in others


def test_a_request_over_the_limit_is_refused_and_none_of_its_lines_wait():
    async def run():
        recognizer_ = GatedRecognizer()
        batcher = Batcher(recognizer_, 3, READERS)
        task = asyncio.create_task(batcher.read([line(100)] * 2, ReadOptions(1, False)))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFull) as full:
            await batcher.read([line(100)] * 2, ReadOptions(1, False))
        waiting = batcher.waiting
        recognizer_.gate.set()
        await task
        await batcher.close()
        return full.value.waiting, waiting

    assert asyncio.run(run()) == (2, 2)


def test_lines_of_a_cancelled_request_are_not_read():
    async def run():
        recognizer_ = GatedRecognizer()
        batcher = Batcher(recognizer_, 100, READERS)
        first = asyncio.create_task(batcher.read([line(100)], ReadOptions(1, False)))
        await asyncio.sleep(0.05)
        cancelled = asyncio.create_task(batcher.read([line(500)], ReadOptions(1, False)))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await asyncio.sleep(0.05)
        recognizer_.gate.set()
        await first
        await batcher.close()
        return recognizer_.batches

    assert asyncio.run(run()) == [[100]]


def test_a_line_that_fails_does_not_affect_the_others_in_its_batch():
    async def run():
        recognizer_ = GatedRecognizer(fails_at=110)
        batcher = Batcher(recognizer_, 100, READERS)
        results = await read_together(
            batcher, recognizer_.gate, *[([width], ReadOptions(1, False)) for width in (400, 100, 110, 120)]
        )
        await batcher.close()
        return results

    wide, before, failed, after = asyncio.run(run())
    assert isinstance(failed, MemoryError)
    assert [each[0].text for each in (wide, before, after)] == ["400.0", "100.0", "120.0"]


def test_close_reads_the_lines_that_wait():
    async def run():
        recognizer_ = GatedRecognizer()
        batcher = Batcher(recognizer_, 100, READERS)
        task = asyncio.create_task(batcher.read([line(100), line(900)], ReadOptions(1, False)))
        await asyncio.sleep(0.05)
        recognizer_.gate.set()
        await batcher.close()
        return [t.text for t in await task]

    assert asyncio.run(run()) == ["100.0", "900.0"]


def test_close_waits_for_reservations_and_refuses_new_lines():
    async def run():
        recognizer_ = GatedRecognizer()
        recognizer_.gate.set()
        batcher = Batcher(recognizer_, 100, READERS)
        with batcher.reserve(1) as reservation:
            closing = asyncio.create_task(batcher.close())
            await asyncio.sleep(0.1)
            with pytest.raises(BatcherClosed):
                await batcher.read([line(200)], ReadOptions(1, False))
            results = await asyncio.wait_for(reservation.read([line(100)], ReadOptions(1, False)), 10)
        await closing
        with pytest.raises(BatcherClosed):
            await asyncio.wait_for(batcher.read([line(200)], ReadOptions(1, False)), 10)
        return results[0].text

    assert asyncio.run(run()) == "100.0"


def test_close_gives_up_after_its_timeout_and_fails_the_lines_that_wait():
    async def run():
        recognizer_ = GatedRecognizer()
        batcher = Batcher(recognizer_, 100, READERS)
        being_read = asyncio.create_task(batcher.read([line(100)], ReadOptions(1, False)))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher.read([line(500)], ReadOptions(1, False)))
        with batcher.reserve(1) as reservation:
            await asyncio.wait_for(batcher.close(0.1), 10)
            with pytest.raises(BatcherClosed):
                await asyncio.wait_for(reservation.read([line(100)], ReadOptions(1, False)), 10)
        results = await asyncio.wait_for(asyncio.gather(being_read, waiting, return_exceptions=True), 10)
        recognizer_.gate.set()
        return [type(each) for each in results]

    assert asyncio.run(run()) == [BatcherClosed, BatcherClosed]


def test_a_reservation_counts_as_waiting_until_it_is_used_or_released():
    async def run():
        recognizer_ = GatedRecognizer()
        recognizer_.gate.set()
        batcher = Batcher(recognizer_, 4, READERS)
        assert batcher.longest_wait == 0
        with batcher.reserve(3) as reservation:
            await asyncio.sleep(0.02)
            assert batcher.longest_wait >= 0.02
            with pytest.raises(QueueFull) as full, batcher.reserve(2):
                pass
            assert full.value.waiting == 3
            await reservation.read([line(100)], ReadOptions(1, False))
            left = batcher.waiting
        with batcher.reserve(4):
            return left, batcher.waiting

    assert asyncio.run(run()) == (0, 4)


def test_a_cancelled_request_frees_its_places_at_once():
    async def run():
        recognizer_ = GatedRecognizer()
        batcher = Batcher(recognizer_, 4, READERS)
        first = asyncio.create_task(batcher.read([line(100)], ReadOptions(1, False)))
        await asyncio.sleep(0.05)
        cancelled = asyncio.create_task(batcher.read([line(100)] * 3, ReadOptions(1, False)))
        await asyncio.sleep(0.05)
        before = batcher.waiting
        cancelled.cancel()
        await asyncio.sleep(0.05)
        after = batcher.waiting
        recognizer_.gate.set()
        await first
        await batcher.close()
        return before, after

    assert asyncio.run(run()) == (4, 1)


def test_a_recognizer_reads_the_same_through_the_batcher():
    recognizer_ = recognizer()
    lines = [recognizer_.prepare(draw(text)) for text in words(20)]

    async def run():
        batcher = Batcher(recognizer_, 100, READERS)
        results = await asyncio.gather(*(batcher.read([each], ReadOptions(2, True)) for each in lines))
        await batcher.close()
        return [each[0] for each in results]

    for results, expected in zip(asyncio.run(run()), recognizer_.transcribe(lines, 2), strict=True):
        assert results.text == expected.text
        assert [unit.left for unit in results.units] == [unit.left for unit in expected.units]


@given(st.lists(st.integers(8, 3000), min_size=1, max_size=80))
def test_a_batch_has_the_first_line_similar_widths_and_at_most_the_allowed_pixels(widths):
    waiting = [QueuedLine(line(width), ReadOptions(1, False), result=None) for width in widths]
    batch = choose_batch(waiting, 2**17)
    chosen = [each.width for each in batch]
    assert batch[0] is waiting[0]
    assert len({id(each) for each in batch}) == len(batch)
    assert len(batch) == 1 or len(batch) * max(chosen) * 32 <= 2**17
    assert min(chosen) * 2.05 >= max(chosen)


def test_lines_with_different_lexicons_are_read_in_different_batches():
    async def run():
        reader = GatedRecognizer()
        batcher = Batcher(reader, 100, READERS)
        lexicons = (None, Lexicon((("a",),)), Lexicon((("b",),)), Lexicon((("a",),)))
        tasks = [
            asyncio.create_task(batcher.read([line(100 + number)], ReadOptions(1, False, lexicon)))
            for number, lexicon in enumerate(lexicons)
        ]
        while batcher.waiting < len(tasks):
            await asyncio.sleep(0.01)
        reader.gate.set()
        await asyncio.gather(*tasks)
        await batcher.close()
        return reader.read_with

    assert {frozenset(widths): lexicon for widths, lexicon in asyncio.run(run())} == {
        frozenset([100]): None,
        frozenset([101, 103]): Lexicon((("a",),)),
        frozenset([102]): Lexicon((("b",),)),
    }
