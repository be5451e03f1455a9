"""Ray itself: connecting quietly, and what of the cluster a run takes."""

import importlib
import logging
import os
import socket
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager

from raycrnn.cluster import nodes, ray_internals
from raycrnn.errors import RaycrnnError, UsageError

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
    # on with fewer. `allocation` has seen the cluster's CPUs, so that nothing is waited for that is yet to come.
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
        address = ray_internals.resolve_address(address)
        _check_answers(address)
        if started:
            ray_internals.show_token_if_wanted(address)
    if ahead:
        threading.Thread(target=importlib.import_module, args=(ahead,), daemon=True).start()
    if started:
        own = {
            "include_dashboard": False,
            "namespace": nodes.own_namespace(),
            "object_store_memory": ray_internals.object_store_bytes(),
        }
        options = own if local else {}
        try:
            with ray_internals.native_stderr_silenced(), _printable_arguments():
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
