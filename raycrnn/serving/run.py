"""Run the application on Ray Serve until a stop is requested."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from raycrnn import cluster
from raycrnn.cluster.nodes import ask_nodes
from raycrnn.cluster.ray_internals import listening_address
from raycrnn.config import Cluster
from raycrnn.console import StopRequest
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.serving import deployment, proxy_middleware
from raycrnn.serving.deployment import NAME, Settings
from raycrnn.serving.settings import Limits

if TYPE_CHECKING:
    from ray.serve import Application

logger = logging.getLogger(__name__)

SECONDS_UNTIL_STATUS = 15.0
"""Seconds after which a start that is not finished reports what Ray Serve says."""

MIDDLEWARE_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

ENVIRONMENT = {
    MIDDLEWARE_VARIABLE: proxy_middleware.IMPORT_PATH,
    # A replica's event loop only passes requests on, since decoding and the network have threads of their own. So the
    # separate threads of Ray Serve would only add switches between threads to each request.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # Proxies talk to replicas by gRPC instead of Ray tasks: a request without an image takes half the time.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    # gRPC's own limit is 4 MB. Bodies have limits of their own (`BodyLimiter`), so this is the greatest value.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
    # Write the request log in blocks; nobody follows it.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}
"""Environment variables for Ray Serve that do not depend on the settings."""


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables that Ray Serve needs, for where Ray is started."""
    return {
        **ENVIRONMENT,
        proxy_middleware.MAX_BODY_VARIABLE: str(settings.limits.max_body_mb),
        proxy_middleware.MAX_REQUESTS_VARIABLE: str(settings.limits.max_waiting * settings.replica_range[1]),
    }


def serve_until_stopped(
    settings: Settings,
    gpus: float | None,
    host: str,
    port: int,
    address: str | None,
    stop: StopRequest,
    on_ready: Callable[[str], None],
) -> None:
    """Start the service and wait for a stop request; then answer the requests in progress and stop.

    A local Ray inherits this process's environment, so set the variables of `environment` first. On a cluster that was
    running already, only this application is started and stopped.

    Args:
        gpus: GPUs per replica; None for one, if the cluster has any.
        address: The Ray cluster; None for RAY_ADDRESS, or else a local Ray.
        on_ready: Called with the service's URL once it answers.

    Raises:
        UsageError, RaycrnnError: The service cannot be started.
    """
    if (address or os.environ.get("RAY_ADDRESS") or "local") == "local":
        check_port(host, port)
    with cluster.connect(address):
        from ray import serve

        is_local = cluster.is_local()
        settings = _with_resources(settings, gpus)
        if not is_local:
            check_cluster(settings.limits)
        application = deployment.app(settings)
        _report_missing_resources(settings)
        with _ray_errors_as("the service did not start"):
            serve.start(http_options={"host": host, "port": port}, logging_config={"enable_access_log": False})
        try:
            with _ray_errors_as("the service did not start"):
                is_running = _start_application(application, stop)
            if is_running:
                on_ready(_url(host, port, settings.token_file))
                stop.wait()
                logger.info("answering the requests in progress, then stopping")
        finally:
            try:
                # Unlike serve.shutdown, this waits for the replicas to answer.
                with _ray_errors_as("the service did not stop"):
                    serve.delete(NAME)
            finally:
                if is_local:
                    serve.shutdown()


def check_port(host: str, port: int) -> None:
    """Raise `UsageError` if the port cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}; try another --port") from None


def warn_if_open(host: str, token_file: str | None) -> None:
    """Warn if other machines can reach the service and it has no token."""
    if host not in ("127.0.0.1", "localhost", "::1") and deployment.read_token(token_file) is None:
        logger.warning(f"{host} accepts requests from the network without a token; set one with --token-file")


def check_cluster(limits: Limits) -> None:
    """Warn if a cluster's proxies run without our middleware or with another limit.

    Raises:
        UsageError: The cluster runs this application already.
    """
    from ray import serve

    if NAME in serve.status().applications:
        raise UsageError(
            f"the cluster already runs an application named {NAME!r}: change it with `serve deploy`, or stop it first"
        )
    for address, environment in _proxy_environments().items():
        if environment is None:
            logger.warning(
                f"the proxy on {address} was not checked: its node did not answer within {SECONDS_UNTIL_STATUS:g} s"
            )
            continue
        import_path, text = environment
        if import_path != proxy_middleware.IMPORT_PATH:
            logger.warning(
                f"Ray was started without {MIDDLEWARE_VARIABLE}={proxy_middleware.IMPORT_PATH} on {address}: its proxy "
                "reads bodies of any size into memory and queues requests instead of refusing them"
            )
        elif (max_body_mb := proxy_middleware.read_max_body_mb(text)) != limits.max_body_mb:
            logger.warning(
                f"the proxy on {address} limits bodies to {max_body_mb:g} MB "
                f"({proxy_middleware.MAX_BODY_VARIABLE} when Ray was started), the replicas to {limits.max_body_mb:g} "
                "MB; the lower limit applies"
            )


def _proxy_environments() -> dict[str, tuple[str | None, str | None] | None]:
    """Return the import path and the body limit in the environment of each node's Ray, by the node's address.

    The value of a node that does not answer is None. The environment is the only way to configure middleware of Ray
    Serve 2.60's proxies, and nothing else shows it.
    """
    import ray

    path_variable, limit_variable = MIDDLEWARE_VARIABLE, proxy_middleware.MAX_BODY_VARIABLE

    # A closure is sent by value, so that nodes without replicas need no raycrnn.
    def read() -> tuple[str | None, str | None]:
        return os.environ.get(path_variable), os.environ.get(limit_variable)

    alive = [node for node in ray.nodes() if node["Alive"]]
    answers = ask_nodes(alive, read, timeout=SECONDS_UNTIL_STATUS)
    return {node["NodeManagerAddress"]: answers.get(node["NodeManagerAddress"]) for node in alive}


def _with_resources(settings: Settings, gpus: float | None) -> Settings:
    """Return the settings with the GPUs of the cluster. Raises `UsageError` if it is too small for the replicas."""
    import ray

    resources = ray.cluster_resources()
    if gpus is None:
        usable = cluster.with_usable_gpus(Cluster(), cluster.list_nodes())
        gpus = float(sum(gpus for _, gpus in usable) >= 1)
    minimum = settings.replica_range[0]
    for name, per_replica in (("CPU", settings.cpus), ("GPU", gpus)):
        if minimum * per_replica > resources.get(name, 0):
            raise UsageError(
                f"{minimum} replicas need {minimum * per_replica:g} {name}s, but the cluster has "
                f"{resources.get(name, 0):g}: lower --replicas or --{name.lower()}s"
            )
    return settings.model_copy(update={"gpus": gpus})


def _report_missing_resources(settings: Settings) -> None:
    """Log which resources are in use by others, so that the start has to wait."""
    import ray

    free, minimum = ray.available_resources(), settings.replica_range[0]
    for name, per_replica in (("CPU", settings.cpus), ("GPU", settings.gpus)):
        if minimum * per_replica > free.get(name, 0):
            logger.info(
                f"waiting for {minimum * per_replica:g} {name}: {free.get(name, 0):g} of the cluster's "
                f"{ray.cluster_resources().get(name, 0):g} are free. Press Ctrl-C to stop"
            )


def _start_application(application: "Application", stop: StopRequest) -> bool:
    """Start an application; return False if a stop was requested first."""
    from ray import serve

    # In a thread, because it waits without a time limit if the cluster has no free resources.
    starting = ThreadPoolExecutor(1).submit(serve.run, application, name=NAME, route_prefix="/")
    status_at: float | None = time.monotonic() + SECONDS_UNTIL_STATUS
    while not stop.wait(0.1):
        if starting.done():
            starting.result()
            return True
        if status_at is not None and time.monotonic() > status_at:
            status_at = None
            logger.info(f"still waiting; Ray Serve reports: {_status()}. Press Ctrl-C to stop")
    return False


def _status() -> str:
    """Return Ray Serve's messages about the application."""
    from ray import serve

    application = serve.status().applications.get(NAME)
    deployments = application.deployments.values() if application else ()
    return " ".join(filter(None, (deployment.message for deployment in deployments))) or "nothing"


def _url(host: str, port: int, token_file: str | None) -> str:
    """Return the service's URL; log it if a running Ray Serve listens at another address than asked for."""
    actual_host, actual_port, path = listening_address()
    if (actual_host, actual_port) != (host, port):
        logger.info(f"Ray Serve already runs on this cluster and keeps listening on {actual_host}:{actual_port}")
        warn_if_open(actual_host, token_file)
    return f"http://{f'[{actual_host}]' if ':' in actual_host else actual_host}:{actual_port}{path}/"


@contextmanager
def _ray_errors_as(problem: str) -> Iterator[None]:
    """Turn exceptions of Ray Serve into a `RaycrnnError` that begins with `problem`."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        yield
    except (RuntimeError, TimeoutError, RayError, RayServeException) as error:
        raise RaycrnnError(f"{problem}: {error}") from None
