"""What a training run shows of its progress, and messages about stalls."""

import logging
import time
from collections import Counter

from tqdm import tqdm

from raycrnn.cluster import Nodes, TrainingAllocation
from raycrnn.cluster.nodes import describe_free_cpus
from raycrnn.console import LineTimer, ProgressBar
from raycrnn.training.monitor import ProgressReport, WorkerActivity

logger = logging.getLogger(__name__)

STALL_SECONDS = 30.0
"""Seconds without a step after which a run is reported as stalled."""


class Stall:
    """Detects that a run takes no steps. While the stall lasts, the time between two messages doubles."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._since = time.monotonic()
        self._next = STALL_SECONDS

    def lasts(self, step: int | None) -> bool:
        """Return whether to report now that the run stalls.

        Args:
            step: The last step; None before the first.
        """
        if step != self._step:
            self._step, self._since, self._next = step, time.monotonic(), STALL_SECONDS
        if time.monotonic() - self._since < self._next:
            return False
        self._next *= 2
        return True

    def describe(self, activities: dict[int, WorkerActivity]) -> str:
        """Return the message: for how long no step was taken, and what each worker is doing."""
        start = f"no step for {time.monotonic() - self._since:.0f} seconds: "
        if not activities:
            return start + f"Ray has not started the workers yet; {describe_free_cpus()}"
        return start + "; ".join(
            f"worker {rank}: {activity.description} ({activity.seconds:.0f} s)"
            for rank, activity in sorted(activities.items())
        )


def describe_loss(before: Nodes, now: Nodes, waiting: TrainingAllocation | None) -> str:
    """Return what to add to the message about a stall if nodes were lost; "" if none was.

    A lost node that a node with the same resources has replaced does not count.

    Args:
        before: The nodes at the start of the run.
        now: The nodes now.
        waiting: The allocation whose workers Ray has not started.
    """
    lost = (Counter(before) - Counter(now)).total()
    if not lost:
        return ""
    loss = f"; the cluster has lost {lost} of its {len(before)} nodes since the start"
    if waiting is None:
        return f"{loss}: see `ray status`"
    least = f"at least {waiting.elastic[0]}" if waiting.elastic else waiting.num_workers
    gpu = " and a GPU" if waiting.use_gpu else ""
    return (
        f"{loss}, and {least} worker(s) that need {waiting.cpus_per_worker:g} CPUs{gpu} each wait for free resources: "
        "see `ray status`"
    )


BAR_LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {postfix}"


class TrainingProgress:
    """The progress of a training run: a bar on a terminal, else a log line every 30 seconds in which it took steps."""

    def __init__(self) -> None:
        self._bar = ProgressBar(1.0, BAR_LAYOUT)
        self._timer = LineTimer()
        self._logged_step: int | None = None

    def show(self, progress: ProgressReport) -> None:
        """Show a worker's progress report."""
        step = progress["step"]
        description = f"epoch {progress['epoch']} step {step}"
        details = (
            f"loss {progress['loss']:.3f} · {progress['images_per_second']:.0f} img/s · "
            f"{tqdm.format_interval(progress['seconds_left'])} left"
        )
        self._bar.show(progress["share"], description, details)
        # `Stall` reports a run that takes no steps.
        if self._timer.is_due() and step != self._logged_step:
            self._timer.restart()
            self._logged_step = step
            logger.info(f"{description} · {100 * progress['share']:.0f} % · {details}")

    def restart_timer(self) -> None:
        """Wait for the next line, because another one has told the progress."""
        self._timer.restart()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()
