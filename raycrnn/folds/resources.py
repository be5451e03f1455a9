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
    slots = sum(int(gpus) if use_gpu else int(cpus / MIN_CPUS) for cpus, gpus in nodes)
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
