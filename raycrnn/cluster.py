"""Ray itself: connecting quietly, and what of the cluster a run takes."""

import importlib
import json
import logging
import os
import shutil
import socket
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raycrnn import config
from raycrnn.command import say
from raycrnn.errors import RaycrnnError, UsageError

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


def _show_token_if_wanted(address: str) -> None:
    """Have Ray show its token to a cluster that wants one: to an address it does not by itself.

    To one that wants none it must not: that cluster's processes would have to show one to this process too, and have
    none, so that nothing which this process starts would ever run.
    """
    if "RAY_AUTH_MODE" in os.environ or not _has_token() or not _wants_token(address):
        return
    from ray._raylet import Config

    os.environ["RAY_AUTH_MODE"] = "token"
    # It was read when Ray was imported; now it would reach only the processes that Ray starts.
    Config.initialize("")


def _wants_token(address: str) -> bool:
    """Whether the cluster refuses who shows no token; raises `UsageError` where no cluster answers."""
    import ray
    from ray._raylet import GcsClient

    if "://" in address:
        # Ray's client, whose own process nobody calls back.
        return True
    try:
        with _native_stderr_silenced():
            GcsClient(address=address)
    except ray.exceptions.AuthenticationError:
        return True
    except ray.exceptions.RpcError as error:
        raise UsageError(f"no Ray cluster at {address!r}: {error}") from None
    return False


def _has_token() -> bool:
    """Whether there is a token for a cluster where Ray looks for one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").is_file()


TOKEN_HINT = " (if it wants a token: is the token in ~/.ray/auth_token, or in the file that RAY_AUTH_TOKEN_PATH names?)"


@contextmanager
def connect(address: str | None = None, ahead: str | None = None) -> Iterator[None]:
    """A connection to the cluster at an address or in `RAY_ADDRESS`, else a quiet local Ray, ended on leaving.

    Args:
        ahead: a module to import while Ray starts; none of Ray's own.

    Raises:
        UsageError: no cluster answers at the address.
        RaycrnnError: a local Ray does not start.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    local = set_environment(address)
    import ray

    started = not ray.is_initialized()
    if not local:
        address = _found(address)
        _check_answers(address)
        if started:
            _show_token_if_wanted(address)
    if ahead:
        threading.Thread(target=importlib.import_module, args=(ahead,), daemon=True).start()
    if started:
        own = {"include_dashboard": False, "namespace": _own_namespace(), "object_store_memory": _object_store()}
        options = own if local else {}
        try:
            with _native_stderr_silenced(), _printable_arguments():
                ray.init(
                    address="local" if local else address, log_to_driver=False, logging_level=logging.ERROR, **options
                )
        except Exception as error:
            # Of no narrower class when a local Ray does not come up in time.
            if local:
                raise RaycrnnError(f"Ray did not start; is the machine overloaded? {error}") from None
            raise UsageError(f"no Ray cluster at {address!r}: {error}{TOKEN_HINT}") from None
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


SHARED_MEMORY = "/dev/shm"

LEAST_OBJECT_STORE = 256 * 10**6
"""Bytes of shared memory below which the object store is better on a disk."""


def _object_store() -> int | None:
    """Bytes for a local Ray's object store: as many as Ray would take, but no more than shared memory holds.

    Ray itself takes 10 GB wherever a third of the memory allows, and puts all of them on a disk without a word where
    shared memory, as a container's, is smaller. None: Ray's own choice.
    """
    if not os.path.isdir(SHARED_MEMORY):
        return None
    from ray._private import utils

    wanted = utils.resolve_object_store_memory(utils.estimate_available_memory())
    room = int(0.95 * shutil.disk_usage(SHARED_MEMORY).free)
    if wanted <= room:
        return None
    if room >= LEAST_OBJECT_STORE:
        return room
    say(
        f"warning: {SHARED_MEMORY} has room for {room / 1e6:.0f} MB: Ray's object store is on the disk, which is slow "
        "(in a container set --shm-size)"
    )
    return None


def _found(address: str) -> str:
    """`auto` as the host:port that Ray takes it for, where it finds one; any other address as it is."""
    from ray._private import services

    if address != "auto":
        return address
    return services.canonicalize_bootstrap_address(address) or address


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


NO_CPUS = "the cluster has no CPUs now, and no node is being started: see `ray status`"

Nodes = Sequence[tuple[float, float]]
"""CPUs and GPUs of each node."""


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


SECONDS_TO_BEGIN = 30
"""After so long an autoscaler that could start nodes has begun to."""


def grow(settings: config.Cluster, say: Callable[[str], None]) -> None:
    """Have an autoscaler start the nodes that training takes, and wait for them.

    Returns at once where they are there, and soon where nobody starts them: `plan` says what is missing then.

    Raises:
        UsageError: they did not come within `cluster.wait_minutes`.
    """
    if is_local() or not settings.wait_minutes:
        return
    gpus = bool(settings.num_gpus or settings.use_gpu is True)
    workers = settings.num_workers or settings.num_gpus or 1
    least = workers[0] if isinstance(workers, tuple) else workers
    if not gpus and settings.use_gpu == "auto":
        # Whether such nodes can be had nobody tells; who has some up, or none at all, knows what for.
        gpus = any(gpus for _, gpus in nodes())
    kind = "GPU" if gpus and settings.num_gpus != 0 else "CPU"
    if _there(kind) >= least:
        return
    with _requested([{"CPU": 1.0, "GPU": 1.0} if kind == "GPU" else {"CPU": 1.0}] * least):
        _wait_for(kind, least, settings.wait_minutes, say)


def _there(kind: str) -> float:
    return sum(node[kind == "GPU"] for node in nodes())


@contextmanager
def _requested(bundles: list[dict[str, float]]) -> Iterator[None]:
    """Ask the autoscaler for room. Taken back on leaving: what runs on a node keeps it, and what does not need not."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)
    try:
        yield
    finally:
        request_resources(bundles=[])


def _wait_for(kind: str, wanted: int, minutes: float, say: Callable[[str], None]) -> None:
    start = time.monotonic()
    next_line = start + 2
    begun = False
    while _there(kind) < wanted:
        now = time.monotonic()
        begun = begun or _nodes_starting() > 0
        if not begun and now - start > SECONDS_TO_BEGIN:
            return
        if now - start > 60 * minutes:
            raise UsageError(
                f"waited {minutes:g} minutes (cluster.wait_minutes) for {wanted} {kind}s, and {_there(kind):g} are "
                "there: see `ray status`; wait for longer, or set cluster.num_workers to less or to [least, most]"
            )
        if now > next_line:
            next_line = now + 60
            there = f"{wanted} {kind}s wanted, {_there(kind):g} there"
            say(f"waiting for nodes: {there}, {_nodes_starting()} nodes starting")
        time.sleep(1)


def _nodes_starting() -> int:
    """Nodes that the autoscaler has asked for and that are not up."""
    import ray
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2():
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
    report = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report") or {}
    return len(report.get("pending_nodes") or ()) + sum((report.get("pending_launches") or {}).values())


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


def plan(settings: config.Cluster, parallel_calls: int | None, nodes: Nodes, local: bool = False) -> Plan:
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


def _with_decoding_nodes(divided: Plan, share: float, nodes: Nodes) -> Plan:
    """A plan with the CPUs that are in no worker's share, as of nodes without a GPU, decoding too."""
    spare = sum(cpus for cpus, _ in nodes) - divided.num_workers * share
    for_decoding = share - divided.cpus_per_worker + spare / divided.num_workers
    if spare < divided.num_workers or divided.decode_tasks >= int(for_decoding):
        return divided
    # A task must fit beside the workers of some node even where they stand as close as they can.
    free = max(
        cpus - divided.cpus_per_worker * (gpus if divided.use_gpu else int(cpus / share + 1e-9)) for cpus, gpus in nodes
    )
    return replace(divided, decode_tasks=int(for_decoding), cpus_per_decode_task=min(1.0, int(1000 * free) / 1000))


def _hold_for_decoding(divided: Plan, share: float) -> Plan:
    """A plan whose workers reserve nearly all of their share: Ray fills an elastic run by what each reserves."""
    for_tasks = 0.02 * share / divided.decode_tasks
    return replace(
        divided,
        cpus_per_worker=round(0.98 * share, 3),
        # Not 0, or tasks would go to a cluster's head, which has no CPUs to give.
        cpus_per_decode_task=max(0.001, int(1000 * for_tasks) / 1000),
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
