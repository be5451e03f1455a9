"""Divide the cluster's resources between trials."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ray import tune

from raycrnn import cluster
from raycrnn.cluster.allocation import MIN_DECODE_CPUS, divide, wants_gpus
from raycrnn.cluster.ray_internals import HEAD_RESOURCE
from raycrnn.config import Configuration
from raycrnn.errors import UsageError
from raycrnn.tuning.search_space import Search


@dataclass(frozen=True)
class TrialResources:
    """The resources that each trial reserves, and how many trials run at a time. See `divide_resources`."""

    allocation: cluster.TrainingAllocation
    cpus: float
    """CPUs of each worker, including those for decoding images."""
    gpus_per_worker: float
    concurrent: int
    """Number of trials that run at the same time."""

    def __str__(self) -> str:
        noun = "trial" if self.concurrent == 1 else "trials"
        return f"{self.concurrent} {noun} at a time, each {self.allocation}"

    def placement_group(self) -> tune.PlacementGroupFactory:
        """Return the resources that Tune reserves for the process of a trial.

        With several workers Ray Train reserves the workers' resources. The trial's process then reserves a fraction
        of the head node's own resource, of which there is exactly one, so that only `concurrent` trials start. The
        fractions add up to 0.95: Ray Train needs 0.001 for a helper actor of each trial, and would wait for it
        forever.
        """
        if self.allocation.in_command:
            # Includes the CPUs for decoding, because Tune starts as many trials as fit into the cluster.
            bundle = {"CPU": self.cpus} | ({"GPU": self.gpus_per_worker} if self.allocation.use_gpu else {})
        else:
            bundle = {HEAD_RESOURCE: int(950 / self.concurrent) / 1000}
        return tune.PlacementGroupFactory([bundle])


def divide_resources(
    configuration: Configuration, search: Search, nodes: Sequence[tuple[float, float]]
) -> TrialResources:
    """Divide the resources of a cluster between trials.

    Args:
        nodes: CPUs and GPUs of each node.

    Raises:
        UsageError: The cluster is too small for a single trial.
    """
    settings, requested = configuration.cluster, search.resources
    if isinstance(settings.num_workers, tuple):
        raise UsageError("cluster.num_workers: the number of workers of a trial cannot vary: set one number")
    workers = settings.num_workers or settings.num_gpus or 1
    use_gpu = requested.gpus != 0 and wants_gpus(settings, sum(gpus for _, gpus in nodes))
    gpus_each = 0.0 if not use_gpu else 1.0 if requested.gpus == "auto" else requested.gpus
    if workers > 1 and gpus_each not in (0, 1):
        raise UsageError(f"resources.gpus: {gpus_each:g}: several workers need one GPU each: set 1, or 0")
    cpus_each = 0.001 if requested.cpus == "auto" else requested.cpus
    if requested.cpus == "auto" and not use_gpu:
        # Many trials with one thread each finish more training per hour than few trials with several threads.
        cpus_each = 1.0
    slots = sum(_slots(cpus, cpus_each, gpus, gpus_each) for cpus, gpus in nodes)
    capacity = slots // workers
    if capacity < 1:
        needs = f"{cpus_each:g} CPUs" + (f" and {gpus_each:g} GPUs" if gpus_each else "")
        available = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in nodes)
        raise UsageError(
            f"no trial can run: each needs {workers} worker(s) with {needs}, and the cluster has {available}: reduce "
            "resources in the search file, or cluster.num_workers"
        )
    limit = search.trials + 1 if search.concurrent == "auto" else search.concurrent
    concurrent = min(capacity, limit)
    if requested.cpus == "auto":
        cpus_each = cluster.even_share([cpus for cpus, _ in nodes], concurrent * workers)
    if cpus_each <= MIN_DECODE_CPUS:
        raise UsageError(f"resources.cpus: {cpus_each:g}: decoding images alone needs {MIN_DECODE_CPUS:g}: set more")
    parallel_calls = configuration.data.input_data_n_parallel_calls
    allocation = divide(settings, parallel_calls, workers, cpus_each, use_gpu)
    # With a given `concurrent` each trial reserves its entire share, so that no scheduler can start more trials.
    share = cluster.even_share([cpus for cpus, _ in nodes], concurrent * workers)
    reserved = math.floor(1000 * (cpus_each if search.concurrent == "auto" else max(cpus_each, share))) / 1000
    if workers == 1:
        # The trial's process also reserves the CPUs of its decoding tasks.
        allocation = replace(allocation, in_command=True, cpus_per_decode_task=0.0)
    return TrialResources(allocation, reserved, gpus_each, concurrent)


def _slots(cpus: float, cpus_each: float, gpus: float, gpus_each: float) -> int:
    """Return how many workers fit on a node."""
    by_cpus = int(cpus / cpus_each + 1e-9)
    return min(by_cpus, int(gpus / gpus_each + 1e-9)) if gpus_each else by_cpus
