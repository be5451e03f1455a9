"""What a training run shows on the terminal."""

import time
from collections import Counter

from tqdm import tqdm

from raycrnn.cluster import Nodes, TrainingAllocation
from raycrnn.cluster.nodes import describe_free_cpus
from raycrnn.console import ProgressBar
from raycrnn.training.monitor import WorkerActivity

STALL_SECONDS = 30.0


class Stall:
    """Notices that no step was taken for long, ever more rarely while it lasts."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._since = time.monotonic()
        self._next = STALL_SECONDS

    def lasts(self, step: int | None) -> bool:
        """Whether to say that a run at this step (None: before the first) stalls."""
        if step != self._step:
            self._step, self._since, self._next = step, time.monotonic(), STALL_SECONDS
        if time.monotonic() - self._since < self._next:
            return False
        self._next *= 2
        return True

    def describe(self, activities: dict[int, WorkerActivity]) -> str:
        start = f"no step for {time.monotonic() - self._since:.0f} seconds: "
        if not activities:
            return start + f"Ray has not started the workers yet; {describe_free_cpus()}"
        return start + "; ".join(
            f"worker {rank}: {activity.description} ({activity.seconds:.0f} s)"
            for rank, activity in sorted(activities.items())
        )


def describe_loss(before: Nodes, now: Nodes, waiting: TrainingAllocation | None) -> str:
    """What to add to a stall when nodes are gone for which no like ones came; "" when none is.

    Args:
        before: nodes at the start.
        waiting: the allocation whose workers Ray has not started.
    """
    lost = (Counter(before) - Counter(now)).total()
    if not lost:
        return ""
    there = f"; the cluster has {len(before) - lost} of the {len(before)} nodes that were there at the start"
    if waiting is None:
        return f"{there}: see `ray status`"
    least = f"at least {waiting.elastic[0]}" if waiting.elastic else waiting.num_workers
    gpu = " and a GPU" if waiting.use_gpu else ""
    return f"{there}, and {least} worker(s) of {waiting.cpus_per_worker:g} CPUs{gpu} wait for room: see `ray status`"


BAR_LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {postfix}"


def show_progress(bar: ProgressBar, progress: dict) -> None:
    """Draw the bar of a training run from a worker's progress report."""
    bar.show(
        progress["share"],
        f"epoch {progress['epoch']} step {progress['step']}",
        f"loss {progress['loss']:.3f} · {progress['images_per_second']:.0f} img/s · "
        f"{tqdm.format_interval(progress['seconds_left'])} left",
    )
