"""Ray clusters: connecting, nodes, and the resources that a command reserves."""

from raycrnn.cluster.allocation import LEAST_DECODE_CPUS, TrainingAllocation, allocate, divide, even_share, wants_gpus
from raycrnn.cluster.autoscaling import wait_for_nodes
from raycrnn.cluster.background import SECONDS_TO_END, Background, Threads
from raycrnn.cluster.connection import connect, set_environment
from raycrnn.cluster.nodes import (
    Nodes,
    describe_free_cpus,
    describe_nodes,
    is_local,
    list_nodes,
    nodes_without,
    on_this_node,
    yield_to_training,
)
from raycrnn.cluster.ray_internals import check_deaths, count_starting_nodes, listening_address, object_store_bytes

__all__ = [
    "LEAST_DECODE_CPUS",
    "SECONDS_TO_END",
    "Background",
    "Nodes",
    "Threads",
    "TrainingAllocation",
    "allocate",
    "check_deaths",
    "connect",
    "count_starting_nodes",
    "describe_free_cpus",
    "describe_nodes",
    "divide",
    "even_share",
    "is_local",
    "list_nodes",
    "listening_address",
    "nodes_without",
    "object_store_bytes",
    "on_this_node",
    "set_environment",
    "wait_for_nodes",
    "wants_gpus",
    "yield_to_training",
]
