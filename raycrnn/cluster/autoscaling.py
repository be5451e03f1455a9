"""Request nodes from an autoscaler and wait for them."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from raycrnn import config
from raycrnn.cluster import nodes, ray_internals
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)

SECONDS_TO_REACT = 30
"""Seconds after which an autoscaler that can start nodes has begun to start them."""

Resource = Literal["CPU", "GPU"]


def wait_for_nodes(settings: config.Cluster) -> None:
    """Request the nodes that training needs from the autoscaler, and wait for them.

    Returns at once if the nodes are up, and after `SECONDS_TO_REACT` if no autoscaler starts them; `allocate` then
    reports what is missing.

    Raises:
        UsageError: The nodes were not up after `cluster.wait_minutes`.
    """
    if nodes.is_local() or not settings.wait_minutes:
        return
    use_gpu = bool(settings.num_gpus or settings.use_gpu is True)
    workers = settings.num_workers or settings.num_gpus or 1
    least = workers[0] if isinstance(workers, tuple) else workers
    if not use_gpu and settings.use_gpu == "auto":
        # Ray does not say whether GPU nodes could be started. GPU nodes that are up are taken as a sign that they can.
        use_gpu = any(gpus for _, gpus in nodes.list_nodes())
    resource: Resource = "GPU" if use_gpu and settings.num_gpus != 0 else "CPU"
    if _count(resource) >= least:
        return
    with _requested([{"CPU": 1.0, "GPU": 1.0} if resource == "GPU" else {"CPU": 1.0}] * least):
        _wait_for(resource, least, settings.wait_minutes)


def _count(resource: Resource) -> float:
    return sum(gpus if resource == "GPU" else cpus for cpus, gpus in nodes.list_nodes())


@contextmanager
def _requested(bundles: list[dict[str, float]]) -> Iterator[None]:
    """Request resources from the autoscaler for the duration of a `with` block.

    Afterwards the autoscaler keeps the nodes on which something runs, and may stop the others.
    """
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)
    try:
        yield
    finally:
        request_resources(bundles=[])


def _wait_for(resource: Resource, count: int, minutes: float) -> None:
    start = time.monotonic()
    next_line = start + 2
    reacted = False
    while (up := _count(resource)) < count:
        now = time.monotonic()
        reacted = reacted or ray_internals.count_starting_nodes() > 0
        if not reacted and now - start > SECONDS_TO_REACT:
            return
        if now - start > 60 * minutes:
            raise UsageError(
                f"only {up:g} of {count} {resource}s are up after {minutes:g} minutes (cluster.wait_minutes): see "
                "`ray status`; wait longer, or set cluster.num_workers to a smaller number or to [minimum, maximum]"
            )
        if now > next_line:
            next_line = now + 60
            starting = ray_internals.count_starting_nodes()
            logger.info(f"waiting for nodes: {up:g} of {count} {resource}s are up, {starting} nodes are starting")
        time.sleep(1)
