"""Decide which of the cluster's resources a prediction run reserves."""

from collections.abc import Sequence
from dataclasses import dataclass

from raycrnn.config import Image
from raycrnn.errors import UsageError
from raycrnn.prediction.job import PredictionJob

MOST_IMAGES_PER_BLOCK = 1024
"""The more images are sorted by width together, the less padding; a kill costs the blocks that are being read."""

LEAST_IMAGES_PER_BLOCK = 64

MOST_BYTES_PER_BLOCK = 64 * 2**20
"""if all images have the greatest width"""

BLOCKS_A_REPLICA = 4
"""of a small set: so many at least, that all replicas end at about the same time"""

DECODE_CPUS = 0.25
"""of a CPU for a decoding task: reading a line on a CPU takes the network far longer than decoding its image"""


@dataclass(frozen=True)
class ReplicaAllocation:
    """What a reading takes of the cluster."""

    count: int
    """replicas of the model"""
    cpus: float
    """of each"""
    gpus: float
    """of each"""
    threads: int
    """of each"""
    decode_cpus: float
    """of a decoding task"""
    images_per_block: int


def allocate_replicas(images: int, job: PredictionJob) -> ReplicaAllocation:
    """Replicas as asked for, else one a GPU, without GPUs one a CPU; fewer for few images.

    Raises `UsageError` if more are asked for than there are CPUs.
    """
    from raycrnn import cluster

    nodes = cluster.list_nodes()
    cpus, gpus = (int(sum(column)) for column in zip(*nodes, strict=True))
    if job.replicas is not None and job.replicas > max(1, cpus):
        raise UsageError(f"--replicas={job.replicas}, but Ray has {cpus} CPUs: set --replicas={max(1, cpus)} or less")
    most = job.replicas or gpus or max(1, cpus)
    per_block = _images_per_block(images, most, job.image)
    count = min(most, -(-images // per_block))
    if gpus:
        return _plan_on_gpus(count, nodes, per_block)
    share = cluster.even_share([each for each, _ in nodes], count)
    return ReplicaAllocation(count, (1 - DECODE_CPUS) * share, 0, max(1, int(share)), DECODE_CPUS, per_block)


def _plan_on_gpus(count: int, nodes: Sequence[tuple[float, float]], per_block: int) -> ReplicaAllocation:
    """A GPU is fed by all CPUs that the replicas leave, a decoding task each."""
    a_gpu = -(-count // int(sum(gpus for _, gpus in nodes)))
    share = min(cpus / (gpus * a_gpu) for cpus, gpus in nodes if gpus)
    cpus_each = min(0.5, (1 - DECODE_CPUS) * share)
    free = max(cpus - gpus * a_gpu * cpus_each for cpus, gpus in nodes)
    return ReplicaAllocation(count, cpus_each, 1 / a_gpu, 1, min(1.0, free), per_block)


def _images_per_block(images: int, replicas: int, settings: Image) -> int:
    height, width = settings.input_shape
    most = min(MOST_IMAGES_PER_BLOCK, MOST_BYTES_PER_BLOCK // (height * width * settings.input_channels))
    even = -(-images // (BLOCKS_A_REPLICA * replicas))
    return max(1, min(max(even, LEAST_IMAGES_PER_BLOCK), most))
