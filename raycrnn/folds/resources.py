"""Decide how many folds are trained side by side, and what each takes of the cluster."""

from raycrnn import cluster
from raycrnn.cluster.allocation import wants_gpus
from raycrnn.cluster.nodes import Nodes
from raycrnn.config import Configuration

MIN_CPUS = 2.0
"""CPUs of each worker of folds that are trained side by side, at least: one to train and one to decode."""


def room_for_folds(configuration: Configuration, nodes: Nodes) -> tuple[int, dict[str, object]]:
    """Return how many folds fit into a cluster at the same time, and the settings with which each takes its share.

    Folds are trained one after another if there is room for only one, or if the number of workers is a range.

    Args:
        configuration: The configuration of the run.
        nodes: CPUs and GPUs of each node.

    Returns:
        The number of folds, and values of dotted keys; no values if it is 1.
    """
    settings, folds = configuration.cluster, configuration.training.folds
    assert folds is not None
    if isinstance(settings.num_workers, tuple):
        return 1, {}
    workers = settings.num_workers or settings.num_gpus or 1
    use_gpu = wants_gpus(settings, sum(gpus for _, gpus in nodes))
    slots = sum(_workers_on(cpus, gpus if use_gpu else None, settings.cpus_per_worker) for cpus, gpus in nodes)
    room = min(folds, slots // workers)
    if room < 2:
        return 1, {}
    if use_gpu:
        share = min(cpus / gpus for cpus, gpus in nodes if gpus)
        worker_cpus = min(1.0, share / 2)
        tasks = max(1, int(share - worker_cpus))
    else:
        share = cluster.even_share([cpus for cpus, _ in nodes], room * workers)
        tasks = max(1, int(share / 4))
        worker_cpus = share - tasks
    values: dict[str, object] = {"cluster.num_workers": workers}
    if settings.cpus_per_worker == "auto":
        values["cluster.cpus_per_worker"] = int(1000 * worker_cpus) / 1000
    if configuration.data.input_data_n_parallel_calls is None:
        values["data.input_data_n_parallel_calls"] = tasks
    return room, values


def _workers_on(cpus: float, gpus: float | None, cpus_per_worker: float | str) -> int:
    """Return how many workers fit onto a node.

    A worker reserves its CPUs. Another one must be left for each, or all folds would wait for images that no process
    can decode.

    Args:
        gpus: GPUs of the node; None if training uses none.
        cpus_per_worker: The setting of the user, or `auto`.
    """
    needed = 0.0 if isinstance(cpus_per_worker, str) else cpus_per_worker + 1
    if gpus is None:
        return int(cpus / max(MIN_CPUS, needed))
    return min(int(gpus), int(cpus / needed)) if needed else int(gpus)
