"""What a training run shows on the terminal."""

import sys
import time
from collections import Counter
from dataclasses import dataclass

import ray
from tqdm import tqdm

from raycrnn.cluster import Nodes, TrainingAllocation
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

    def describe(self, doing: dict[int, WorkerActivity]) -> str:
        start = f"no step for {time.monotonic() - self._since:.0f} seconds: "
        if not doing:
            free, of = (each.get("CPU", 0) for each in (ray.available_resources(), ray.cluster_resources()))
            return start + f"Ray has not started the workers yet; {free:g} of {of:g} CPUs are free"
        return start + "; ".join(
            f"worker {rank} {each.what} ({each.seconds:.0f} s)" for rank, each in sorted(doing.items())
        )


def describe_loss(before: Nodes, now: Nodes, waiting: TrainingAllocation | None) -> str:
    """What to add to a stall when nodes are gone for which no like ones came; "" when none is.

    Args:
        before: nodes at the start.
        waiting: the plan whose workers Ray has not started.
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
