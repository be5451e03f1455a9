"""Run the service on Ray Serve until it is stopped."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from raycrnn.console import StopRequest
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.serving import proxy_middleware
from raycrnn.serving.deployment import NAME, Settings
from raycrnn.serving.service import Limits

logger = logging.getLogger(__name__)


SECONDS_BEFORE_A_WORD = 15.0
"""after which Ray Serve is asked what a start waits for"""

DOOR_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

ENVIRONMENT = {
    DOOR_VARIABLE: proxy_middleware.IMPORT_PATH,
    # Each request would otherwise cross from thread to thread within its replica; decoding and the network have
    # threads of their own.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # Proxies and replicas speak with each other directly: half the time of a request without an image.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    # Its log is a file that nobody reads while it is written.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}
"""Environment of the service, where the user's does not say otherwise."""


@contextmanager
def translate_serve_errors(what: str) -> Iterator[None]:
    """Ray Serve's exceptions become a `RaycrnnError`, which tells what was not done."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        yield
    except (RuntimeError, TimeoutError, RayError, RayServeException) as error:
        raise RaycrnnError(f"the service did not {what}: {error}") from None


def start_application(application: Any, stop: StopRequest) -> bool:
    """Run an application. Returns whether it runs: not where somebody asked to end before."""
    from ray import serve

    # In a thread, for it waits for ever where the cluster has no room.
    starting = ThreadPoolExecutor(1).submit(serve.run, application, name=NAME, route_prefix="/")
    start, told = time.monotonic(), False
    while not stop.wait(0.1):
        if starting.done():
            starting.result()
            return True
        if not told and time.monotonic() > start + SECONDS_BEFORE_A_WORD:
            told = True
            logger.info(f"still waiting; Ray Serve says: {_reason()}. Ctrl-C ends it")
    return False


def _reason() -> str:
    """What Ray Serve says of an application that does not run yet."""
    from ray import serve

    application = serve.status().applications.get(NAME)
    deployments = application.deployments.values() if application else ()
    return " ".join(filter(None, (each.message for each in deployments))) or "nothing"


def warn_about_missing_resources(settings: Settings) -> None:
    import ray

    free, least = ray.available_resources(), settings.replica_range[0]
    for name, each in (("CPU", settings.cpus), ("GPU", settings.gpus)):
        if least * each > free.get(name, 0):
            logger.info(
                f"waiting for {least * each:g} {name}: of the cluster's {ray.cluster_resources().get(name, 0):g}, "
                f"{free.get(name, 0):g} are free. Ctrl-C ends it"
            )


def check_cluster(limits: Limits) -> None:
    """Warn where a cluster's proxies do not stand behind our door. Raises `UsageError` if we serve there already."""
    from ray import serve

    if NAME in serve.status().applications:
        raise UsageError(
            f"the cluster serves an application {NAME!r} already, which is not taken over: serve deploy changes it"
        )
    for address, (import_path, max_body_mb) in _environments().items():
        if import_path != proxy_middleware.IMPORT_PATH:
            logger.warning(
                f"Ray was started without {DOOR_VARIABLE}={proxy_middleware.IMPORT_PATH} on {address}: "
                "its proxy takes bodies of any size into memory, and lets requests wait that are to be refused"
            )
        elif float(max_body_mb) != limits.max_body_mb:
            logger.warning(
                f"on {address} the limit of a body is {float(max_body_mb):g} MB, by "
                f"{proxy_middleware.MAX_BODY_VARIABLE} where Ray was started, and then {limits.max_body_mb:g} MB"
            )


def _environments() -> dict[str, tuple[str | None, str]]:
    """What the door is told by the environment in which Ray was started, by each node's address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = (DOOR_VARIABLE, proxy_middleware.MAX_BODY_VARIABLE, str(proxy_middleware.MAX_BODY_MB))

    # Not a function of this module, which nodes without replicas need not have.
    def look() -> tuple[str | None, str]:
        return os.environ.get(names[0]), os.environ.get(names[1], names[2])

    asked = {
        node["NodeManagerAddress"]: ray.remote(look)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote()
        for node in ray.nodes()
        if node["Alive"]
    }
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=SECONDS_BEFORE_A_WORD)
    return {address: ray.get(answer) if answer in ready else (None, "0") for address, answer in asked.items()}


def check_port(host: str, port: int) -> None:
    """Raises `UsageError` if nobody can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened at: {error.strerror or error}; try another --port"
        ) from None
