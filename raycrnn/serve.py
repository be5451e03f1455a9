"""The verb serve: a model as a service on Ray Serve, and the application for `serve run` and `serve deploy`."""

import logging
import os
import signal

from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg

from raycrnn.cli import Command
from raycrnn.cluster import listening_address
from raycrnn.console import StopRequest, defer_stop
from raycrnn.errors import UsageError
from raycrnn.model.recognizer import Recognizer
from raycrnn.serving import deployment, proxy_middleware, run
from raycrnn.serving.deployment import NAME, Settings
from raycrnn.serving.run import ENVIRONMENT
from raycrnn.serving.service import Limits

logger = logging.getLogger(__name__)


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
        deployment.read_token(self.token_file)
        self._warn_if_open(self.host)
        if (self.address or os.environ.get("RAY_ADDRESS") or "local") == "local":
            run.check_port(self.host, self.port)
        limits = self._limits()
        for_door = {
            proxy_middleware.MAX_BODY_VARIABLE: str(limits.max_body_mb),
            proxy_middleware.MAX_REQUESTS_VARIABLE: str(self._most_requests(limits)),
        }
        for name, value in {**ENVIRONMENT, **for_door}.items():
            os.environ.setdefault(name, value)
        with defer_stop((signal.SIGINT, signal.SIGTERM)) as stop, cluster.connect(self.address):
            self._serve(stop, cluster.is_local())
        return 130 if stop.signal == signal.SIGINT else 0

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

    def _serve(self, stop: StopRequest, local: bool) -> None:
        """Start, wait until somebody asks to end, and end: on a cluster of others, nothing but the own application."""
        from ray import serve

        # What went wrong comes as an exception.
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        settings = self._settings()
        if not local:
            run.check_cluster(settings.limits)
        application = deployment.app(settings)
        run.warn_about_missing_resources(settings)
        with run.translate_serve_errors("start"):
            options = {"http_options": {"host": self.host, "port": self.port}}
            serve.start(**options, logging_config={"enable_access_log": False})
        try:
            with run.translate_serve_errors("start"):
                runs = run.start_application(application, stop)
            if runs:
                print(f"{self._url()} reads images; its API: /docs. Ctrl-C ends it.", flush=True)
                stop.wait()
                logger.info("answering what was asked, then ending")
        finally:
            try:
                # Its replicas end when they have answered; Ray Serve's shutdown alone would wait for nobody.
                with run.translate_serve_errors("end"):
                    serve.delete(NAME)
            finally:
                if local:
                    serve.shutdown()

    def _url(self) -> str:
        """Where it listens; says so where Ray Serve, which ran already, listens elsewhere than was asked for."""
        host, port, path = listening_address()
        if (host, port) != (self.host, self.port):
            logger.info(f"Ray Serve runs on this cluster already: it goes on to listen at {host}:{port}")
            self._warn_if_open(host)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}/"

    def _warn_if_open(self, host: str) -> None:
        if host not in ("127.0.0.1", "localhost", "::1") and deployment.read_token(self.token_file) is None:
            logger.warning(f"{host} is open to the network and no token is asked for: see --token-file")

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


if __name__ == "__main__":
    Serve.main()
