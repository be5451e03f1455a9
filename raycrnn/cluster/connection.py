"""Connections to Ray clusters, and local Ray instances."""

import importlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from raycrnn.cluster import nodes, ray_internals
from raycrnn.console import keep_stop_handlers, signals_blocked
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model.cpus import usable_cpus

logger = logging.getLogger(__name__)

QUIET = {
    # A call from a thread that outlives the connection must not start another Ray.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Under `uv run`, Ray would upload the working directory with all its images, and install a new environment for each
    # worker. Workers use the environment of the command or, on a cluster, that of their node.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Ray's C++ code writes to the terminal without Python's logging; what matters also comes as an exception.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Ray Train's log lines would bury those of the command.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A search writes its own records, handles Ctrl-C itself, and reports progress between evaluations.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
"""Environment variables of every command; variables that the user has set take precedence."""

RECOVERY = {
    # Ray Train notices a dead worker after this many seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Ray Train waits this many seconds for a worker that cannot be placed, for example after a node was lost; an
    # elastic run then goes on with fewer workers. Longer is not needed: `allocate` has checked that the CPUs exist.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "6",
    # Ray Train notices after this many seconds that a node is drained. It may be gone after ten: `docker stop`.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}
"""Environment variables that make a run lose little time, and few steps, to a loss."""

LOCAL = {
    # Metrics are for Ray's dashboard, which a local run does not start. Collecting them takes CPU from training.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    # Only cloud providers preempt nodes.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # By default Ray runs its workers at niceness 15, so any other program would take the CPU from them.
    "RAY_worker_niceness": "0",
}
"""Environment variables of a local Ray, in addition to the others."""


def set_environment(address: str | None) -> bool:
    """Set the variables that Ray reads when it is imported, except those that the user has set.

    Returns:
        Whether the address means a local Ray.
    """
    local = address in (None, "", "local")
    for name, value in {**QUIET, **RECOVERY, **(LOCAL if local else {})}.items():
        os.environ.setdefault(name, value)
    return local


TOKEN_HINT = (
    " (if the cluster requires a token, put it into ~/.ray/auth_token or the file that RAY_AUTH_TOKEN_PATH names)"
)


@contextmanager
def connect(address: str | None = None, preload: str | None = None) -> Iterator[None]:
    """Connect to a Ray cluster, or start a quiet local Ray, for the duration of a `with` block.

    Args:
        address: Address of the cluster; default: `RAY_ADDRESS`, and if that is not set, a local Ray.
        preload: A module to import in the background while Ray starts; not one of Ray's own.

    Raises:
        UsageError: No cluster answers at the address, or RAY_TMPDIR is too long.
        RaycrnnError: The local Ray does not start.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = set_environment(address)
    import ray

    started = not ray.is_initialized()
    if not local:
        address = ray_internals.resolve_address(address)
        _check_answers(address)
        if started:
            _use_token_if_required(address)
    if preload:
        threading.Thread(target=importlib.import_module, args=(preload,), daemon=True).start()
    with ExitStack() as stack:
        if started:
            folders = stack.enter_context(_short_folders()) if local else {}
            stack.callback(ray.shutdown)
            _init(address, local, folders)
            ray_internals.silence_error_messages()
        import ray.data

        # Only now, because the import of ray.data configures its logger.
        for name in ("ray.data", "ray.train", "ray.tune"):
            # What they would log also comes as an exception.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield


MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes of the path of a Unix socket, at most."""

SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket that Ray makes in its temporary directory."""

SHORT_FOLDERS = ("/tmp", "/dev/shm")

SPILL_VARIABLE = "RAY_object_spilling_directory"
"""Environment variable with which users tell Ray where it may move objects to."""


@contextmanager
def _short_folders() -> Iterator[dict[str, Any]]:
    """Yield arguments of `ray.init` that place a local Ray in folders of its own if TMPDIR is too long for its sockets.

    Job schedulers set such a TMPDIR. Large files, the objects that Ray moves to a disk, stay there.

    Raises:
        UsageError: RAY_TMPDIR is too long, or no other folder is writable.
    """
    # On macOS, Ray does not use TMPDIR.
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ or sys.platform == "darwin" else "TMPDIR"
    folder = os.environ.get(name, "")
    if len(os.fsencode(os.path.join(folder, SOCKET))) <= MAX_SOCKET_PATH:
        yield {}
        return
    parent = next((each for each in SHORT_FOLDERS if os.access(each, os.W_OK | os.X_OK)), None)
    if name == "RAY_TMPDIR" or parent is None:
        most = MAX_SOCKET_PATH - len(f"/{SOCKET}")
        raise UsageError(
            f"{name}={folder}: too long for the sockets of Ray: set RAY_TMPDIR to a writable folder whose path has at "
            f"most {most} bytes"
        )
    with (
        tempfile.TemporaryDirectory(prefix="raycrnn-", dir=parent, ignore_cleanup_errors=True) as session,
        tempfile.TemporaryDirectory(prefix="raycrnn-", ignore_cleanup_errors=True) as spilled,
    ):
        spilled = os.environ.get(SPILL_VARIABLE, spilled)
        yield {"_temp_dir": session, "object_spilling_directory": spilled}


def _init(address: str, local: bool, folders: dict[str, Any]) -> None:
    import ray

    try:
        # Ray sets handlers of its own for SIGTERM. They end the process without a checkpoint.
        with (
            _without_sigterm() if local else nullcontext(),
            _native_stderr_silenced(),
            _encodable_arguments(),
            keep_stop_handlers(),
        ):
            if local:
                ray.init(
                    "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False,
                    # Ray knows neither the affinity nor the quotas of a scheduler's job.
                    num_cpus=usable_cpus(),
                    namespace=nodes.own_namespace(),
                    object_store_memory=object_store_bytes(),
                    **folders,
                )
            else:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except SystemExit:
        # Ray's handler of SIGTERM raises it while Ray starts.
        raise KeyboardInterrupt from None
    except Exception as error:
        # Ray raises a plain Exception if a local Ray does not start in time.
        if local:
            hint = " (is the machine overloaded?)" if "timed out" in str(error) else ""
            raise RaycrnnError(f"Ray did not start{hint}: {error}") from None
        raise UsageError(f"no Ray cluster at {address!r}: {error}{TOKEN_HINT}") from None


@contextmanager
def _without_sigterm() -> Iterator[None]:
    """Let a local Ray that starts in a `with` block go on after a SIGTERM to the whole job.

    Without it, the command could not save a checkpoint.
    """
    with signals_blocked(signal.SIGTERM), ray_internals.kill_at_shutdown():
        yield


def _check_answers(address: str) -> None:
    """Raise a `UsageError` if nothing listens at host:port. Ray itself would try for minutes without a message."""
    try:
        parts = urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(
            f"{address!r} is no address of a Ray cluster: {error}; write host:port or ray://host:port"
        ) from None
    if host is None or port is None:
        return
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster at {address!r}: {error.strerror or error}") from None


def _use_token_if_required(address: str) -> None:
    """Turn token authentication on if there is a token and the cluster requires one.

    With a cluster that requires none it must stay off. Otherwise this process would also require a token from the
    cluster's processes, which have none, and no task would ever run.
    """
    if "RAY_AUTH_MODE" in os.environ or not _has_token():
        return
    # With Ray Client (ray://) no process of the cluster connects back to this one, so the token does no harm.
    if "://" not in address:
        with _native_stderr_silenced():
            if not ray_internals.requires_token(address):
                return
    os.environ["RAY_AUTH_MODE"] = "token"
    ray_internals.reload_environment()


def _has_token() -> bool:
    """Return whether there is a token in one of the places where Ray looks for one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").is_file()


SHARED_MEMORY = "/dev/shm"

MIN_OBJECT_STORE = 256 * 10**6
"""Bytes of shared memory below which the object store is better placed on a disk."""


def object_store_bytes() -> int | None:
    """Return the size in bytes of a local Ray's object store: Ray's default, limited to the free shared memory.

    By default Ray takes 30 % of the free memory, up to 10 GB even if shared memory is smaller than that, as it often is
    in a container. Ray then places the whole store on a disk.

    Returns:
        The size, or None to leave the choice to Ray.
    """
    if not os.path.isdir(SHARED_MEMORY):
        return None
    available = int(0.95 * shutil.disk_usage(SHARED_MEMORY).free)
    if ray_internals.default_object_store_bytes() <= available:
        return None
    if available >= MIN_OBJECT_STORE:
        return available
    logger.warning(
        f"{SHARED_MEMORY} has only {available / 1e6:.0f} MB free: Ray's object store is on a disk, which is slow "
        "(in a container, set --shm-size)"
    )
    return None


@contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """Discard what C++ code writes to file descriptor 2, where Ray announces its log level.

    Python's own errors are exceptions, which are printed later.
    """
    sys.stderr.flush()
    original = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.close(devnull)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)


@contextmanager
def _encodable_arguments() -> Iterator[None]:
    """Escape file names in `sys.argv` that are not valid text: Ray records the command line and fails on them."""
    arguments = sys.argv
    sys.argv = [argument.encode("utf-8", "backslashreplace").decode() for argument in arguments]
    try:
        yield
    finally:
        sys.argv = arguments
