"""Decide which of the cluster's resources a training run reserves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raycrnn import config
from raycrnn.cluster.nodes import Nodes
from raycrnn.errors import UsageError

LEAST_DECODE_CPUS = 0.25
"""of a CPU, left free for decoding beside each training worker"""


NO_CPUS = "the cluster has no CPUs now, and no node is being started: see `ray status`"


@dataclass(frozen=True)
class TrainingAllocation:
    """What a training run takes of the cluster. Made by `allocation`, which checks that it can be had."""

    num_workers: int
    """that the cluster has room for now"""
    use_gpu: bool
    cpus_per_worker: float
    """reserved for each; an elastic run's hold what decoding needs too, for Ray may place others beside them"""
    threads: int
    """CPU threads of a training worker"""
    decode_tasks: int
    """decoding tasks at a time for each worker"""
    cpus_per_decode_task: float
    warning: str | None = None
    elastic: tuple[int, int] | None = None
    """least and most workers, if their number follows the cluster"""
    in_command: bool = False
    """whether the command itself trains: one worker, on the command's own machine"""

    @property
    def scaling(self) -> int | tuple[int, int]:
        """The number of workers, or its range, as Ray Train takes it."""
        return self.elastic or self.num_workers

    def __str__(self) -> str:
        noun = "worker" if self.num_workers == 1 else "workers"
        if self.elastic:
            noun += f" (of {self.elastic[0]} to {self.elastic[1]})"
        kind = "one GPU each" if self.use_gpu else f"on the CPU, {self.threads} thread(s) each"
        return f"{self.num_workers} {noun}, {kind}; {self.num_workers * self.decode_tasks} decoding at a time"


def allocate(
    settings: config.Cluster, parallel_calls: int | None, nodes: Nodes, local: bool = False
) -> TrainingAllocation:
    """Divide a cluster's CPUs and GPUs between training and decoding.

    Args:
        parallel_calls: `data.input_data_n_parallel_calls`.
        nodes: CPUs and GPUs of each node.
        local: whether Ray runs for this command alone.

    Raises:
        UsageError: more than the cluster has, or workers that would leave nothing to decode with; either would
            wait for ever.
    """
    cpus, gpus = (sum(column) for column in zip(*nodes, strict=True))
    wants_gpu = wants_gpus(settings, gpus)
    workers, warning = _workers(settings, int(cpus), int(gpus) if wants_gpu else 0)
    if wants_gpu and workers > gpus:
        raise UsageError(
            f"{workers} workers with a GPU each (cluster.num_workers, cluster.num_gpus), but the cluster has {gpus:g}: "
            f"set cluster.num_workers={max(1, int(gpus))}, or cluster.use_gpu=false to train on CPUs"
        )
    if not cpus:
        raise UsageError(NO_CPUS)
    if workers > cpus:
        raise UsageError(
            f"cluster.num_workers={workers}, but the cluster has {cpus:g} CPUs: "
            f"set cluster.num_workers={int(cpus)} or less"
        )
    elastic = settings.num_workers if isinstance(settings.num_workers, tuple) else None
    share = _share(nodes, workers, wants_gpu, bool(elastic))
    divided = divide(settings, parallel_calls, workers, share, wants_gpu)
    if parallel_calls is None:
        divided = _with_decoding_nodes(divided, share, nodes)
    if elastic and not wants_gpu:
        divided = _hold_for_decoding(divided, share)
    return replace(divided, warning=warning, elastic=elastic, in_command=local and workers == 1 and not elastic)


def _share(nodes: Nodes, workers: int, use_gpu: bool, elastic: bool) -> float:
    """CPUs that each worker, with what decodes beside it, may count on where it may be placed."""
    if use_gpu:
        # Any GPU may be taken: its node's CPUs are divided by its GPUs.
        return min(cpus / gpus for cpus, gpus in nodes if gpus)
    share = even_share([cpus for cpus, _ in nodes], workers)
    # A worker of an elastic run must fit on whichever node is left.
    return min(share, *(cpus for cpus, _ in nodes if cpus)) if elastic else share


def _with_decoding_nodes(divided: TrainingAllocation, share: float, nodes: Nodes) -> TrainingAllocation:
    """An allocation with the CPUs that are in no worker's share, as of nodes without a GPU, decoding too."""
    spare = sum(cpus for cpus, _ in nodes) - divided.num_workers * share
    for_decoding = share - divided.cpus_per_worker + spare / divided.num_workers
    if spare < divided.num_workers or divided.decode_tasks >= int(for_decoding):
        return divided
    # A task must fit beside the workers of some node even where they stand as close as they can.
    free = max(
        cpus - divided.cpus_per_worker * (gpus if divided.use_gpu else int(cpus / share + 1e-9)) for cpus, gpus in nodes
    )
    return replace(divided, decode_tasks=int(for_decoding), cpus_per_decode_task=min(1.0, int(1000 * free) / 1000))


def _hold_for_decoding(divided: TrainingAllocation, share: float) -> TrainingAllocation:
    """An allocation whose workers reserve nearly all of their share: Ray fills an elastic run by what each reserves."""
    for_tasks = 0.02 * share / divided.decode_tasks
    return replace(
        divided,
        cpus_per_worker=round(0.98 * share, 3),
        # Not 0, or tasks would go to a cluster's head, which has no CPUs to give.
        cpus_per_decode_task=max(0.001, int(1000 * for_tasks) / 1000),
    )


def divide(
    settings: config.Cluster, parallel_calls: int | None, workers: int, share: float, use_gpu: bool
) -> TrainingAllocation:
    """Divide the CPUs that each of some workers has between training and decoding. Raises `UsageError`."""
    worker_cpus = settings.cpus_per_worker
    if worker_cpus == "auto":
        worker_cpus = min(1.0, share / 2) if use_gpu else share - max(LEAST_DECODE_CPUS, 0.1 * share)
    left = share - worker_cpus
    if left <= 0 or worker_cpus <= 0:
        raise UsageError(
            f"{workers} workers with cluster.cpus_per_worker={worker_cpus:g} take all CPUs ({share:g} for each) and "
            f"leave none to decode images with: set cluster.cpus_per_worker=auto, or below {share:g}"
        )
    decode_tasks = parallel_calls or max(1, int(left))
    return TrainingAllocation(
        num_workers=workers,
        use_gpu=use_gpu,
        # Both rounded down, so that all of them fit into what there is.
        cpus_per_worker=int(1000 * worker_cpus + 1e-6) / 1000,
        threads=max(1, round(worker_cpus)),
        decode_tasks=decode_tasks,
        cpus_per_decode_task=max(0.001, int(1000 * min(1.0, left / decode_tasks)) / 1000),
        warning=None,
    )


def wants_gpus(settings: config.Cluster, gpus: float) -> bool:
    """Whether workers take a GPU each, in a cluster with so many."""
    return gpus > 0 and settings.num_gpus != 0 if settings.use_gpu == "auto" else settings.use_gpu


def _workers(settings: config.Cluster, cpus: int, gpus: int) -> tuple[int, str | None]:
    """The number of workers, and a warning where tf-crnn's num_gpus cannot be had. `gpus` is 0 where none is wanted."""
    if isinstance(settings.num_workers, tuple):
        least, most = settings.num_workers
        return max(least, min(most, gpus or cpus)), None
    if settings.num_workers is not None:
        return settings.num_workers, None
    if settings.num_gpus and not gpus:
        workers = max(1, min(settings.num_gpus, cpus))
        return workers, f"cluster.num_gpus={settings.num_gpus}, but no GPU is used: {workers} worker(s) on the CPU"
    return settings.num_gpus or 1, None


def even_share(node_cpus: Sequence[float], workers: int) -> float:
    """The largest share of CPUs of which each worker finds one on some node; all of a cluster's CPUs together
    say nothing, because no worker spans two nodes. Raises `UsageError` if there are none."""
    if not any(node_cpus):
        raise UsageError(NO_CPUS)
    shares = {cpus / count for cpus in node_cpus for count in range(1, workers + 1) if cpus}
    return max(share for share in shares if sum(int(cpus / share + 1e-9) for cpus in node_cpus) >= workers)
