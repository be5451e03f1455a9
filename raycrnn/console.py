"""What a command shows a person: lines on stderr, progress, Ctrl-C."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """How many images are done, and how fast: a bar on a terminal, elsewhere a line now and then; on stderr."""

    def __init__(self, total: int, done: int = 0):
        self.total, self.done = total, done
        self._bar: tqdm | None = None
        self._said = (time.monotonic(), done)
        self._began = False

    def add(self, images: int) -> None:
        """To be called often, also while none are done."""
        if images and not self._began:
            # The rate is told without the start of Ray and the replicas.
            self._began, self._said = True, (time.monotonic(), self.done + images)
        self.done += images
        if sys.stderr.isatty():
            self._show_bar(images)
        elif time.monotonic() - self._said[0] > SECONDS_BETWEEN_LINES:
            say(self._line())
            self._said = (time.monotonic(), self.done)

    def _show_bar(self, images: int) -> None:
        if self._bar is None:
            options = {"file": sys.stderr, "leave": False, "dynamic_ncols": True, "unit": " images"}
            self._bar = tqdm(total=self.total, initial=self.done - images, **options)
        self._bar.update(images)

    def _line(self) -> str:
        start = f"{self.done:,} of {self.total:,} images"
        then, done = self._said
        rate = (self.done - done) / (time.monotonic() - then)
        if rate:
            left = tqdm.format_interval((self.total - self.done) / rate)
            return f"{start}, {rate:,.0f} a second, {left} left"
        import ray

        free, of = (each.get("CPU", 0) for each in (ray.available_resources(), ray.cluster_resources()))
        return f"{start}, none for {SECONDS_BETWEEN_LINES:.0f} seconds; {free:g} of {of:g} CPUs are free"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def say(text: str) -> None:
    """A line of progress or warning; results alone go to stdout."""
    print(text, file=sys.stderr, flush=True)


class Interrupt:
    """Whether somebody pressed Ctrl-C."""

    pressed = False


@contextmanager
def defer_interrupt() -> Iterator[Interrupt]:
    """Meanwhile Ctrl-C is noted, for the work to end in good order; Ctrl-C again raises `KeyboardInterrupt`.

    Not by the exception, which is lost where it comes in the middle of a callback, as of Ray's. Outside of the main
    thread, where no signals arrive, nothing is noted.
    """
    noted = Interrupt()

    def note(*_: object) -> None:
        if noted.pressed:
            raise KeyboardInterrupt
        noted.pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


class StopRequest:
    """Whether somebody asked to end, and by which signal."""

    def __init__(self) -> None:
        self.asked, self.number = threading.Event(), 0

    def note(self, number: int, _: object) -> None:
        """A signal's handler; a second one ends at once."""
        if self.asked.is_set():
            raise KeyboardInterrupt
        self.number = number
        self.asked.set()


@contextmanager
def defer_stop() -> Iterator[StopRequest]:
    """Meanwhile SIGINT (Ctrl-C) and SIGTERM are noted."""
    stop = StopRequest()
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
