"""Every use of Ray's private names, in one place."""

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycrnn.errors import RaycrnnError, UsageError

logger = logging.getLogger(__name__)


def show_token_if_wanted(address: str) -> None:
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
        with native_stderr_silenced():
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


SHARED_MEMORY = "/dev/shm"

LEAST_OBJECT_STORE = 256 * 10**6
"""Bytes of shared memory below which the object store is better on a disk."""


def object_store_bytes() -> int | None:
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
    logger.warning(
        f"{SHARED_MEMORY} has room for {room / 1e6:.0f} MB: Ray's object store is on the disk, which is slow "
        "(in a container set --shm-size)"
    )
    return None


def resolve_address(address: str) -> str:
    """`auto` as the host:port that Ray takes it for, where it finds one; any other address as it is."""
    from ray._private import services

    if address != "auto":
        return address
    return services.canonicalize_bootstrap_address(address) or address


@contextmanager
def native_stderr_silenced() -> Iterator[None]:
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


def count_starting_nodes() -> int:
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


MOST_DEATHS = 8
"""of a worker at the same images, or of a replica in all: Ray would begin anew for ever."""


def check_deaths(who: str, remedy: str) -> int:
    """How often this task, or this actor, was lost with its process before. Raises `RaycrnnError` if too often."""
    # Ray tells it nowhere else, and its own limits (max_retries, max_restarts) Ray Data will not take from 2.64 on.
    from ray._private.worker import global_worker

    deaths = global_worker.core_worker.get_current_task_attempt_number()
    if deaths > MOST_DEATHS:
        raise RaycrnnError(f"{who} died {deaths} times; {remedy}")
    return deaths


def listening_address() -> tuple[str, int, str]:
    """Host, port and path of the Ray Serve that runs."""
    from ray.serve.context import _get_global_client

    options = _get_global_client().http_config
    return options.host, options.port, options.root_path
