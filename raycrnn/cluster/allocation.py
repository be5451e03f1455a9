"""Decide which of the cluster's resources a training run reserves.

A worker's *share* is the number of CPUs that it may use together with the decoding tasks that run for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raycrnn import config
from raycrnn.cluster.nodes import Nodes
from raycrnn.errors import UsageError

MIN_DECODE_CPUS = 0.25
"""CPUs that are left for decoding beside each training worker, at least."""

NO_CPUS = "the cluster has no CPUs, and no node is starting: see `ray status`"

ROUNDING = 1e-9
"""Added before a quotient is rounded down, so that 3 / (3 / 5) is 5."""


@dataclass(frozen=True)
class TrainingAllocation:
    """The resources that a training run reserves, as `allocate` and `divide` compute them."""

    num_workers: int
    """Number of workers for which the cluster has room now."""
    use_gpu: bool
    """Whether each worker takes a GPU."""
    cpus_per_worker: float
    """CPUs reserved for each worker. In an elastic run on CPUs this includes the CPUs for decoding, because Ray starts
    as many workers as fit by what each reserves."""
    threads: int
    """CPU threads of a training worker."""
    decode_tasks: int
    """Number of decoding tasks that run at a time for each worker."""
    cpus_per_decode_task: float
    """CPUs reserved for each decoding task."""
    warning: str | None = None
    """A warning for the user, if a setting cannot be satisfied."""
    elastic: tuple[int, int] | None = None
    """Minimum and maximum number of workers, if it changes with the cluster."""
    in_command: bool = False
    """Whether the process of the command trains, as the only worker."""

    @property
    def scaling(self) -> int | tuple[int, int]:
        """The number of workers or its range, in Ray Train's form."""
        return self.elastic or self.num_workers

    def __str__(self) -> str:
        noun = "worker" if self.num_workers == 1 else "workers"
        if self.elastic:
            noun += f" (of {self.elastic[0]} to {self.elastic[1]})"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        device = "one GPU each" if self.use_gpu else f"on the CPU, {threads} each"
        tasks = self.num_workers * self.decode_tasks
        return f"{self.num_workers} {noun}, {device}; {tasks} decoding task{'s' if tasks > 1 else ''} at a time"


def allocate(
    settings: config.Cluster, parallel_calls: int | None, nodes: Nodes, local: bool = False
) -> TrainingAllocation:
    """Divide a cluster's CPUs and GPUs between training and decoding.

    Args:
        settings: The group `cluster` of the configuration.
        parallel_calls: `data.input_data_n_parallel_calls`.
        nodes: CPUs and GPUs of each node.
        local: Whether Ray runs for this command alone.

    Raises:
        UsageError: The cluster does not have these resources, or the workers would leave no CPU for decoding. Ray would
            wait forever in both cases.
    """
    cpus, gpus = (sum(column) for column in zip(*nodes, strict=True))
    use_gpu = wants_gpus(settings, gpus)
    workers, warning = _count_workers(settings, int(cpus), int(gpus) if use_gpu else 0)
    if use_gpu and workers > gpus:
        raise UsageError(
            f"{workers} workers need a GPU each (cluster.num_workers, cluster.num_gpus), but the cluster has {gpus:g}: "
            f"set cluster.num_workers={max(1, int(gpus))}, or cluster.use_gpu=false to train on CPUs"
        )
    if not cpus:
        raise UsageError(NO_CPUS)
    if workers > cpus:
        remedy = f"set cluster.num_workers={int(cpus)} or less" if cpus >= 1 else "a worker needs at least one"
        raise UsageError(f"cluster.num_workers={workers}, but the cluster has {cpus:g} CPUs: {remedy}")
    elastic = settings.num_workers if isinstance(settings.num_workers, tuple) else None
    share = _share(nodes, workers, use_gpu, elastic is not None)
    allocation = divide(settings, parallel_calls, workers, share, use_gpu)
    if parallel_calls is None:
        allocation = _add_spare_cpus(allocation, share, nodes)
    if elastic and not use_gpu:
        allocation = _reserve_share(allocation, share)
    return replace(allocation, warning=warning, elastic=elastic, in_command=local and workers == 1 and not elastic)


def wants_gpus(settings: config.Cluster, gpus: float) -> bool:
    """Return whether each worker takes a GPU in a cluster with this number of GPUs."""
    return gpus > 0 and settings.num_gpus != 0 if settings.use_gpu == "auto" else settings.use_gpu


def _count_workers(settings: config.Cluster, cpus: int, gpus: int) -> tuple[int, str | None]:
    """Return the number of workers, and a warning if `num_gpus` is set but no GPU is used (`gpus` is 0)."""
    if isinstance(settings.num_workers, tuple):
        least, most = settings.num_workers
        return max(least, min(most, gpus or cpus)), None
    if settings.num_workers is not None:
        return settings.num_workers, None
    if settings.num_gpus and not gpus:
        workers = max(1, min(settings.num_gpus, cpus))
        return (
            workers,
            f"cluster.num_gpus={settings.num_gpus}, but no GPU is used: {workers} worker(s) train on the CPU",
        )
    return settings.num_gpus or 1, None


def _share(nodes: Nodes, workers: int, use_gpu: bool, elastic: bool) -> float:
    """Return the share of CPUs that every worker has, on whichever nodes Ray places the workers."""
    if use_gpu:
        # Ray may choose any GPU, so the node with the fewest CPUs for each of its GPUs decides.
        return min(cpus / gpus for cpus, gpus in nodes if gpus)
    share = even_share([cpus for cpus, _ in nodes], workers)
    # After a node is lost, a worker of an elastic run must fit on any of the others.
    return min(share, *(cpus for cpus, _ in nodes if cpus)) if elastic else share


def even_share(node_cpus: Sequence[float], workers: int) -> float:
    """Return the largest equal share of CPUs such that the shares of all workers fit on the nodes.

    The sum of all CPUs does not tell, because no worker can span two nodes.

    Raises:
        UsageError: There are no CPUs.
    """
    if not any(node_cpus):
        raise UsageError(NO_CPUS)
    shares = {cpus / count for cpus in node_cpus for count in range(1, workers + 1) if cpus}
    return max(share for share in shares if sum(int(cpus / share + ROUNDING) for cpus in node_cpus) >= workers)


def divide(
    settings: config.Cluster, parallel_calls: int | None, workers: int, share: float, use_gpu: bool
) -> TrainingAllocation:
    """Divide each worker's share of CPUs between training and decoding.

    Raises:
        UsageError: `cluster.cpus_per_worker` leaves no CPU for decoding.
    """
    if settings.cpus_per_worker != "auto":
        worker_cpus = settings.cpus_per_worker
    elif use_gpu:
        worker_cpus = min(1.0, share / 2)
    else:
        worker_cpus = share - max(MIN_DECODE_CPUS, 0.1 * share)
    decode_cpus = share - worker_cpus
    if decode_cpus <= 0 or worker_cpus <= 0:
        raise UsageError(
            f"{workers} workers with cluster.cpus_per_worker={worker_cpus:g} take all CPUs ({share:g} for each) and "
            f"leave none for decoding images: set cluster.cpus_per_worker=auto, or less than {share:g}"
        )
    decode_tasks = parallel_calls or max(1, int(decode_cpus))
    return TrainingAllocation(
        num_workers=workers,
        use_gpu=use_gpu,
        # Ray counts in thousandths; rounding both down makes sure that they fit.
        cpus_per_worker=int(1000 * worker_cpus + 1e-6) / 1000,
        threads=max(1, round(worker_cpus)),
        decode_tasks=decode_tasks,
        cpus_per_decode_task=max(0.001, int(1000 * min(1.0, decode_cpus / decode_tasks)) / 1000),
    )


def _add_spare_cpus(allocation: TrainingAllocation, share: float, nodes: Nodes) -> TrainingAllocation:
    """Use CPUs outside of all shares, such as those of nodes without a GPU, for decoding too."""
    spare = sum(cpus for cpus, _ in nodes) - allocation.num_workers * share
    decode_cpus = share - allocation.cpus_per_worker + spare / allocation.num_workers
    if spare < allocation.num_workers or allocation.decode_tasks >= int(decode_cpus):
        return allocation
    # On some node a task must fit even beside as many workers as Ray can place there.
    largest_room = max(
        cpus - allocation.cpus_per_worker * (gpus if allocation.use_gpu else int(cpus / share + ROUNDING))
        for cpus, gpus in nodes
    )
    task_cpus = min(1.0, int(1000 * largest_room) / 1000)
    return replace(allocation, decode_tasks=int(decode_cpus), cpus_per_decode_task=task_cpus)


def _reserve_share(allocation: TrainingAllocation, share: float) -> TrainingAllocation:
    """Have each worker of an elastic run reserve 98 % of its share, so that Ray starts no more workers than shares."""
    task_cpus = 0.02 * share / allocation.decode_tasks
    return replace(
        allocation,
        cpus_per_worker=round(0.98 * share, 3),
        # Ray would run tasks with 0 CPUs on a head node that has none.
        cpus_per_decode_task=max(0.001, int(1000 * task_cpus) / 1000),
    )
