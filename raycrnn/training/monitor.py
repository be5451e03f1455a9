"""Pass progress, log lines and the result from the training workers to the command, and its request to stop back."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import ray

from raycrnn.cluster.nodes import on_this_node

if TYPE_CHECKING:
    from ray.actor import ActorProxy

    from raycrnn.ingest.image_cache import ImageCache

SECONDS_BETWEEN_POSTS = 0.5
"""Seconds between two progress reports of a worker."""

SECONDS_BETWEEN_QUESTIONS = 0.05
"""Seconds between two times that a worker asks whether it may go on after an evaluation."""

SECONDS_BETWEEN_HEARTBEATS = 5.0
"""Seconds between two reports of what a worker is doing."""


class ProgressReport(TypedDict, total=False):
    """What a progress bar shows; empty before the first step."""

    epoch: str
    step: int
    share: float
    """Completed fraction of the schedule."""
    loss: float
    images_per_second: float
    seconds_left: float


class TrainingResult(TypedDict, total=False):
    """How a training ended: finished, stopped by the command, or failed."""

    best: dict[str, float]
    """Scores of the exported model."""
    steps: int
    rejected: int
    """Samples that were left out."""
    start: dict[str, float]
    """Seconds that each part of the start took."""
    start_times: dict[str, float]
    """When worker 0 finished each part of its start, in seconds since 1970."""
    stopped: int
    """The step after which the command stopped the run."""
    error: str
    """The message of the error that ended the run."""
    can_go_on: bool
    """Whether the run can be resumed after the cause of the error, for example a full disk, has been removed."""


@dataclass(frozen=True)
class WorkerActivity:
    """What a worker is doing. A separate thread sends it, because the worker may be stuck."""

    description: str
    seconds: float
    """Seconds since the activity began."""


@dataclass(frozen=True)
class StatusUpdate:
    """What the workers posted since the last update."""

    progress: ProgressReport
    lines: list[tuple[int, str]]
    """Log lines with their levels."""
    evaluations: list[dict[str, Any]]
    """Lines of metrics.jsonl."""
    result: TrainingResult | None
    """The result, once the training has ended."""


class Monitor:
    """The actor through which the workers and the command communicate. Workers post and the command polls."""

    def __init__(self) -> None:
        self._progress: ProgressReport = {}
        self._lines: list[tuple[int, str]] = []
        self._evaluations: list[dict[str, Any]] = []
        self._result: TrainingResult | None = None
        self._stop = False
        self._posted, self._judged = 0, 0
        self._activities: dict[int, tuple[float, WorkerActivity]] = {}
        self._image_cache: ImageCache | None = None
        self._closed = False

    @ray.method
    def post(
        self,
        progress: ProgressReport | None = None,
        line: tuple[int, str] | None = None,
        evaluation: dict[str, Any] | None = None,
        result: TrainingResult | None = None,
    ) -> bool:
        """Store what a worker posts, and return whether the command asked the workers to stop."""
        if progress is not None:
            self._progress = progress
        if line is not None:
            self._lines.append(line)
        if evaluation is not None:
            self._evaluations.append(evaluation)
            self._posted += 1
        if result is not None:
            self._result = result
        return self._stop

    @ray.method
    def read(self) -> StatusUpdate:
        """Return what was posted since the last call."""
        update = StatusUpdate(self._progress, self._lines, self._evaluations, self._result)
        self._lines, self._evaluations = [], []
        return update

    @ray.method
    def judge(self) -> None:
        """Note that the search has decided about one more evaluation."""
        self._judged += 1

    @ray.method
    def may_go_on(self) -> bool:
        """Return whether the search has decided about all evaluations, or asked the workers to stop."""
        return self._stop or self._judged >= self._posted

    @ray.method
    def heartbeat(self, rank: int, activity: WorkerActivity) -> None:
        """Store what a worker is doing."""
        self._activities[rank] = (time.monotonic(), activity)

    @ray.method
    def activities(self) -> dict[int, WorkerActivity]:
        """Return what each worker is doing, by rank. Workers whose heartbeats have stopped are left out."""
        since = time.monotonic() - 3 * SECONDS_BETWEEN_HEARTBEATS
        return {rank: activity for rank, (received, activity) in self._activities.items() if received > since}

    @ray.method
    def set_image_cache(self, cache: "ImageCache") -> bool:
        """Store the decoded images that are in memory so far, and return whether to decode more of them."""
        self._image_cache = cache
        return self._result is None and not self._closed

    @ray.method
    def close(self) -> None:
        """Note that the command will read no more updates."""
        self._closed = True

    @ray.method
    def get_image_cache(self) -> "ImageCache | None":
        """Return the decoded images that are in memory so far."""
        return self._image_cache

    @ray.method
    def stop(self) -> None:
        """Ask the workers to stop after their current step."""
        self._stop = True


def start_monitor() -> "ActorProxy[Monitor]":
    """Start a monitor on this node, so that the loss of another node does not end it."""
    return ray.remote(Monitor).options(num_cpus=0, scheduling_strategy=on_this_node()).remote()


def publish_image_cache(registry: "ActorProxy[Monitor]", cache: "ImageCache") -> bool:
    """Pass a monitor the decoded images that are in memory so far, and return whether to decode more of them."""
    return ray.get(registry.set_image_cache.remote(cache))


class Reporter:
    """A worker's side of the monitor. Only `result` and `wait_for_search` wait for an answer."""

    def __init__(self, monitor: "ActorProxy[Monitor]"):
        self._monitor = monitor
        self._last = 0.0
        self._answer: ray.ObjectRef | None = None
        self._activity = ("starting", time.monotonic())
        self._ended = threading.Event()
        self.stop_requested = False

    def set_activity(self, description: str) -> None:
        """Set what the worker is doing. If the run stalls, the command logs it."""
        self._activity = (description, time.monotonic())

    @contextmanager
    def heartbeats(self, rank: int) -> Iterator[None]:
        """Send the worker's activity from a thread for the duration of a `with` block."""
        thread = threading.Thread(target=self._send_heartbeats, args=(rank,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(SECONDS_BETWEEN_HEARTBEATS)

    def _send_heartbeats(self, rank: int) -> None:
        while not self._ended.is_set():
            description, since = self._activity
            self._monitor.heartbeat.remote(rank, WorkerActivity(description, time.monotonic() - since))
            self._ended.wait(SECONDS_BETWEEN_HEARTBEATS)

    def check_stop(self) -> bool:
        """Return whether the command has asked to stop, as far as this worker knows. Call it often."""
        self.progress(lambda: None)
        return self.stop_requested

    def progress(self, make: Callable[[], ProgressReport | None]) -> None:
        """Post a progress report, unless the last one is too recent, and receive the request to stop.

        Args:
            make: Makes the report; called only if it is posted.
        """
        if time.monotonic() - self._last < SECONDS_BETWEEN_POSTS:
            return
        self._last = time.monotonic()
        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if not ready:
                return
            self.stop_requested = self.stop_requested or ray.get(self._answer)
        self._answer = self._monitor.post.remote(progress=make())

    def log(self, text: str, level: int = logging.INFO) -> None:
        """Have the command log a line."""
        self._monitor.post.remote(line=(level, text))

    def warning(self, text: str) -> None:
        """Have the command log a warning."""
        self.log(text, logging.WARNING)

    def evaluation(self, record: dict[str, Any]) -> None:
        """Post the record of an evaluation."""
        self._monitor.post.remote(evaluation=record)

    def wait_for_search(self) -> None:
        """Wait until the search has decided about the evaluations that were posted."""
        self.set_activity("waiting for the search to decide about the evaluation")
        while not ray.get(self._monitor.may_go_on.remote()):
            time.sleep(SECONDS_BETWEEN_QUESTIONS)

    def result(self, result: TrainingResult) -> None:
        """Post how the training ended, and wait until the monitor has it."""
        ray.get(self._monitor.post.remote(result=result))
