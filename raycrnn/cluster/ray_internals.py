"""All uses of Ray's private names.

Each function names the public API that is missing, and `tests/cluster/test_ray_internals.py` has a test of each that
fails if a Ray release removes or changes the private name. Checked with Ray 2.60.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from raycrnn.errors import UsageError

if TYPE_CHECKING:
    from ray.train import PreemptionInfo

HEAD_RESOURCE = "node:__internal_head__"
"""A resource of which the head node has 1.0 and no other node has any. `ray.nodes()` does not say otherwise which node
is the head."""


def reload_environment() -> None:
    """Have Ray's C++ code read its `RAY_…` variables again, which it otherwise reads only when `ray` is imported.

    Missing in Ray: an option of `ray.init` for the authentication mode.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]  # ray/_raylet.pyi lacks it

    Config.initialize("")


def requires_token(address: str) -> bool:
    """Return whether the cluster at host:port refuses connections without a token.

    Missing in Ray: a way to ask a cluster for its authentication mode. `ray.init` without a token fails, but can be
    called only once with the mode that it read.

    Raises:
        UsageError: No cluster answers.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # ray/_raylet.pyi lacks it

    try:
        GcsClient(address=address)
    except ray.exceptions.AuthenticationError:
        return True
    except ray.exceptions.RpcError as error:
        raise UsageError(f"no Ray cluster at {address!r}: {error}") from None
    return False


def resolve_address(address: str) -> str:
    """Return the host:port that Ray connects to for the address `auto`, if it finds one; otherwise the address itself.

    Missing in Ray: a function that resolves an address without connecting to it.
    """
    from ray._private import services

    if address != "auto":
        return address
    return services.canonicalize_bootstrap_address(address) or address


def default_object_store_bytes() -> int:
    """Return the size in bytes that a local Ray chooses for its object store.

    Missing in Ray: a way to limit the object store to shared memory. `ray.init` silently places the whole store on a
    disk if its default does not fit.
    """
    from ray._private import utils

    return utils.resolve_object_store_memory(utils.estimate_available_memory())


def detected_cpus() -> int:
    """Return the number of CPUs that Ray finds on this machine; a process of Ray Serve should not use more threads.

    Missing in Ray: the CPUs of a node in `ray.get_runtime_context()`.
    """
    from ray._private import utils

    return max(1, int(utils.get_num_cpus(override_docker_cpu_warning=True)))


@contextmanager
def kill_at_shutdown() -> Iterator[None]:
    """Let a local Ray that starts in a `with` block end by SIGKILL. Its processes block SIGTERM.

    Missing in Ray: an option of `ray.shutdown` for it. Ray sends SIGTERM to one process after the other, waits for a
    second, and then sends SIGKILL.
    """
    # Ray brings psutil, which has no annotations.
    import psutil  # type: ignore[import-untyped]
    from ray._private import node

    class KilledNode(node.Node):
        def kill_all_processes(
            self, check_alive: bool = True, allow_graceful: bool = False, wait: bool = False
        ) -> None:
            children = []
            for started in itertools.chain(*self.all_processes.values()):
                with suppress(psutil.NoSuchProcess):
                    children += psutil.Process(started.process.pid).children(recursive=True)
            super().kill_all_processes(check_alive=check_alive, wait=wait)
            # The raylet started them, and would have ended them after SIGTERM.
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()

    # `ray.init` finds the class by this name. Type checkers forbid to replace a class.
    original = node.Node
    node.Node = KilledNode  # type: ignore[misc]
    try:
        yield
    finally:
        node.Node = original  # type: ignore[misc]


def silence_error_messages() -> None:
    """Keep Ray from printing errors of its processes on stdout, where a command prints its results.

    Missing in Ray: an option for it. `log_to_driver=False` covers only the output of tasks and actors. Each error also
    reaches the command as an exception.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *_, **__: None


def count_starting_nodes() -> int:
    """Return the number of nodes that the autoscaler has requested and that are not up yet.

    Missing in Ray: the autoscaler's status in Python; `ray status` prints it as text.
    """
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


def attempt_number() -> int:
    """Return how many times the current task was tried before, or the current actor was started before.

    Missing in Ray: the number of the attempt in `ray.get_runtime_context()`.
    """
    from ray._private.worker import global_worker

    # `core_worker` is set when Ray starts a process, so type checkers do not see it.
    return global_worker.core_worker.get_current_task_attempt_number()  # type: ignore[attr-defined]


def preemption_notice() -> "PreemptionInfo | None":
    """Return the last notice that this run of Ray Train loses nodes of its workers, or None. Call it in a worker.

    Missing in Ray: a way to read it at every step. `ray.train.get_preemption_info` waits for all other workers.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info


def preemption_deadline(notice: "PreemptionInfo") -> float:
    """Return when Ray Train restarts the workers after a notice that has just come, in seconds since 1970.

    Missing in Ray: the time that Ray Train waits if the notice has no deadline.
    """
    from ray.train.v2._internal.constants import DEFAULT_PREEMPTION_DEADLINE_S

    return notice.deadline_ms / 1000 if notice.deadline_ms else time.time() + DEFAULT_PREEMPTION_DEADLINE_S


def run_in_main_thread(function: Callable[[], None]) -> None:
    """Run a function of a module in the main thread of this process, and wait for it. Call it in a worker of Ray Train.

    Missing in Ray: a hook of Ray Train that runs there, where alone Python sets signal handlers. The training function
    runs in another thread. The methods of the worker's actor run in the main thread.
    """
    import ray

    actor = ray.get_runtime_context().current_actor
    ray.get(actor.__ray_call__.remote(lambda _: function()))


def listening_address() -> tuple[str, int, str]:
    """Return host, port and root path of the running Ray Serve.

    Missing in Ray: the HTTP options of a Serve instance that another program started; `serve.status()` lacks them.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None  # It raises an error itself if Serve is not running.
    options = client.http_config
    return options.host, options.port, options.root_path
