"""The cluster's nodes: what they have and which files they can see."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

DECODE_NICENESS = 5
"""A quarter of a core beside a training thread. A training step runs at the pace of its slowest thread, so a decoder
that takes half of one core halves them all; at 19 decoding is starved (8 % data wait on two cores, measured)."""


def yield_to_training() -> None:
    """Lower this process's priority, for where decoding shares its cores with training."""
    if hasattr(os, "nice"):
        os.nice(max(0, DECODE_NICENESS - os.nice(0)))


Nodes = Sequence[tuple[float, float]]
"""CPUs and GPUs of each node."""


def list_nodes() -> list[tuple[float, float]]:
    """CPUs and GPUs of each node that is up."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in resources]


def describe_nodes() -> str:
    """The nodes that are up, those alike together: `1 × 0 CPUs (head), 2 × 8 CPUs + 1 GPU`."""
    import ray

    kinds: Counter[str] = Counter()
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            gpus = has.get("GPU", 0)
            gpu = f" + {gpus:g} GPU{'s' if gpus > 1 else ''}" if gpus else ""
            kinds[f"{has.get('CPU', 0):g} CPUs{gpu}{' (head)' if 'node:__internal_head__' in has else ''}"] += 1
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items()))


def nodes_without(paths: Sequence[str]) -> dict[str, str]:
    """Nodes that do not see a path that this machine sees, by address, and the first such path of each.

    Only nodes with CPUs are asked: on others nothing of a run is done.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = [path for path in paths if os.path.exists(path)]
    own = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != own]
    if not here:
        return {}
    ask = ray.remote(num_cpus=0, max_retries=0)(_first_missing)
    asked = {
        node["NodeManagerAddress"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(here)
        for node in others
    }
    missing = {}
    for address, answer in asked.items():
        try:
            missing[address] = ray.get(answer, timeout=SECONDS_TO_ANSWER)
        except ray.exceptions.RayError:
            # It was lost meanwhile, or has much to do; a worker there will say what it misses.
            continue
    return {address: path for address, path in missing.items() if path is not None}


SECONDS_TO_ANSWER = 60


def _first_missing(paths: Sequence[str]) -> str | None:
    return next((path for path in paths if not os.path.exists(path)), None)


def describe_free_cpus() -> str:
    """Say how many CPUs are free, as `0.5 of 2 CPUs are free`."""
    import ray

    free, total = (each.get("CPU", 0) for each in (ray.available_resources(), ray.cluster_resources()))
    return f"{free:g} of {total:g} CPUs are free"


def is_local() -> bool:
    """Whether Ray runs for this process alone, started by `connect`."""
    import ray

    return ray.get_runtime_context().namespace == own_namespace()


def on_this_node() -> Any:
    """Where an actor must be that may not be lost with another node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def own_namespace() -> str:
    return f"raycrnn-{os.getpid()}"
