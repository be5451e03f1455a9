"""From the training workers to the person at the terminal, and back: progress, errors, a wish to stop."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from raycrnn.cluster.nodes import on_this_node

if TYPE_CHECKING:
    from ray.actor import ActorProxy

    from raycrnn.ingest.image_cache import ImageCache


class Monitor:
    """Holds the last progress and what was said. Workers post, the command reads; neither waits for the other."""

    def __init__(self) -> None:
        self._progress: dict = {}
        self._lines: list[tuple[int, str]] = []
        self._evaluations: list[dict] = []
        self._outcome: dict | None = None
        self._stop = False
        self._doing: dict[int, tuple[float, WorkerActivity]] = {}
        self._image_cache: ImageCache | None = None
        self._closed = False

    @ray.method
    def post(
        self,
        progress: dict | None = None,
        line: tuple[int, str] | None = None,
        evaluation: dict | None = None,
        outcome: dict | None = None,
    ) -> bool:
        """Returns whether the command wishes to stop."""
        if progress is not None:
            self._progress = progress
        if line is not None:
            self._lines.append(line)
        if evaluation is not None:
            self._evaluations.append(evaluation)
        if outcome is not None:
            self._outcome = outcome
        return self._stop

    @ray.method
    def read(self) -> "StatusUpdate":
        news = StatusUpdate(self._progress, self._lines, self._evaluations, self._outcome)
        self._lines, self._evaluations = [], []
        return news

    @ray.method
    def heartbeat(self, rank: int, doing: "WorkerActivity") -> None:
        self._doing[rank] = (time.monotonic(), doing)

    @ray.method
    def doing(self) -> "dict[int, WorkerActivity]":
        """What each worker does that was heard of lately: the others are gone."""
        since = time.monotonic() - 3 * SECONDS_BETWEEN_BEATS
        return {rank: doing for rank, (heard, doing) in self._doing.items() if heard > since}

    @ray.method
    def set_image_cache(self, cache: "ImageCache") -> bool:
        """Takes what is kept of the decoded images; returns whether more is wanted."""
        self._image_cache = cache
        return self._outcome is None and not self._closed

    @ray.method
    def close(self) -> None:
        """The command has read its last."""
        self._closed = True

    @ray.method
    def get_image_cache(self) -> "ImageCache | None":
        return self._image_cache

    @ray.method
    def stop(self) -> None:
        self._stop = True


def start_monitor() -> "ActorProxy[Monitor]":
    """Start a monitor on this node, so that it is not lost with another one."""
    return ray.remote(Monitor).options(num_cpus=0, scheduling_strategy=on_this_node()).remote()


def publish_image_cache(registry: "ActorProxy[Monitor]", cache: "ImageCache") -> bool:
    """Give a monitor the decoded images that are kept so far; returns whether it wants more of them."""
    return ray.get(registry.set_image_cache.remote(cache))


@dataclass(frozen=True)
class StatusUpdate:
    """What was posted since the last look."""

    progress: dict
    lines: list[tuple[int, str]]
    evaluations: list[dict]
    """each a line of metrics.jsonl"""
    outcome: dict | None
    """the last word, if it was spoken"""


SECONDS_BETWEEN_BEATS = 5.0


@dataclass(frozen=True)
class WorkerActivity:
    """What a worker does, told by a thread of its own while the worker may be stuck in it."""

    what: str
    seconds: float
    """for how long by now"""


class Reporter:
    """A worker's end: posts at most every half second and never waits."""

    def __init__(self, monitor: "ActorProxy[Monitor]"):
        self._monitor = monitor
        self._last = 0.0
        self._answer: ray.ObjectRef | None = None
        self._doing = ("starts", time.monotonic())
        self._ended = threading.Event()
        self.stop_requested = False

    def doing(self, what: str) -> None:
        """Note what the worker does from now on: a stalled run says what it waits for."""
        self._doing = (what, time.monotonic())

    @contextmanager
    def beating(self, rank: int) -> Iterator[None]:
        """Meanwhile a thread tells what the worker does."""
        thread = threading.Thread(target=self._beat, args=(rank,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(SECONDS_BETWEEN_BEATS)

    def _beat(self, rank: int) -> None:
        while not self._ended.is_set():
            what, since = self._doing
            self._monitor.heartbeat.remote(rank, WorkerActivity(what, time.monotonic() - since))
            self._ended.wait(SECONDS_BETWEEN_BEATS)

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

    def line(self, text: str, level: int = logging.INFO) -> None:
        """Have the command log a line."""
        self._monitor.post.remote(line=(level, text))

    def warning(self, text: str) -> None:
        self.line(text, logging.WARNING)

    def evaluation(self, record: dict) -> None:
        self._monitor.post.remote(evaluation=record)

    def outcome(self, outcome: dict) -> None:
        """The last word; waits until it is heard."""
        ray.get(self._monitor.post.remote(outcome=outcome))
