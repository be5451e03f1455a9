"""The verb serve: a model as an HTTP service on Ray Serve; also the application for `serve run` and `serve deploy`."""

import logging
import os
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg

from raycrnn.cli import Command, Metavar
from raycrnn.console import defer_stop
from raycrnn.errors import UsageError
from raycrnn.serving.settings import Limits

if TYPE_CHECKING:
    from raycrnn.serving.deployment import Settings, app

__all__ = ["Serve", "Settings", "app"]


def __getattr__(name: str) -> object:
    """Import the application when Ray Serve asks for it, because `--help` needs neither torch nor FastAPI."""
    if name not in ("Settings", "app"):
        raise AttributeError(f"module 'raycrnn.serve' has no attribute {name!r}")
    from raycrnn.serving import deployment

    return getattr(deployment, name)


class Serve(Command):
    """Serve a model over HTTP: POST /predict with one image or several, a page for people at /, OpenAPI at /docs.

    When a new model replaces the old one in the directory, as training does, the service loads it within seconds and
    drops no request. Ctrl-C or SIGTERM answers the requests in progress and stops.
    """

    model: CliPositionalArg[str]
    """Model directory, such as output/model, or latin or latin48, models for Latin script that come with raycrnn. If
    several follow each other, or if it holds several, they vote."""
    overrides: CliPositionalArg[Annotated[list[str], Metavar("KEY=VALUE")]] = Field([])
    """Settings of decoding, such as decoding.method=greedy."""
    host: Annotated[str, Metavar("HOST")] = "127.0.0.1"
    """Address to listen on. 0.0.0.0 accepts requests from the network: set a token then."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""
    replicas: Annotated[str, Metavar("N")] = "1"
    """Number of replicas, or a range such as 1-4 to scale with the load."""
    gpus: float | None = Field(None, ge=0)
    """GPUs per replica. Replicas with a fraction, such as 0.25, share a GPU. Default: 1 if the cluster has any."""
    cpus: float = Field(1, gt=0)
    """CPUs reserved per replica."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network in each replica. Default: --cpus, or all for one replica without a GPU."""
    token_file: Annotated[str | None, Metavar("FILE")] = None
    """File with the token that requests must send. Default: the environment variable RAYCRNN_TOKEN, else no token."""
    max_body_mb: float = Field(Limits().max_body_mb, gt=0)
    """Maximum size of a request's body in megabytes."""
    max_pixels: int = Field(Limits().max_pixels, ge=64)
    """Maximum number of pixels of an image."""
    max_images: int = Field(Limits().max_images, ge=1)
    """Maximum number of images in a request."""
    max_lexicon_entries: int = Field(Limits().max_lexicon_entries, ge=0)
    """Greatest number of entries of the lexicon of a request; 0 refuses lexicons in requests."""
    max_lexicon_characters: int = Field(Limits().max_lexicon_characters, ge=0)
    """Greatest number of characters of the lexicon of a request."""
    max_waiting: int = Field(Limits().max_waiting, ge=1)
    """Maximum number of images that wait in a replica. Requests beyond that are refused with 503 and Retry-After."""
    address: Annotated[str | None, Metavar("ADDRESS")] = None
    """Ray cluster to run on. Default: the environment variable RAY_ADDRESS, else a local Ray."""

    def run(self) -> int:
        from raycrnn.model import voter
        from raycrnn.serving import deployment, proxy_middleware, run

        settings = self._settings()
        voter.load(settings.model, "cpu", settings.overrides)
        # Fail on an unreadable token before Ray starts.
        deployment.read_token(self.token_file)
        proxy_middleware.read_max_body_mb(os.environ.get(proxy_middleware.MAX_BODY_VARIABLE))
        for name, value in run.environment(settings).items():
            os.environ.setdefault(name, value)
        # Errors of Ray Serve arrive as exceptions.
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        run.warn_if_open(self.host, self.token_file)
        with defer_stop() as stop:
            run.serve_until_stopped(settings, self.gpus, self.host, self.port, self.address, stop, _print_ready)
        return 130

    def _settings(self) -> "Settings":
        """Return the settings of the application, without GPUs. Raises `UsageError` for invalid ones."""
        from raycrnn.model.model_files import leading_models
        from raycrnn.serving.deployment import Settings

        try:
            # Only the limits that were given: the others follow them.
            limits = Limits(**self.model_dump(include=self.model_fields_set & set(Limits.model_fields)))
        except ValidationError as error:
            raise UsageError("; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())) from None
        models, overrides = leading_models(self.model, self.overrides)
        model = models[0] if len(models) == 1 else tuple(models)
        names = {"replicas", "cpus", "threads", "token_file"}
        try:
            return Settings(model=model, overrides=overrides, **self.model_dump(include=names), limits=limits)
        except ValueError:
            # The other fields are valid here as well.
            raise UsageError(f"--replicas={self.replicas}: give a number, or a range such as 1-4") from None


def _print_ready(url: str) -> None:
    print(f"Serving at {url} (API: {url}docs). Press Ctrl-C to stop.", flush=True)


if __name__ == "__main__":
    Serve.main()
