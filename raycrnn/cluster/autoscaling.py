"""Ask an autoscaler for nodes and wait for them."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from raycrnn import config
from raycrnn.cluster import nodes, ray_internals
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)

SECONDS_TO_BEGIN = 30
"""After so long an autoscaler that could start nodes has begun to."""


def wait_for_nodes(settings: config.Cluster) -> None:
    """Have an autoscaler start the nodes that training takes, and wait for them.

    Returns at once where they are there, and soon where nobody starts them: `allocation` says what is missing then.

    Raises:
        UsageError: they did not come within `cluster.wait_minutes`.
    """
    if nodes.is_local() or not settings.wait_minutes:
        return
    gpus = bool(settings.num_gpus or settings.use_gpu is True)
    workers = settings.num_workers or settings.num_gpus or 1
    least = workers[0] if isinstance(workers, tuple) else workers
    if not gpus and settings.use_gpu == "auto":
        # Whether such nodes can be had nobody tells; who has some up, or none at all, knows what for.
        gpus = any(gpus for _, gpus in nodes.list_nodes())
    kind = "GPU" if gpus and settings.num_gpus != 0 else "CPU"
    if _there(kind) >= least:
        return
    with _requested([{"CPU": 1.0, "GPU": 1.0} if kind == "GPU" else {"CPU": 1.0}] * least):
        _wait_for(kind, least, settings.wait_minutes)


def _there(kind: str) -> float:
    return sum(node[kind == "GPU"] for node in nodes.list_nodes())


@contextmanager
def _requested(bundles: list[dict[str, float]]) -> Iterator[None]:
    """Ask the autoscaler for room. Taken back on leaving: what runs on a node keeps it, and what does not need not."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)
    try:
        yield
    finally:
        request_resources(bundles=[])


def _wait_for(kind: str, wanted: int, minutes: float) -> None:
    start = time.monotonic()
    next_line = start + 2
    begun = False
    while _there(kind) < wanted:
        now = time.monotonic()
        begun = begun or ray_internals.count_starting_nodes() > 0
        if not begun and now - start > SECONDS_TO_BEGIN:
            return
        if now - start > 60 * minutes:
            raise UsageError(
                f"waited {minutes:g} minutes (cluster.wait_minutes) for {wanted} {kind}s, and {_there(kind):g} are "
                "there: see `ray status`; wait for longer, or set cluster.num_workers to less or to [least, most]"
            )
        if now > next_line:
            next_line = now + 60
            there = f"{wanted} {kind}s wanted, {_there(kind):g} there"
            logger.info(f"waiting for nodes: {there}, {ray_internals.count_starting_nodes()} nodes starting")
        time.sleep(1)
