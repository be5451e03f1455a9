"""Decide which of the cluster's resources a prediction run reserves."""

from collections.abc import Sequence
from dataclasses import dataclass

from raycrnn.config import Cluster, Image
from raycrnn.errors import UsageError
from raycrnn.prediction.job import PredictionJob

MAX_IMAGES_PER_BLOCK = 1024
"""The images of a block are sorted by width, so large blocks need less padding; a kill costs the blocks in progress."""

MIN_IMAGES_PER_BLOCK = 64

SMALL_BLOCKS = 8
"""Blocks at the start that are small, so that the first texts come early."""

MAX_BYTES_PER_BLOCK = 64 * 2**20
"""Bytes of a block if all its images have the greatest width."""

BLOCKS_PER_REPLICA = 4
"""Blocks per replica for few images, so that all replicas finish at about the same time."""

DECODE_CPUS = 0.25
"""CPUs of a decoding task: the network takes far longer on a CPU than decoding an image."""


@dataclass(frozen=True)
class ReplicaAllocation:
    """The resources that a prediction run reserves."""

    count: int
    """Replicas of the model."""
    cpus: float
    """CPUs of each replica."""
    gpus: float
    """GPUs of each replica."""
    threads: int
    """Threads of each replica."""
    decode_cpus: float
    """CPUs of a decoding task."""
    images_per_block: int


def allocate_replicas(images: int, job: PredictionJob) -> ReplicaAllocation:
    """Allocate the replicas that the job asks for, by default one per GPU, or without GPUs one per CPU.

    Few images get fewer replicas.

    Raises:
        UsageError: the job asks for more replicas than there are CPUs.
    """
    from raycrnn import cluster

    nodes = cluster.with_usable_gpus(Cluster(), cluster.list_nodes())
    cpus, gpus = (int(sum(column)) for column in zip(*nodes, strict=True))
    if job.replicas is not None and job.replicas > max(1, cpus):
        raise UsageError(f"--replicas={job.replicas}, but Ray has {cpus} CPUs: set --replicas={max(1, cpus)} or less")
    limit = job.replicas or gpus or max(1, cpus)
    per_block = images_per_block(images, limit, job.image)
    count = min(limit, -(-images // per_block))
    if gpus:
        return _allocate_on_gpus(count, nodes, per_block)
    share = cluster.even_share([node_cpus for node_cpus, _ in nodes], count)
    return ReplicaAllocation(count, (1 - DECODE_CPUS) * share, 0, max(1, int(share)), DECODE_CPUS, per_block)


def _allocate_on_gpus(count: int, nodes: Sequence[tuple[float, float]], per_block: int) -> ReplicaAllocation:
    """Allocate GPUs to replicas. The CPUs that the replicas leave decode images for them, one task each."""
    per_gpu = -(-count // int(sum(gpus for _, gpus in nodes)))
    share = min(cpus / (gpus * per_gpu) for cpus, gpus in nodes if gpus)
    cpus_each = min(0.5, (1 - DECODE_CPUS) * share)
    free = max(cpus - gpus * per_gpu * cpus_each for cpus, gpus in nodes)
    return ReplicaAllocation(count, cpus_each, 1 / per_gpu, 1, min(1.0, free), per_block)


def images_per_block(images: int, replicas: int, settings: Image) -> int:
    """Return the number of images of a block, except of those at the start.

    Args:
        images: Number of all images.
        replicas: Number of replicas that fit.
        settings: The model's settings of images.
    """
    height, width = settings.input_shape
    limit = min(MAX_IMAGES_PER_BLOCK, MAX_BYTES_PER_BLOCK // (height * width * settings.input_channels))
    even = -(-images // (BLOCKS_PER_REPLICA * replicas))
    return max(1, min(max(even, MIN_IMAGES_PER_BLOCK), limit))


def block_bounds(images: int, per_block: int, first: int = 0) -> list[tuple[int, int]]:
    """Return the first row of each block and the row after its last one, without the rows before `first`.

    A command that transcribes in its own process makes the same blocks as Ray does. The images of a block are batched
    together, and in other batches the last bits of a confidence could be others.
    """
    small = min(MIN_IMAGES_PER_BLOCK, per_block)
    starts = [*range(0, min(images, SMALL_BLOCKS * small), small), *range(SMALL_BLOCKS * small, images, per_block)]
    bounds = zip(starts, [*starts[1:], images], strict=True) if images else []
    # Blocks that were already read may have had another size, so `first` may be within a block.
    return [(max(start, first), stop) for start, stop in bounds if stop > first]
