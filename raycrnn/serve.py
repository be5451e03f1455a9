"""The verb serve: a model as a service on Ray Serve, and the application for `serve run` and `serve deploy`."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import CliPositionalArg

from raycrnn import door, learning, storage
from raycrnn.command import Command, say
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.recognizer import Recognizer
from raycrnn.service import Limits, Service
from raycrnn.web import make_app

TOKEN_VARIABLE = "RAYCRNN_TOKEN"

NAME = "raycrnn"
"""of the application and its deployment"""

SECONDS_BEFORE_A_WORD = 15.0
"""after which Ray Serve is asked what a start waits for"""

DOOR_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

ENVIRONMENT = {
    DOOR_VARIABLE: door.IMPORT_PATH,
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


class Settings(BaseModel):
    """What `serve run raycrnn.serve:app key=value …` and serve_config.yaml take."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    model: str
    """the model directory, on every node that has a replica, or its URI in object storage"""
    overrides: list[str] = []
    """decoding.key=value, such as decoding.method=greedy"""
    replicas: int | tuple[int, int] = 1
    """of the model; [least, most]: as many as the load needs"""
    gpus: float = Field(0, ge=0)
    """of each replica; parts, such as 0.25, share a GPU"""
    cpus: float = Field(1, gt=0)
    """reserved for each replica"""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network in each replica; null: all of its node's, for one replica without a GPU, else cpus"""
    token_file: str | None = None
    """file with the token that requests must bear; default: the environment's RAYCRNN_TOKEN, else none is asked for"""
    limits: Limits = Limits()

    @field_validator("replicas", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        """From a command line: 2, 1-4 or [1,4]."""
        if not isinstance(value, str):
            return value
        numbers = value.strip("[]").replace("-", ",").split(",")
        return numbers[0] if len(numbers) == 1 else tuple(numbers)

    @model_validator(mode="after")
    def _possible(self) -> "Settings":
        least, most = self.replica_range
        if not 1 <= least <= most:
            raise ValueError("replicas must be a number from 1 on, or such a range [least, most]")
        return self

    @property
    def replica_range(self) -> tuple[int, int]:
        return self.replicas if isinstance(self.replicas, tuple) else (self.replicas, self.replicas)

    def deployment_options(self) -> dict[str, Any]:
        """As Ray Serve's deployments take them."""
        least, most = self.replica_range
        # Lines wait in the replica, which knows how many and refuses more; Ray's own limits are behind that.
        ongoing = 4 * self.limits.max_waiting
        options = {
            "ray_actor_options": {"num_cpus": self.cpus, "num_gpus": self.gpus},
            "max_ongoing_requests": ongoing,
            "max_queued_requests": ongoing,
            "graceful_shutdown_timeout_s": 60,
            "logging_config": {"enable_access_log": False},
            "health_check_period_s": 2,
            "health_check_timeout_s": 10,
            # A replica takes another model by itself; this is for `serve deploy` with another one.
            "user_config": {"model": self.model},
        }
        if least == most:
            return {**options, "num_replicas": least}
        scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": 8, "upscale_delay_s": 5}
        return {**options, "autoscaling_config": scaling}


class Replica:
    """One replica: a service in a process of Ray's."""

    def __init__(self, settings: dict[str, Any], token: str | None):
        self.settings = Settings(**settings)
        wanted = self.settings
        alone = wanted.replica_range[1] == 1 and not wanted.gpus
        threads = wanted.threads or (None if alone else max(1, round(wanted.cpus)))
        if alone and not wanted.threads:
            # Ray sets OMP_NUM_THREADS to the CPUs reserved.
            threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        learning.keep_freed_memory()
        learning.keep_kernels()
        device = "auto" if wanted.gpus else "cpu"
        self.service = Service(wanted.model, wanted.overrides, wanted.limits, token, threads, device)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        await self.service.change_model(user_config["model"])

    def __serve_build_asgi_app__(self) -> Any:
        return make_app(self.service)


def app(args: Settings) -> Any:
    """The application, for `serve run raycrnn.serve:app model=output/model` and for serve_config.yaml.

    Raises:
        UsageError, RaycrnnError: no model there, or a damaged one; no token where one is to be.
    """
    from ray import serve

    model = storage.absolute(args.model)
    # Now rather than in a replica, which would be tried again and again.
    Recognizer.load(model, "cpu", args.overrides)
    settings = args.model_copy(update={"model": model})
    deployment = serve.deployment(name=NAME, **settings.deployment_options())(serve.ingress()(Replica))
    return deployment.bind(settings.model_dump(mode="json"), read_token(args.token_file))


def read_token(path: str | None) -> str | None:
    """The token in a file, else the environment's, else none. Raises `UsageError` for one that no header can bear."""
    origin = path or f"the environment's {TOKEN_VARIABLE}"
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE)
        if not token:
            return None
    else:
        try:
            token = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{origin}: the token cannot be read: {error}") from None
    token = token.strip()
    if not token:
        raise UsageError(f"{origin}: holds no token")
    if not (token.isascii() and token.isprintable()):
        raise UsageError(f"{origin}: the token cannot be read: a header bears nothing but one line of ASCII")
    return token


class Serve(Command):
    """Serve a model over HTTP: POST /predict with an image or several, a page for people at /, OpenAPI at /docs.

    A new model that is put in the place of the old one, as training does, is taken within seconds; no request is
    dropped. Ctrl-C answers what was asked and ends.
    """

    model: CliPositionalArg[str]
    """the model directory, such as output/model"""
    overrides: CliPositionalArg[list[str]] = Field([])
    """decoding.key=value, such as decoding.method=greedy"""
    host: str = "127.0.0.1"
    """address to listen at; 0.0.0.0 is open to the network: give a token then"""
    port: int = Field(8000, ge=1, le=65535)
    """to listen at"""
    replicas: str = "1"
    """of the model: a number, or 1-4 for as many as the load needs"""
    gpus: float | None = Field(None, ge=0)
    """of each replica; parts, such as 0.25, share a GPU; default: one, where there is one"""
    cpus: float = Field(1, gt=0)
    """reserved for each replica"""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network in each replica; default: all, for a single replica without a GPU, else cpus"""
    token_file: str | None = None
    """file with the token that requests must bear; default: the environment's RAYCRNN_TOKEN, else none is asked for"""
    max_body_mb: float = Field(Limits().max_body_mb, gt=0)
    """megabytes of a request's body"""
    max_pixels: int = Field(Limits().max_pixels, ge=64)
    """pixels of an image"""
    max_images: int = Field(Limits().max_images, ge=1)
    """images a request"""
    max_waiting: int = Field(Limits().max_waiting, ge=1)
    """images that wait in a replica; what comes on top is refused at once, with 503 and Retry-After"""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else a local Ray of its own"""

    def run(self) -> int:
        from raycrnn import cluster

        Recognizer.load(self.model, "cpu", self.overrides)
        # A token that cannot be read is told first of all.
        read_token(self.token_file)
        self._warn_if_open(self.host)
        if (self.address or os.environ.get("RAY_ADDRESS") or "local") == "local":
            _check_port(self.host, self.port)
        limits = self._limits()
        for_door = {
            door.MAX_BODY_VARIABLE: str(limits.max_body_mb),
            door.MAX_REQUESTS_VARIABLE: str(self._most_requests(limits)),
        }
        for name, value in {**ENVIRONMENT, **for_door}.items():
            os.environ.setdefault(name, value)
        with _stop_noted() as stop, cluster.connect(self.address):
            self._serve(stop, cluster.is_local())
        return 130 if stop.number == signal.SIGINT else 0

    def _limits(self) -> Limits:
        """Raises `UsageError` for limits that contradict each other."""
        try:
            return Limits(**self.model_dump(include=self.model_fields_set & set(Limits.model_fields)))
        except ValidationError as error:
            raise UsageError("; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())) from None

    def _most_requests(self, limits: Limits) -> int:
        """Under way, in all replicas. Raises `UsageError` for replicas that are no number."""
        try:
            return limits.max_waiting * Settings(model=self.model, replicas=self.replicas).replica_range[1]
        except ValueError:
            raise UsageError(f"--replicas={self.replicas}: give a number, or a range such as 1-4") from None

    def _serve(self, stop: "Stop", local: bool) -> None:
        """Start, wait until somebody asks to end, and end: on a cluster of others, nothing but the own application."""
        from ray import serve

        # What went wrong comes as an exception.
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        settings = self._settings()
        if not local:
            _check_cluster(settings.limits)
        application = app(settings)
        _say_what_is_not_free(settings)
        with _failures_told("start"):
            options = {"http_options": {"host": self.host, "port": self.port}}
            serve.start(**options, logging_config={"enable_access_log": False})
        try:
            with _failures_told("start"):
                runs = _run(application, stop)
            if runs:
                print(f"{self._url()} reads images; its API: /docs. Ctrl-C ends it.", flush=True)
                stop.asked.wait()
                say("answering what was asked, then ending")
        finally:
            try:
                # Its replicas end when they have answered; Ray Serve's shutdown alone would wait for nobody.
                with _failures_told("end"):
                    serve.delete(NAME)
            finally:
                if local:
                    serve.shutdown()

    def _url(self) -> str:
        """Where it listens; says so where Ray Serve, which ran already, listens elsewhere than was asked for."""
        host, port, path = _listens_at()
        if (host, port) != (self.host, self.port):
            say(f"Ray Serve runs on this cluster already: it goes on to listen at {host}:{port}")
            self._warn_if_open(host)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}/"

    def _warn_if_open(self, host: str) -> None:
        if host not in ("127.0.0.1", "localhost", "::1") and read_token(self.token_file) is None:
            say(f"warning: {host} is open to the network and no token is asked for: see --token-file")

    def _settings(self) -> Settings:
        """Raises `UsageError` for more replicas than the cluster has room for."""
        import ray

        resources = ray.cluster_resources()
        gpus = self.gpus if self.gpus is not None else float(resources.get("GPU", 0) >= 1)
        settings = Settings(
            **self.model_dump(include={"model", "overrides", "replicas", "cpus", "threads", "token_file"}),
            gpus=gpus,
            limits=self._limits(),
        )
        least = settings.replica_range[0]
        for name, asked in (("CPU", self.cpus), ("GPU", gpus)):
            if least * asked > resources.get(name, 0):
                raise UsageError(
                    f"{least} replicas of {asked:g} {name} each, but the cluster has {resources.get(name, 0):g}: fewer "
                    f"--replicas, or less of --{name.lower()}s"
                )
        return settings


@contextmanager
def _failures_told(what: str) -> Iterator[None]:
    """Ray Serve's exceptions become a `RaycrnnError`, which tells what was not done."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        yield
    except (RuntimeError, TimeoutError, RayError, RayServeException) as error:
        raise RaycrnnError(f"the service did not {what}: {error}") from None


def _run(application: Any, stop: "Stop") -> bool:
    """Run an application. Returns whether it runs: not where somebody asked to end before."""
    from ray import serve

    # In a thread, for it waits for ever where the cluster has no room.
    starting = ThreadPoolExecutor(1).submit(serve.run, application, name=NAME, route_prefix="/")
    start, told = time.monotonic(), False
    while not stop.asked.wait(0.1):
        if starting.done():
            starting.result()
            return True
        if not told and time.monotonic() > start + SECONDS_BEFORE_A_WORD:
            told = True
            say(f"still waiting; Ray Serve says: {_reason()}. Ctrl-C ends it")
    return False


def _reason() -> str:
    """What Ray Serve says of an application that does not run yet."""
    from ray import serve

    application = serve.status().applications.get(NAME)
    deployments = application.deployments.values() if application else ()
    return " ".join(filter(None, (each.message for each in deployments))) or "nothing"


def _say_what_is_not_free(settings: Settings) -> None:
    import ray

    free, least = ray.available_resources(), settings.replica_range[0]
    for name, each in (("CPU", settings.cpus), ("GPU", settings.gpus)):
        if least * each > free.get(name, 0):
            say(
                f"waiting for {least * each:g} {name}: of the cluster's {ray.cluster_resources().get(name, 0):g}, "
                f"{free.get(name, 0):g} are free. Ctrl-C ends it"
            )


def _listens_at() -> tuple[str, int, str]:
    """Host, port and path of the Ray Serve that runs."""
    from ray.serve.context import _get_global_client

    options = _get_global_client().http_config
    return options.host, options.port, options.root_path


def _check_cluster(limits: Limits) -> None:
    """Warn where a cluster's proxies do not stand behind our door. Raises `UsageError` if we serve there already."""
    from ray import serve

    if NAME in serve.status().applications:
        raise UsageError(
            f"the cluster serves an application {NAME!r} already, which is not taken over: serve deploy changes it"
        )
    for address, (import_path, max_body_mb) in _environments().items():
        if import_path != door.IMPORT_PATH:
            say(
                f"warning: Ray was started without {DOOR_VARIABLE}={door.IMPORT_PATH} on {address}: its proxy takes "
                f"bodies of any size into memory, and lets requests wait that are to be refused"
            )
        elif float(max_body_mb) != limits.max_body_mb:
            say(
                f"warning: on {address} the limit of a body is {float(max_body_mb):g} MB, by {door.MAX_BODY_VARIABLE} "
                f"where Ray was started, and then {limits.max_body_mb:g} MB"
            )


def _environments() -> dict[str, tuple[str | None, str]]:
    """What the door is told by the environment in which Ray was started, by each node's address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = (DOOR_VARIABLE, door.MAX_BODY_VARIABLE, str(door.MAX_BODY_MB))

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


def _check_port(host: str, port: int) -> None:
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


class Stop:
    """Whether somebody asked to end, and by which signal."""

    def __init__(self) -> None:
        self.asked, self.number = threading.Event(), 0

    def note(self, number: int, _: object) -> None:
        """A signal's handler; a second one ends at once."""
        if self.asked.is_set():
            raise KeyboardInterrupt
        self.number = number
        self.asked.set()


@contextmanager
def _stop_noted() -> Iterator[Stop]:
    """Meanwhile SIGINT (Ctrl-C) and SIGTERM are noted."""
    stop = Stop()
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    Serve.main()
