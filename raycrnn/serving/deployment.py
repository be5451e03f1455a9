"""The Ray Serve application: its settings, its replicas, its token."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raycrnn import storage
from raycrnn.cluster import ray_internals
from raycrnn.config.group import Location
from raycrnn.data.lexicon import Lexicon
from raycrnn.errors import UsageError
from raycrnn.language.ngram_model import NgramModel
from raycrnn.model import model_files, runtime, voter
from raycrnn.model.cpus import usable_cpus
from raycrnn.serving.api import make_app
from raycrnn.serving.service import Service
from raycrnn.serving.settings import Limits

if TYPE_CHECKING:
    from ray.serve import Application

TOKEN_VARIABLE = "RAYCRNN_TOKEN"

NAME = "raycrnn"
"""Name of the application and of its deployment."""


class Settings(BaseModel):
    """Arguments of `serve run raycrnn.serve:app key=value …`, and `args` in deploy/serve_config.yaml."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    model: Location | tuple[Location, ...]
    """Model directory: a path that exists on every node with a replica, a URI in object storage, or latin or latin48,
    models that come with raycrnn. The models of several, or of a directory that holds several, vote."""
    overrides: list[str] = []
    """decoding.key=value, such as decoding.method=greedy."""
    replicas: int | tuple[int, int] = 1
    """Number of replicas, or [min, max] to scale with the load."""
    gpus: float = Field(0, ge=0)
    """GPUs per replica. Replicas with a fraction, such as 0.25, share a GPU."""
    cpus: float = Field(1, gt=0)
    """CPUs reserved per replica."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network in each replica. Default: `cpus`, or all of the node for one replica without a GPU."""
    token_file: Location | None = None
    """File with the token that requests must send. Default: the environment variable RAYCRNN_TOKEN, else no token."""
    limits: Limits = Limits()
    """Limits on requests and on the queue of each replica."""

    @field_validator("replicas", mode="before")
    @classmethod
    def _parse_replicas(cls, value: object) -> object:
        """Accept 2, 1-4 and [1,4] as strings, as a command line gives them."""
        if not isinstance(value, str):
            return value
        numbers = value.strip("[]").replace("-", ",").split(",")
        return numbers[0] if len(numbers) == 1 else tuple(numbers)

    @model_validator(mode="after")
    def _check_replicas(self) -> "Settings":
        minimum, maximum = self.replica_range
        if not 1 <= minimum <= maximum:
            raise ValueError("replicas must be a number from 1 on, or a range [min, max] of such numbers")
        return self

    @property
    def replica_range(self) -> tuple[int, int]:
        """Minimum and maximum number of replicas."""
        return self.replicas if isinstance(self.replicas, tuple) else (self.replicas, self.replicas)

    def deployment_options(self) -> dict[str, Any]:
        """Return the options of `ray.serve.deployment`."""
        minimum, maximum = self.replica_range
        # The replica refuses by the number of images that wait (max_waiting), which Ray cannot count. Ray's own limits
        # on requests are only a backstop.
        max_requests = 4 * self.limits.max_waiting
        options = {
            "ray_actor_options": {"num_cpus": self.cpus, "num_gpus": self.gpus},
            "max_ongoing_requests": max_requests,
            "max_queued_requests": max_requests,
            "graceful_shutdown_timeout_s": 60,
            "logging_config": {"enable_access_log": False},
            "health_check_period_s": 2,
            "health_check_timeout_s": 10,
            # For `serve deploy` with another model. New files in the same directory are found by the replica itself.
            "user_config": {"model": self.model},
        }
        if minimum == maximum:
            return {**options, "num_replicas": minimum}
        scaling = {"min_replicas": minimum, "max_replicas": maximum, "target_ongoing_requests": 8, "upscale_delay_s": 5}
        return {**options, "autoscaling_config": scaling}


class Replica:
    """A service in a process of Ray Serve."""

    def __init__(
        self,
        settings: dict[str, object],
        token: str | None,
        language_model: NgramModel | None = None,
        lexicon: Lexicon | None = None,
    ):
        self.settings = Settings(**settings)
        runtime.keep_freed_memory()
        runtime.keep_kernels()
        self.service = Service(
            self.settings.model,
            self.settings.overrides,
            self.settings.limits,
            token,
            self._threads(),
            "auto" if self.settings.gpus else "cpu",
            language_model,
            lexicon,
        )

    def _threads(self) -> int:
        settings = self.settings
        if settings.threads:
            return settings.threads
        if settings.replica_range[1] > 1 or settings.gpus:
            return max(1, round(settings.cpus))
        # Not torch's default, which is the number of reserved CPUs: Ray sets OMP_NUM_THREADS to it.
        return min(usable_cpus(), ray_internals.detected_cpus())

    async def reconfigure(self, user_config: dict[str, str | list[str]]) -> None:
        """Serve another model; Ray Serve calls this with `user_config`."""
        await self.service.change_model(user_config["model"])

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self.service)


def app(args: Settings) -> "Application":
    """Return the application for `serve run raycrnn.serve:app model=output/model` and for serve_config.yaml.

    Raises:
        UsageError, RaycrnnError: The model is missing or damaged, or the token cannot be read.
    """
    from ray import serve

    model = model_files.absolute(args.model)
    # Load it here first: Ray Serve would start a replica that fails again and again.
    language_model = model_files.overridden_language_model(args.overrides)
    lexicon = model_files.overridden_lexicon(model, args.overrides)
    voter.load(model, "cpu", args.overrides, language_model, lexicon)
    settings = args.model_copy(update={"model": model})
    deployment = serve.deployment(name=NAME, **settings.deployment_options())(serve.ingress()(Replica))
    return deployment.bind(settings.model_dump(mode="json"), read_token(args.token_file), language_model, lexicon)


def read_token(path: str | None) -> str | None:
    """Return the token in a file, or else in the environment variable RAYCRNN_TOKEN; None if neither is set.

    Raises:
        UsageError: The file cannot be read, or the token cannot be sent in an HTTP header.
    """
    origin = path or f"environment variable {TOKEN_VARIABLE}"
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE)
        if not token:
            return None
    else:
        try:
            token = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{origin}: the token cannot be read: {storage.describe(error)}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{origin}: the token cannot be read: the file is not UTF-8 text") from None
    token = token.strip()
    if not token:
        raise UsageError(f"{origin}: the token is empty")
    if not (token.isascii() and token.isprintable()):
        raise UsageError(f"{origin}: the token must be one line of printable ASCII")
    return token
