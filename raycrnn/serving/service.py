"""A recogniser in service: many requests at a time, and a new model as soon as one lies there. No HTTP, no Ray."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from raycrnn import __version__
from raycrnn.data.image import PreparedImage
from raycrnn.data.rejections import Rejected
from raycrnn.errors import RaycrnnError
from raycrnn.model import model_dir
from raycrnn.model.recognizer import Recognizer
from raycrnn.model.transcription import Transcription
from raycrnn.serving.batcher import Batcher, Closed, QueueFull
from raycrnn.serving.limits import BODY_SECONDS, MAX_BODY_MB, MAX_UPLOAD_MB, BodyLimiter, RequestError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 2.0
"""at the model directory, for a new model"""

DECODERS = 2
"""Threads that decode images."""


class Limits(BaseModel):
    """What a request may be and how much may wait.

    What a request may be must find room among what may wait: where one of the two is given, the other follows.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    max_body_mb: float = Field(MAX_BODY_MB, gt=0)
    """megabytes of a request's body"""
    max_pixels: int = Field(16_000_000, ge=64)
    """pixels of an image"""
    max_images: int = Field(64, ge=1)
    """images a request"""
    max_waiting: int = Field(256, ge=1)
    """images that wait to be read, in a replica; what comes on top is refused at once"""
    max_upload_mb: float = Field(MAX_UPLOAD_MB, gt=0)
    """megabytes of the bodies of all requests under way, in a replica"""
    body_seconds: float = Field(BODY_SECONDS, gt=0)
    """in which a request's body must have arrived"""

    @model_validator(mode="after")
    def _possible(self) -> "Limits":
        for one, all_ in (("max_images", "max_waiting"), ("max_body_mb", "max_upload_mb")):
            least, most = getattr(self, one), getattr(self, all_)
            if least <= most:
                continue
            if {one, all_} <= self.model_fields_set:
                raise ValueError(f"{one}={least:g} is more than {all_}={most:g}: no request could be so large")
            if one in self.model_fields_set:
                setattr(self, all_, least)
            else:
                setattr(self, one, most)
        return self


@dataclass(frozen=True)
class Upload:
    """An image in a request."""

    name: str | None
    data: bytes


@dataclass(frozen=True)
class LoadedModel:
    """A recogniser in service."""

    recognizer: Recognizer
    batcher: Batcher
    version: str
    """of its files: changes with them"""
    identity: tuple
    """by which its files are told from others"""
    loaded: float
    """seconds since 1970"""


class Service:
    """A recogniser for many requests at a time; takes a new model as soon as one lies in the model directory."""

    def __init__(
        self,
        model: str,
        overrides: Sequence[str] = (),
        limits: Limits | None = None,
        token: str | None = None,
        threads: int | None = None,
        device: str = "auto",
    ):
        """
        Args:
            model: the model directory.
            overrides: `decoding.key=value`, as `Recognizer.load` takes them.
            token: that requests must bear; None: none.
            threads: CPU threads of the network; None: torch's default.
        """
        self.path, self.overrides, self.token = model_dir.as_location(model), tuple(overrides), token
        self.limits = limits or Limits()
        self.device = device
        self.intake = BodyLimiter(self.limits.max_body_mb, self.limits.max_upload_mb, self.limits.body_seconds)
        self.model: LoadedModel | None = None
        self.problem: str | None = None
        """why a model that lies there is not in service"""
        # A GPU needs one thread to feed it.
        readers = 1 if device != "cpu" and torch.cuda.is_available() else threads or torch.get_num_threads()
        self._readers = [ThreadPoolExecutor(1, f"reader {number}") for number in range(readers)]
        # Decoding waits for no network; Pillow lets other threads run meanwhile.
        self._decoders = ThreadPoolExecutor(DECODERS, "decoder")
        self._watch: asyncio.Task | None = None
        self._changing = asyncio.Lock()
        self._tried: tuple = ()
        """identity of the model that was last taken, or could not be"""
        self._closing: set[asyncio.Task] = set()

    # --- the model

    async def start(self) -> None:
        """Load the model and watch for a new one. Raises `RaycrnnError` if there is none."""
        async with self._changing:
            self.model = await self._load(self.path)
            self._tried = self.model.identity
        self._watch = asyncio.get_running_loop().create_task(self._take_new_models())

    async def stop(self) -> None:
        """Read what waits, and end."""
        if self._watch is not None:
            self._watch.cancel()
        if self.model is not None:
            self._close(self.model.batcher)
        await asyncio.gather(*self._closing)
        for executor in (*self._readers, self._decoders):
            # What hangs is not waited for.
            executor.shutdown(wait=False, cancel_futures=True)

    async def change_model(self, path: str) -> None:
        """Serve another model directory; what was asked before is read by the old one.

        Raises:
            UsageError, RaycrnnError: there is none, or it is damaged; then the old one stays.
        """
        async with self._changing:
            if self.model is None:
                self.path = model_dir.as_location(path)
            elif model_dir.as_location(path) != self.path:
                await self._replace(model_dir.as_location(path))

    async def _load(self, path: str | Path) -> LoadedModel:
        identity = await asyncio.to_thread(model_dir.fingerprint, path)
        loop = asyncio.get_running_loop()
        recognizer = await loop.run_in_executor(self._readers[0], Recognizer.load, path, self.device, self.overrides)
        version = await asyncio.to_thread(model_dir.version_of, path)
        batcher = Batcher(recognizer, self.limits.max_waiting, self._readers)
        return LoadedModel(recognizer, batcher, version, identity, time.time())

    async def _replace(self, path: str | Path) -> None:
        new = await self._load(path)
        old, self.model, self.path, self._tried, self.problem = self.model, new, path, new.identity, None
        logger.warning("model %s in service, from %s", new.version, path)
        self._close(old.batcher)

    def _close(self, batcher: Batcher) -> None:
        """… when it has read what it was asked for, which nobody needs to wait for."""
        closing = asyncio.get_running_loop().create_task(batcher.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _take_new_models(self) -> None:
        """Replace the model whenever its files change. One that cannot be loaded leaves the old one in service."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            try:
                async with self._changing:
                    await self._look()
            except Exception as error:  # Whatever it is, the next model may be whole.
                known = isinstance(error, RaycrnnError | OSError)
                self.problem = str(error) if known else f"{type(error).__name__}: {error}"
                logger.error("the model before stays in service: %s", self.problem)

    async def _look(self) -> None:
        identity = await asyncio.to_thread(model_dir.fingerprint, self.path)
        if identity == self.model.identity:
            self._tried, self.problem = identity, None
        elif identity != self._tried:
            self._tried = identity
            await self._replace(self.path)

    # --- requests

    async def read(self, uploads: Sequence[Upload], n_best: int | None, spans: bool) -> list[dict[str, Any]]:
        """What each image says, or what is wrong with it, as JSON has it.

        Raises:
            Refused: too much waits, or more readings than the model finds.
        """
        model = self.model
        decoding = model.recognizer.configuration.decoding
        most = model.recognizer.max_alternatives
        if n_best is not None and n_best > most:
            raise RequestError(422, "too many readings", f"n_best={n_best}: this model finds at most {most}")
        try:
            with model.batcher.reserve(len(uploads)) as room:
                lines = await self._decode_all(model.recognizer, uploads)
                whole = [line for line in lines if isinstance(line, PreparedImage)]
                found = iter(await room.read(whole, n_best or decoding.num_beam_paths, spans))
        except QueueFull as full:
            raise _busy(full) from None
        except Closed:
            raise RequestError(
                503, "busy", "the service ends, or takes another model: try again", retry_after=2
            ) from None
        return [
            _found(upload, next(found) if isinstance(line, PreparedImage) else line)
            for upload, line in zip(uploads, lines, strict=True)
        ]

    async def _decode_all(self, recognizer: Recognizer, uploads: Sequence[Upload]) -> list[PreparedImage | Rejected]:
        """The images of a request, decoded a few at a time: so many requests take turns at the decoders."""
        found: list[PreparedImage | Rejected | None] = [None] * len(uploads)
        left = iter(enumerate(uploads))

        async def decode_next() -> None:
            for number, upload in left:
                found[number] = await self._decode(recognizer, upload)

        tasks = [asyncio.create_task(decode_next()) for _ in range(min(DECODERS, len(uploads)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return found

    async def _decode(self, recognizer: Recognizer, upload: Upload) -> PreparedImage | Rejected:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decoders, recognizer.prepare, upload.data, self.limits.max_pixels)
        except Rejected as rejected:
            return rejected

    # --- what it tells of itself

    def health(self) -> dict[str, Any]:
        batcher = self.model.batcher
        mean_batch = batcher.lines / batcher.batches if batcher.batches else 0.0
        return {
            "status": "ok",
            "model": self.model.version,
            "waiting": batcher.waiting,
            "longest_wait_seconds": round(batcher.longest_wait, 2),
            "images_read": batcher.lines,
            "mean_batch": round(mean_batch, 2),
            "milliseconds_an_image": round(1000 * batcher.seconds_a_line, 2),
            "problem": self.problem,
        }

    def describe(self) -> dict[str, Any]:
        recognizer = self.model.recognizer
        settings = recognizer.configuration.image
        return {
            "version": self.model.version,
            "loaded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.model.loaded)),
            "raycrnn": __version__,
            "alphabet": list(recognizer.alphabet.units),
            "scores": recognizer.metrics,
            "temperature": recognizer.calibration.temperature,
            "calibrated_on": recognizer.calibration.samples,
            "height": settings.input_shape[0],
            "greatest_width": settings.input_shape[1],
            "channels": settings.input_channels,
            "decoding": recognizer.configuration.decoding.model_dump(),
            "most_readings": recognizer.max_alternatives,
            "limits": self.limits.model_dump(),
        }


def _busy(full: QueueFull) -> RequestError:
    detail = f"{full.waiting} images wait to be read already (max_waiting): try again"
    return RequestError(503, "busy", detail, retry_after=full.seconds)


def _found(upload: Upload, found: Transcription | Rejected) -> dict[str, Any]:
    if isinstance(found, Rejected):
        return {"name": upload.name, "error": found.reason, "detail": found.detail}
    values = found.to_json()
    # Codes belong to the model's alphabet; a client has the text.
    for each in (values, *values["alternatives"], *values.get("units", ())):
        each.pop("codes", None)
        each.pop("code", None)
    return {"name": upload.name, **values}
