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
    """What a trial takes of the cluster, and how many run at a time. Made by `share`, which checks that one can."""

    allocation: cluster.TrainingAllocation
    cpus: float
    """of each worker, decoding included"""
    gpus_per_worker: float
    concurrent: int

    def __str__(self) -> str:
        noun = "trial" if self.concurrent == 1 else "trials"
        return f"{self.concurrent} {noun} at a time, each {self.allocation}"

    def reserved(self) -> tune.PlacementGroupFactory:
        """What Tune reserves for a trial's own process.

        Several workers reserve what they take themselves. The process then takes a part of a resource that the
        cluster's head alone has, just once, so that no more trials start than there is room for. A little of it is
        left: Ray Train takes a thousandth for a helper of each, and would wait for it forever.
        """
        if self.allocation.in_command:
            # With what decoding needs: Tune starts as many as there are CPUs for.
            bundle = {"CPU": self.cpus} | ({"GPU": self.gpus_per_worker} if self.allocation.use_gpu else {})
        else:
            bundle = {HEAD_RESOURCE: int(950 / self.concurrent) / 1000}
        return tune.PlacementGroupFactory([bundle])


def divide_resources(
    configuration: Configuration, search: Search, nodes: Sequence[tuple[float, float]]
) -> TrialResources:
    """Divide a cluster between trials.

    Args:
        nodes: CPUs and GPUs of each node.

    Raises:
        UsageError: not a single trial could run.
    """
    settings, wanted = configuration.cluster, search.resources
    if isinstance(settings.num_workers, tuple):
        raise UsageError("cluster.num_workers: a trial's workers do not change: set a number")
    workers = settings.num_workers or settings.num_gpus or 1
    use_gpu = wanted.gpus != 0 and wants_gpus(settings, sum(gpus for _, gpus in nodes))
    gpus_each = 0.0 if not use_gpu else 1.0 if wanted.gpus == "auto" else wanted.gpus
    if workers > 1 and gpus_each not in (0, 1):
        raise UsageError(f"resources.gpus: {gpus_each:g}: several workers of a trial take a GPU each: set 1, or 0")
    cpus_each = 0.001 if wanted.cpus == "auto" else wanted.cpus
    if wanted.cpus == "auto" and not use_gpu:
        # More trials that take a thread each learn more an hour than fewer that take several.
        cpus_each = 1.0
    slots = sum(_slots(cpus, cpus_each, gpus, gpus_each) for cpus, gpus in nodes)
    room = slots // workers
    if room < 1:
        each = f"{cpus_each:g} CPUs" + (f" and {gpus_each:g} GPUs" if gpus_each else "")
        had = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in nodes)
        raise UsageError(
            f"no trial can run: each takes {workers} worker(s) with {each}, and the cluster has {had}: set less under "
            "resources in the search file, or cluster.num_workers"
        )
    most = search.trials + 1 if search.concurrent == "auto" else search.concurrent
    concurrent = min(room, most)
    if wanted.cpus == "auto":
        cpus_each = cluster.even_share([cpus for cpus, _ in nodes], concurrent * workers)
    if cpus_each <= MIN_DECODE_CPUS:
        raise UsageError(f"resources.cpus: {cpus_each:g}: decoding alone needs {MIN_DECODE_CPUS:g}: set more")
    parallel_calls = configuration.data.input_data_n_parallel_calls
    allocation = divide(settings, parallel_calls, workers, cpus_each, use_gpu)
    # All of a share is for as many trials as asked for, even where a scheduler would start more.
    even = cluster.even_share([cpus for cpus, _ in nodes], concurrent * workers)
    reserved = math.floor(1000 * (cpus_each if search.concurrent == "auto" else max(cpus_each, even))) / 1000
    if workers == 1:
        # The trial's process reserves what its decoding tasks need as well.
        allocation = replace(allocation, in_command=True, cpus_per_decode_task=0.0)
    return TrialResources(allocation, reserved, gpus_each, concurrent)


def _slots(cpus: float, cpus_each: float, gpus: float, gpus_each: float) -> int:
    """Workers that a node has room for."""
    by_cpus = int(cpus / cpus_each + 1e-9)
    return min(by_cpus, int(gpus / gpus_each + 1e-9)) if gpus_each else by_cpus
