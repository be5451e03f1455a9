"""How far a reading of many images is."""

import sys
import time

from tqdm import tqdm

from raycrnn.command import say

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
