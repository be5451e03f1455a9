"""Save a checkpoint before a worker of Ray Train or one of the nodes of a run is lost.

Ray Train is told when a node is drained: by Kubernetes, by the provider of a spot instance, by `ray drain-node`, or by
SIGTERM to `ray start --block`. A worker process may also receive SIGTERM itself, for example from SLURM.
"""

import math
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from raycrnn.cluster import ray_internals
from raycrnn.training import collectives

if TYPE_CHECKING:
    from ray.train import PreemptionInfo

    from raycrnn.training.monitor import Reporter

SECONDS_BEFORE_DEADLINE = 10.0
"""A node that is drained is lost at a deadline. The last checkpoint before it is due this many seconds earlier."""

SIGTERM_RECEIVED = threading.Event()
"""Set when this process, a worker of Ray Train, receives SIGTERM."""


def handle_sigterm() -> None:
    """Let SIGTERM to this process, a worker of Ray Train, wait for a checkpoint. A second one ends it at once."""
    ray_internals.run_in_main_thread(_set_handler)


def _set_handler() -> None:
    end_process = signal.getsignal(signal.SIGTERM)

    def handle(*_: object) -> None:
        SIGTERM_RECEIVED.set()
        signal.signal(signal.SIGTERM, end_process)

    signal.signal(signal.SIGTERM, handle)


class PreemptionNotices:
    """The notices that a worker of Ray Train has received: that its run loses nodes, or that its process must end."""

    def __init__(self, reporter: "Reporter"):
        self._reporter = reporter
        self._is_due = False
        self._ends = False
        """Whether this process ends after the next checkpoint."""
        self._notice: PreemptionInfo | None = None
        self._last_save = math.inf
        """When the last checkpoint before the deadline is due, in seconds since 1970."""

    def save_is_due(self) -> bool:
        """Return whether this worker knows of a reason to save a checkpoint, until `saved` is called."""
        if SIGTERM_RECEIVED.is_set() and not self._ends:
            self._ends = self._is_due = True
            self._reporter.log(f"worker {collectives.rank()} received SIGTERM: it ends after a checkpoint")
        # Every worker gets each notice. If all of them acted on it, those that get it later would cause a second
        # checkpoint.
        if collectives.rank() == 0 and self._loses_node():
            self._is_due = True
        return self._is_due

    def _loses_node(self) -> bool:
        """Return whether there is a new notice that nodes are lost, or the deadline of the last one is near."""
        notice, now = ray_internals.preemption_notice(), time.time()
        is_new = notice is not None and notice != self._notice
        if notice is not None and is_new:
            self._notice = notice
            self._last_save = ray_internals.preemption_deadline(notice) - SECONDS_BEFORE_DEADLINE
            workers = ", ".join(map(str, notice.preempted_ranks))
            seconds = self._last_save + SECONDS_BEFORE_DEADLINE - now
            self._reporter.log(f"Ray loses the node of worker {workers} in {seconds:.0f} seconds: saving a checkpoint")
        is_near = now >= self._last_save
        if is_near:
            self._last_save = math.inf
        return is_new or is_near

    def saved(self) -> None:
        """Note that a checkpoint was saved. After SIGTERM, this process ends."""
        self._is_due = False
        if self._ends:
            # For the handler that `_set_handler` has restored.
            os.kill(os.getpid(), signal.SIGTERM)
