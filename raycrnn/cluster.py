"""Ray itself: connecting quietly, and what of the cluster a run takes."""

import importlib
import logging
import os
import socket
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from raycrnn import config
from raycrnn.errors import UsageError

LEAST_DECODE_CPUS = 0.25
"""of a CPU, left free for decoding beside each training worker"""


QUIET = {
    # A call from a thread that outlives the connection must not start another Ray.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Ray's C++ side writes to the terminal past Python's logging; what matters also comes as an exception.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Its lines would drown the ones that a user needs.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A search writes its own records, takes Ctrl-C itself, and hears of progress between evaluations.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
"""Environment of every verb, where the user's does not say otherwise."""

RECOVERY = {
    # A worker that died is noticed after this many seconds, ...
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # ... and one that cannot be placed, as on a node that was lost, is given up after these: then an elastic run goes
    # on with fewer. `plan` has seen the cluster's CPUs, so that nothing is waited for that is yet to come.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "6",
}
"""… how soon a run goes on after a loss."""

LOCAL = {
    # Metrics for Ray's dashboard, which a local run does not start: collecting them takes CPU from training.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    # No cloud takes nodes away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray runs workers at 15, where any other program takes the CPU from them; like every command, ours competes as an
    # equal, and `nice` in front of it is the user's to say.
    "RAY_worker_niceness": "0",
}
"""… of a local Ray besides."""


def set_environment(address: str | None) -> bool:
    """Set what Ray reads when it is imported, where the user's environment does not; returns whether Ray is local."""
    local = address in (None, "", "local")
    for name, value in {**QUIET, **RECOVERY, **(LOCAL if local else {})}.items():
        os.environ.setdefault(name, value)
    return local


@contextmanager
def connect(address: str | None = None, ahead: str | None = None) -> Iterator[None]:
    """A connection to the cluster at an address or in `RAY_ADDRESS`, else a quiet local Ray, ended on leaving.

    Args:
        ahead: a module to import while Ray starts; none of Ray's own.

    Raises:
        UsageError: no cluster answers at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    local = set_environment(address)
    import ray

    if not local:
        _check_answers(address)
    started = not ray.is_initialized()
    if ahead:
        threading.Thread(target=importlib.import_module, args=(ahead,), daemon=True).start()
    if started:
        options = {"include_dashboard": False, "namespace": _own_namespace()} if local else {}
        try:
            with _native_stderr_silenced(), _printable_arguments():
                ray.init(
                    address="local" if local else address, log_to_driver=False, logging_level=logging.ERROR, **options
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster at {address!r}: {error}") from None
        # What befalls its processes Ray prints to stdout, in the middle of results; those whom it concerns get an
        # exception. There is no setting for it.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
    import ray.data

    # After the import of ray.data, which sets its logger up anew.
    for name in ("ray.data", "ray.train", "ray.tune"):
        # What they would say comes as an exception too.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raises `UsageError` if nobody listens at host:port: Ray itself would try for minutes, and say nothing."""
    place = urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")
    if place.hostname is None or place.port is None:
        return
    try:
        socket.create_connection((place.hostname, place.port), timeout=10).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster at {address!r}: {error.strerror or error}") from None


@contextmanager
def _printable_arguments() -> Iterator[None]:
    """Ray notes the command line, and fails on names of files that are no text."""
    given = sys.argv
    sys.argv = [argument.encode("utf-8", "backslashreplace").decode() for argument in given]
    try:
        yield
    finally:
        sys.argv = given


@contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """Keep what C++ code writes to file descriptor 2 off the terminal: Ray announces its log level there.

    Python's own errors are exceptions by then, and printed after.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


DECODE_NICENESS = 5
"""A quarter of a core beside a training thread. A training step runs at the pace of its slowest thread, so a decoder
that takes half of one core halves them all; at 19 decoding is starved (8 % data wait on two cores, measured)."""


def yield_to_training() -> None:
    """Lower this process's priority, for where decoding shares its cores with training."""
    if hasattr(os, "nice"):
        os.nice(max(0, DECODE_NICENESS - os.nice(0)))


@dataclass(frozen=True)
class Plan:
    """What a training run takes of the cluster. Made by `plan`, which checks that it can be had."""

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


def nodes() -> list[tuple[float, float]]:
    """CPUs and GPUs of each node that is up."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in resources]


def is_local() -> bool:
    """Whether Ray runs for this process alone, started by `connect`."""
    import ray

    return ray.get_runtime_context().namespace == _own_namespace()


def on_this_node() -> Any:
    """Where an actor must be that may not be lost with another node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _own_namespace() -> str:
    return f"raycrnn-{os.getpid()}"


def plan(
    settings: config.Cluster, parallel_calls: int | None, nodes: Sequence[tuple[float, float]], local: bool = False
) -> Plan:
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
    if workers > cpus:
        raise UsageError(
            f"cluster.num_workers={workers}, but the cluster has {cpus:g} CPUs: "
            f"set cluster.num_workers={int(cpus)} or less"
        )
    share = even_share([node_cpus for node_cpus, _ in nodes], workers)
    elastic = settings.num_workers if isinstance(settings.num_workers, tuple) else None
    if elastic:
        # A worker must fit on whichever node is left.
        share = min(share, *(node_cpus for node_cpus, _ in nodes if node_cpus))
    divided = divide(settings, parallel_calls, workers, share, wants_gpu)
    return replace(
        divided,
        cpus_per_worker=round(share, 3) if elastic else divided.cpus_per_worker,
        cpus_per_decode_task=0.0 if elastic else divided.cpus_per_decode_task,
        warning=warning,
        elastic=elastic,
        in_command=local and workers == 1 and not elastic,
    )


def divide(settings: config.Cluster, parallel_calls: int | None, workers: int, share: float, use_gpu: bool) -> Plan:
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
    return Plan(
        num_workers=workers,
        use_gpu=use_gpu,
        cpus_per_worker=round(worker_cpus, 3),
        threads=max(1, round(worker_cpus)),
        decode_tasks=decode_tasks,
        # Rounded down, so that all of them fit into what is left.
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
    say nothing, because no worker spans two nodes."""
    shares = {cpus / count for cpus in node_cpus for count in range(1, workers + 1) if cpus}
    return max(share for share in shares if sum(int(cpus / share + 1e-9) for cpus in node_cpus) >= workers)
