"""A model that answers many requests and is replaced when its files change. No HTTP and no Ray."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from raycrnn import __version__
from raycrnn.data import image
from raycrnn.data.image import PreparedImage
from raycrnn.data.lexicon import Lexicon, problem_of
from raycrnn.data.rejections import Rejected
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language.ngram_model import NgramModel
from raycrnn.model import model_files, voter
from raycrnn.model.model_files import Models
from raycrnn.model.recognizer import Recognizer
from raycrnn.model.transcription import Transcription
from raycrnn.model.voter import Voter
from raycrnn.serving.batcher import Batcher, BatcherClosed, QueueFull, ReadOptions
from raycrnn.serving.limits import BodyLimiter, RequestError
from raycrnn.serving.settings import Limits

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKS = 2.0
"""Seconds between two checks whether the model directory has changed."""

DECODER_THREADS = 2


@dataclass(frozen=True)
class Upload:
    """An image file in a request."""

    name: str | None
    data: bytes


@dataclass(frozen=True)
class LoadedModel:
    """A model in service."""

    recognizer: Recognizer | Voter
    batcher: Batcher
    version: str
    """Hash of its files."""
    fingerprint: tuple
    """What the check for a new model compares, see `model_files.fingerprint`."""
    loaded_at: float
    """Unix time in seconds."""


class Service:
    """Answers requests with the model in a directory, and loads a new model when the directory changes.

    Args:
        model: The model directory, or several whose models vote.
        overrides: `decoding.key=value`, as `Recognizer.load` takes them.
        limits: Limits on requests and on the queue; None for the defaults.
        token: The token that requests must send; None if they need none.
        threads: CPU threads of the network; None for torch's default.
        device: "auto", "cpu" or "cuda".
        language_model: The language model that overrides name. None reads it with the model directory.
        lexicon: The same for the lexicon.
    """

    def __init__(
        self,
        model: Models,
        overrides: Sequence[str] = (),
        limits: Limits | None = None,
        token: str | None = None,
        threads: int | None = None,
        device: str = "auto",
        language_model: NgramModel | None = None,
        lexicon: Lexicon | None = None,
    ):
        self.path, self.overrides, self.token = model_files.as_location(model), tuple(overrides), token
        self.limits = limits or Limits()
        self.device, self.language_model, self.lexicon = device, language_model, lexicon
        self.body_limiter = BodyLimiter(self.limits.max_body_mb, self.limits.max_upload_mb, self.limits.body_seconds)
        self.problem: str | None = None
        """Why the model in the directory is not in service; None if it is."""
        self._model: LoadedModel | None = None
        # One thread is enough to keep a GPU busy.
        readers = 1 if device != "cpu" and torch.cuda.is_available() else threads or torch.get_num_threads()
        self._readers = [ThreadPoolExecutor(1, f"reader {number}") for number in range(readers)]
        # Pillow releases the GIL, so decoding overlaps with the network.
        self._decoders = ThreadPoolExecutor(DECODER_THREADS, "decoder")
        self._watch: asyncio.Task[None] | None = None
        self._model_lock = asyncio.Lock()
        self._tried_fingerprint: tuple = ()
        """Of the model that was last loaded, or failed to load."""
        self._closing_batchers: set[asyncio.Task[None]] = set()

    # --- the model

    @property
    def is_started(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> LoadedModel:
        """The model in service. Raises `RuntimeError` before `start`."""
        if self._model is None:
            raise RuntimeError("the service is not started")
        return self._model

    async def start(self) -> None:
        """Load the model and watch its directory. Raises `RaycrnnError` if the model is missing or damaged."""
        async with self._model_lock:
            self._model = await self._load(self.path)
            self._tried_fingerprint = self._model.fingerprint
        self._watch = asyncio.get_running_loop().create_task(self._watch_model())

    async def stop(self) -> None:
        """Read the lines that wait, and stop."""
        if self._watch is not None:
            self._watch.cancel()
        if self._model is not None:
            self._close(self._model.batcher)
        await asyncio.gather(*self._closing_batchers)
        for executor in (*self._readers, self._decoders):
            # A thread that hangs must not block the end of the process.
            executor.shutdown(wait=False, cancel_futures=True)

    async def change_model(self, path: Models) -> None:
        """Serve the model in another directory, or the vote of several.

        Requests in progress are answered by the previous one.

        Raises:
            UsageError, RaycrnnError: The model is missing or damaged. The previous one stays in service.
        """
        async with self._model_lock:
            if not self.is_started:
                self.path = model_files.as_location(path)
            elif model_files.as_location(path) != self.path:
                await self._replace(model_files.as_location(path))

    async def _load(self, path: Models) -> LoadedModel:
        fingerprint = await asyncio.to_thread(model_files.fingerprint, path)
        loop = asyncio.get_running_loop()
        load = partial(voter.load, path, self.device, self.overrides, self.language_model, self.lexicon)
        recognizer = await loop.run_in_executor(self._readers[0], load)
        version = await asyncio.to_thread(model_files.version_of, path)
        batcher = Batcher(recognizer, self.limits.max_waiting, self._readers)
        return LoadedModel(recognizer, batcher, version, fingerprint, time.time())

    async def _replace(self, path: Models) -> None:
        new, previous = await self._load(path), self.model
        self._model, self.path, self._tried_fingerprint, self.problem = new, path, new.fingerprint, None
        logger.warning("now serving model %s from %s", new.version, model_files.describe(path))
        self._close(previous.batcher)

    def _close(self, batcher: Batcher) -> None:
        """Close a batcher in the background: it first reads the lines that wait."""
        closing = asyncio.get_running_loop().create_task(batcher.close())
        self._closing_batchers.add(closing)
        closing.add_done_callback(self._closing_batchers.discard)

    async def _watch_model(self) -> None:
        """Replace the model whenever its files change; if loading fails, the previous model stays in service."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_CHECKS)
            try:
                async with self._model_lock:
                    await self._check_for_new_model()
            except Exception as error:  # The watch must survive any error: the next model may be valid.
                known = isinstance(error, RaycrnnError | OSError)
                self.problem = str(error) if known else f"{type(error).__name__}: {error}"
                logger.error("cannot load the new model, still serving the previous one: %s", self.problem)

    async def _check_for_new_model(self) -> None:
        fingerprint = await asyncio.to_thread(model_files.fingerprint, self.path)
        if fingerprint == self.model.fingerprint:
            self._tried_fingerprint, self.problem = fingerprint, None
        elif fingerprint != self._tried_fingerprint:
            self._tried_fingerprint = fingerprint
            await self._replace(self.path)

    # --- requests

    async def read(
        self, uploads: Sequence[Upload], n_best: int | None, spans: bool, lexicon: Sequence[str] | None = None
    ) -> list[dict[str, object]]:
        """Return the transcription of each image, or what is wrong with it, as JSON values.

        Args:
            uploads: The images.
            n_best: Number of readings of each image; None for the model's.
            spans: Whether to return the units of each reading.
            lexicon: The entries of a lexicon, within the limits; None for the model's.

        Raises:
            RequestError: The queue is full, the service stops, the model cannot read an entry of the lexicon, or
                `n_best` exceeds what the model can return.
        """
        model = self.model
        recognizer = model.recognizer
        most = recognizer.max_alternatives
        if n_best is not None and n_best > most:
            raise RequestError(422, "too many readings", f"n_best={n_best}: this model returns at most {most}")
        n_best = n_best or recognizer.configuration.decoding.num_beam_paths
        try:
            with model.batcher.reserve(len(uploads)) as reservation:
                images = await self._decode_all(recognizer, uploads)
                lines = [image for image in images if isinstance(image, PreparedImage)]
                options = ReadOptions(n_best, spans, await self._read_lexicon(recognizer, lexicon))
                transcriptions = iter(await reservation.read(lines, options))
        except QueueFull as full:
            detail = f"{full.waiting} images are waiting (max_waiting={self.limits.max_waiting}): try again"
            raise RequestError(503, "busy", detail, retry_after=full.seconds) from None
        except BatcherClosed:
            detail = "the service is stopping or changing its model: try again"
            raise RequestError(503, "busy", detail, retry_after=2) from None
        return [
            _to_json(upload, image if isinstance(image, Rejected) else next(transcriptions))
            for upload, image in zip(uploads, images, strict=True)
        ]

    async def _read_lexicon(self, recognizer: Recognizer | Voter, entries: Sequence[str] | None) -> Lexicon | None:
        """Return the lexicon of a request. Raises `RequestError` if a model cannot read one of its entries."""
        if entries is None:
            return None

        def read() -> Lexicon:
            lexicon = Lexicon.of(entries, recognizer.configuration.data)
            for each in voter.members_of(recognizer):
                frames = image.frames(each.configuration.image.input_shape[1])
                for number, entry in zip(lexicon.numbers, lexicon.entries, strict=True):
                    if problem := problem_of(entry, each.alphabet, frames):
                        raise RequestError(422, "wrong lexicon", f"entry {number}, {problem}")
            return lexicon

        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, read)
        except UsageError as error:
            raise RequestError(422, "wrong lexicon", str(error)) from None

    async def _decode_all(
        self, recognizer: Recognizer | Voter, uploads: Sequence[Upload]
    ) -> list[PreparedImage | Rejected]:
        """Decode the images of a request, a few at a time, so that other requests get their turn."""
        loop, semaphore = asyncio.get_running_loop(), asyncio.Semaphore(DECODER_THREADS)

        async def decode(data: bytes) -> PreparedImage | Rejected:
            async with semaphore:
                try:
                    return await loop.run_in_executor(self._decoders, recognizer.prepare, data, self.limits.max_pixels)
                except Rejected as rejected:
                    return rejected

        tasks = [asyncio.create_task(decode(upload.data)) for upload in uploads]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    # --- status

    def health(self) -> dict[str, object]:
        """Return the load, and the problem with the model in the directory, if any."""
        batcher = self.model.batcher
        mean_batch = batcher.lines_read / batcher.batches_read if batcher.batches_read else 0.0
        return {
            "status": "ok",
            "model": self.model.version,
            "waiting": batcher.waiting,
            "longest_wait_seconds": round(batcher.longest_wait, 2),
            "images_read": batcher.lines_read,
            "mean_batch": round(mean_batch, 2),
            "milliseconds_an_image": round(1000 * batcher.seconds_per_line, 2),
            "problem": self.problem,
        }

    def describe(self) -> dict[str, object]:
        """Return the model's version, alphabet, scores and settings, and the limits."""
        recognizer = self.model.recognizer
        settings = recognizer.configuration.image
        return {
            "version": self.model.version,
            "loaded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.model.loaded_at)),
            "raycrnn": __version__,
            "alphabet": list(recognizer.alphabet.units),
            "scores": recognizer.metrics,
            "temperature": recognizer.calibration.temperature,
            "calibrated_on": recognizer.calibration.samples,
            "height": settings.input_shape[0],
            "greatest_width": settings.input_shape[1],
            "channels": settings.input_channels,
            "line_orientation": recognizer.configuration.data.line_orientation,
            "decoding": recognizer.configuration.decoding.model_dump(),
            "lexicon_entries": len(recognizer.lexicon) if recognizer.lexicon else 0,
            "most_readings": recognizer.max_alternatives,
            "limits": self.limits.model_dump(),
        }


def _to_json(upload: Upload, result: Transcription | Rejected) -> dict[str, object]:
    if isinstance(result, Rejected):
        return {"name": upload.name, "error": result.reason, "detail": result.detail}
    values = result.to_json()
    # Codes are internal to the model's alphabet; clients get the text.
    for item in (values, *values["alternatives"], *values.get("units", ())):
        item.pop("codes", None)
        item.pop("code", None)
    return {"name": upload.name, **values}
