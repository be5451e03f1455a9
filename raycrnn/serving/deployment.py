"""The Ray Serve application: settings, replica, token."""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raycrnn import storage
from raycrnn.errors import UsageError
from raycrnn.model import runtime
from raycrnn.model.recognizer import Recognizer
from raycrnn.serving.api import make_app
from raycrnn.serving.service import Limits, Service

TOKEN_VARIABLE = "RAYCRNN_TOKEN"

NAME = "raycrnn"
"""of the application and its deployment"""


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
        runtime.keep_freed_memory()
        runtime.keep_kernels()
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
