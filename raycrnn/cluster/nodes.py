"""The nodes of a cluster: their resources, and the files that they can access."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from raycrnn.cluster.ray_internals import HEAD_RESOURCE

if TYPE_CHECKING:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

DECODE_NICENESS = 5
"""Niceness of decoding: a quarter of a core beside a training thread. A training step is as slow as its slowest thread,
so a decoder that takes half of one core slows down all of them. At 19, decoding starves: training on two cores then
waits for data 8 % of the time."""


def yield_to_training() -> None:
    """Lower the priority of this process, which decodes on cores that training uses too."""
    if hasattr(os, "nice"):
        os.nice(max(0, DECODE_NICENESS - os.nice(0)))


Nodes = Sequence[tuple[float, float]]
"""CPUs and GPUs of each node."""


def list_nodes() -> list[tuple[float, float]]:
    """Return the CPUs and GPUs of each node that is up."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in resources]


def describe_nodes() -> str:
    """Return a text like `1 × 0 CPUs (head), 2 × 8 CPUs + 1 GPU`, with equal nodes together."""
    import ray

    kinds: Counter[str] = Counter()
    for node in ray.nodes():
        if node["Alive"]:
            resources = node["Resources"]
            gpus = resources.get("GPU", 0)
            gpu = f" + {gpus:g} GPU{'s' if gpus > 1 else ''}" if gpus else ""
            kinds[f"{resources.get('CPU', 0):g} CPUs{gpu}{' (head)' if HEAD_RESOURCE in resources else ''}"] += 1
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items()))


def describe_free_cpus() -> str:
    """Return a text like `0.5 of 2 CPUs are free`."""
    import ray

    free, total = (resources.get("CPU", 0) for resources in (ray.available_resources(), ray.cluster_resources()))
    return f"{free:g} of {total:g} CPUs are free"


NODE_TIMEOUT = 60
"""Seconds to wait for the answers of nodes."""

Answer = TypeVar("Answer")


def nodes_without(paths: Sequence[str]) -> dict[str, str]:
    """Find nodes that cannot access all paths that exist on this machine.

    Nodes without CPUs are not asked, because they do no work.

    Returns:
        The first missing path by the address of the node.
    """
    import ray

    here = [path for path in paths if os.path.exists(path)]
    own = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != own]
    answers = ask_nodes(others, _first_missing, here) if here else {}
    return {address: path for address, path in answers.items() if path is not None}


def ask_nodes(
    asked: Sequence[dict], question: Callable[..., Answer], *arguments: object, timeout: float = NODE_TIMEOUT
) -> dict[str, Answer]:
    """Call a function with arguments on nodes of the cluster, and return what it returned by the address of the node.

    The answer of a node that was lost or is busy is missing.

    Args:
        asked: The nodes, as `ray.nodes` describes them.
        timeout: Seconds to wait for all answers.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(question)
    tasks = {
        node["NodeManagerAddress"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments)
        for node in asked
    }
    ready, _ = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=timeout) if tasks else ([], [])
    answers = {}
    for address, each in tasks.items():
        # The node was lost, or the function failed there. A worker that needs the node will report why.
        with suppress(ray.exceptions.RayError):
            if each in ready:
                answers[address] = ray.get(each)
    return answers


def _first_missing(paths: Sequence[str]) -> str | None:
    return next((path for path in paths if not os.path.exists(path)), None)


def smallest_object_store() -> float:
    """Return the bytes of the smallest object store of the nodes that offer CPUs.

    A head node that offers none decodes no images, and its object store may be small.
    """
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return min((node.get("object_store_memory", 0.0) for node in resources if node.get("CPU")), default=0.0)


def is_local() -> bool:
    """Return whether this process started Ray by `connect`, for itself alone."""
    import ray

    return ray.get_runtime_context().namespace == own_namespace()


def own_namespace() -> str:
    """Return the Ray namespace of a local Ray that this process starts."""
    return f"raycrnn-{os.getpid()}"


def on_this_node() -> "NodeAffinitySchedulingStrategy":
    """Return a scheduling strategy for actors that must not be lost with another node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
