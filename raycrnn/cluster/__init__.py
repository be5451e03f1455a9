"""Ray clusters: connections, nodes, and the resources that a command reserves."""

from raycrnn.cluster.allocation import TrainingAllocation, allocate, even_share
from raycrnn.cluster.autoscaling import wait_for_nodes
from raycrnn.cluster.background import Background, Threads
from raycrnn.cluster.connection import connect, set_environment
from raycrnn.cluster.gpus import require_gpu, with_usable_gpus
from raycrnn.cluster.nodes import Nodes, describe_free_cpus, describe_nodes, is_local, list_nodes

__all__ = [
    "Background",
    "Nodes",
    "Threads",
    "TrainingAllocation",
    "allocate",
    "connect",
    "describe_free_cpus",
    "describe_nodes",
    "even_share",
    "is_local",
    "list_nodes",
    "require_gpu",
    "set_environment",
    "wait_for_nodes",
    "with_usable_gpus",
]
