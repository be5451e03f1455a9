"""From the training workers to the person at the terminal, and back: progress, errors, a wish to stop."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from tqdm import tqdm


@ray.remote(num_cpus=0)
class Monitor:
    """Holds the last progress and what was said. Workers post, the command reads; neither waits for the other."""

    def __init__(self) -> None:
        self._progress: dict = {}
        self._lines: list[str] = []
        self._outcome: dict | None = None
        self._stop = False

    def post(self, progress: dict | None = None, line: str | None = None, outcome: dict | None = None) -> bool:
        """Returns whether the command wishes to stop."""
        if progress is not None:
            self._progress = progress
        if line is not None:
            self._lines.append(line)
        if outcome is not None:
            self._outcome = outcome
        return self._stop

    def read(self) -> tuple[dict, list[str], dict | None]:
        lines, self._lines = self._lines, []
        return self._progress, lines, self._outcome

    def stop(self) -> None:
        self._stop = True


class Reporter:
    """A worker's end: posts at most every half second and never waits."""

    def __init__(self, monitor: Any):
        self._monitor = monitor
        self._last = 0.0
        self._answer: ray.ObjectRef | None = None
        self.stop_requested = False

    def progress(self, make: Callable[[], dict]) -> None:
        if time.monotonic() - self._last < 0.5:
            return
        self._last = time.monotonic()
        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if not ready:
                return
            self.stop_requested = self.stop_requested or ray.get(self._answer)
        self._answer = self._monitor.post.remote(progress=make())

    def line(self, text: str) -> None:
        self._monitor.post.remote(line=text)

    def outcome(self, outcome: dict) -> None:
        """The last word; waits until it is heard."""
        ray.get(self._monitor.post.remote(outcome=outcome))


@dataclass
class Screen:
    """The command's end: a bar on a terminal, lines elsewhere; all on stderr."""

    _bar: tqdm | None = None

    def show(self, progress: dict) -> None:
        if not progress or not sys.stderr.isatty():
            return
        if self._bar is None:
            layout = "{desc} {percentage:3.0f}%|{bar}| {postfix}"
            self._bar = tqdm(total=1.0, bar_format=layout, file=sys.stderr, leave=False, dynamic_ncols=True)
        self._bar.n = progress["share"]
        self._bar.set_description_str(f"epoch {progress['epoch']} step {progress['step']}", refresh=False)
        self._bar.set_postfix_str(
            f"loss {progress['loss']:.3f} · {progress['images_per_second']:.0f} img/s · "
            f"{tqdm.format_interval(progress['seconds_left'])} left",
            refresh=True,
        )

    def line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
