"""The service over HTTP: requests in, transcriptions out, and a page for people. No Ray.

Whatever a request holds, others are not harmed by it: its body, its pixels and its images are limited, and what waits
to be read is. No path or URL in a request is ever opened.
"""

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field, model_validator
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from raycrnn import __version__, door, storage
from raycrnn.batching import Batcher, Closed, Full
from raycrnn.errors import RaycrnnError
from raycrnn.image import Line
from raycrnn.intake import BODY_SECONDS, MAX_BODY_MB, MAX_UPLOAD_MB, Answer, Intake, Refused
from raycrnn.recognizer import Recognizer
from raycrnn.samples import Rejected
from raycrnn.transcription import Transcription

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 2.0
"""at the model directory, for a new model"""

RAW_TYPES = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")
"""Beginnings of content types whose body is an image file; the last is what curl says of a body it is not told of."""

BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")
"""of a multipart body, by RFC 2046"""

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

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
class Model:
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
        self.path, self.overrides, self.token = _place(model), tuple(overrides), token
        self.limits = limits or Limits()
        self.device = device
        self.intake = Intake(self.limits.max_body_mb, self.limits.max_upload_mb, self.limits.body_seconds)
        self.model: Model | None = None
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
                self.path = _place(path)
            elif _place(path) != self.path:
                await self._replace(_place(path))

    async def _load(self, path: str | Path) -> Model:
        identity = await asyncio.to_thread(_identity, path)
        loop = asyncio.get_running_loop()
        recognizer = await loop.run_in_executor(self._readers[0], Recognizer.load, path, self.device, self.overrides)
        version = await asyncio.to_thread(_version, path)
        batcher = Batcher(recognizer, self.limits.max_waiting, self._readers)
        return Model(recognizer, batcher, version, identity, time.time())

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
        identity = await asyncio.to_thread(_identity, self.path)
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
        most = model.recognizer.most_readings
        if n_best is not None and n_best > most:
            raise Refused(422, "too many readings", f"n_best={n_best}: this model finds at most {most}")
        try:
            with model.batcher.reserve(len(uploads)) as room:
                lines = await self._decode_all(model.recognizer, uploads)
                whole = [line for line in lines if isinstance(line, Line)]
                found = iter(await room.read(whole, n_best or decoding.num_beam_paths, spans))
        except Full as full:
            raise _busy(full) from None
        except Closed:
            raise Refused(503, "busy", "the service ends, or takes another model: try again", retry_after=2) from None
        return [
            _found(upload, next(found) if isinstance(line, Line) else line)
            for upload, line in zip(uploads, lines, strict=True)
        ]

    async def _decode_all(self, recognizer: Recognizer, uploads: Sequence[Upload]) -> list[Line | Rejected]:
        """The images of a request, decoded a few at a time: so many requests take turns at the decoders."""
        found: list[Line | Rejected | None] = [None] * len(uploads)
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

    async def _decode(self, recognizer: Recognizer, upload: Upload) -> Line | Rejected:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decoders, recognizer.prepare, upload.data, self.limits.max_pixels)
        except Rejected as rejected:
            return rejected

    @asynccontextmanager
    async def uploads(self, request: Request) -> AsyncIterator[tuple[list[Upload], bool]]:
        """The images of a request, and whether it may hold several. Raises `Refused`."""
        kind = request.headers.get("content-type", "application/octet-stream").lower()
        several = kind.startswith("multipart/form-data")
        if not several and (not kind.startswith(RAW_TYPES) or kind.startswith("image/svg")):
            raise Refused(
                415,
                "unsupported content type",
                f"{kind[:100]}: send the bytes of an image (PNG, JPEG, TIFF, WebP, BMP, GIF, PNM, JPEG 2000), or "
                "several as multipart/form-data",
            )
        async with self._body(request) as body:
            if not body:
                raise Refused(422, "empty body", "send the bytes of an image, or several as multipart/form-data")
            yield (await _parts(request, body, self.limits.max_images) if several else [Upload(None, body)]), several

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        body = request.scope.get(door.BODY)
        if body is None:
            async with self.intake.body(request.headers, request.stream()) as body:
                yield body
        else:
            # The door's limit may be another one: it comes from its environment.
            self.intake.check(len(body))
            yield body

    def check_leave(self, request: Request) -> None:
        """Raises `Refused` where a token is asked for and the request does not bear it, and for other sites' pages.

        A page that bears a token knows it; others could have any visitor's browser keep the service busy.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else ""
        if self.token is not None and not secrets.compare_digest(given.encode(), self.token.encode()):
            raise Refused(401, "unauthorized", "send the service's token: Authorization: Bearer TOKEN")
        if request.method == "POST" and not given and request.headers.get("sec-fetch-site") == "cross-site":
            raise Refused(403, "cross-site request", "pages of other sites have no leave to ask")

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
            "most_readings": recognizer.most_readings,
            "limits": self.limits.model_dump(),
        }


def _busy(full: Full) -> Refused:
    detail = f"{full.waiting} images wait to be read already (max_waiting): try again"
    return Refused(503, "busy", detail, retry_after=full.seconds)


def _found(upload: Upload, found: Transcription | Rejected) -> dict[str, Any]:
    if isinstance(found, Rejected):
        return {"name": upload.name, "error": found.reason, "detail": found.detail}
    values = found.to_json()
    # Codes belong to the model's alphabet; a client has the text.
    for each in (values, *values["alternatives"], *values.get("units", ())):
        each.pop("codes", None)
        each.pop("code", None)
    return {"name": upload.name, **values}


async def _parts(request: Request, body: bytes, most: int) -> list[Upload]:
    """The files of a multipart body. Raises `Refused` if it is malformed, or holds too many or none."""

    async def whole() -> AsyncIterator[bytes]:
        yield body
        yield b""

    # Headers of its own: by those of the request, whoever sends it could choose among Python's codecs for the texts in
    # it, of which some take a time that is quadratic in a text's length and others give what is no text.
    headers = Headers({"content-type": f'multipart/form-data; boundary="{_boundary(request)}"'})
    # One more, to tell too many from malformed.
    parser = MultiPartParser(headers, whole(), max_files=most + 1, max_fields=100)
    # The body is in memory already: its parts need no files on disk.
    parser.spool_max_size = len(body) + 1
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        if "files" in str(error):
            raise _too_many(most) from None
        detail = getattr(error, "message", None) or str(error) or type(error).__name__
        raise Refused(422, "malformed multipart body", detail) from None
    async with _closing(form):
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if len(files) > most:
            raise _too_many(most)
        if not files:
            raise Refused(
                422, "no image", "the multipart body holds no file: send each image as a part with a filename"
            )
        return [Upload(_clean(part.filename), await part.read()) for part in files]


def _boundary(request: Request) -> str:
    """Raises `Refused`."""
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"").decode("latin-1")
    if not BOUNDARY.fullmatch(boundary):
        raise Refused(422, "malformed multipart body", "no boundary in the content type, or none by RFC 2046")
    return boundary


def _clean(name: str) -> str:
    """A name that can be written as UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


@asynccontextmanager
async def _closing(form: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await form.close()


def _too_many(most: int) -> Refused:
    return Refused(422, "too many images", f"more than {most} images in a request (max_images)")


MODEL_FILES = ("model.safetensors", "config.json", "alphabet.json")


def _place(model: str | Path) -> str | Path:
    """A URI as it is, else a path, however it is written."""
    return str(model) if storage.is_uri(model) else Path(model)


def _identity(model: str | Path) -> tuple:
    """What changes when files of a model directory do; () where it is not there."""
    try:
        if not isinstance(model, Path):
            there = storage.names(model)
            return tuple(there[name] for name in MODEL_FILES if name in there)
        states = [(model / name).stat() for name in MODEL_FILES]
    except OSError:
        return ()
    return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)


def _version(model: str | Path) -> str:
    digest = hashlib.sha256()
    for name in MODEL_FILES:
        digest.update(storage.read(storage.join(str(model), name)))
    return digest.hexdigest()[:12]


# --- the application


class Reading(BaseModel):
    """One reading of an image."""

    text: str
    confidence: float = Field(description="calibrated probability that the whole text is exact")
    log_prob: float = Field(description="natural logarithm of its probability")


class ReadUnit(BaseModel):
    """A unit of the best reading, with ?spans=true."""

    text: str
    confidence: float
    left: int = Field(description="first column, in pixels of the upright image")
    right: int = Field(description="the column after its last one")


class Prediction(Reading):
    """What was read in an image."""

    name: str | None = Field(description="the part's file name")
    score: float | None = Field(description="gap of log-probability to the second best reading")
    alternatives: list[Reading] = Field(description="the other readings, best first, as many as n_best asks for")
    units: list[ReadUnit] | None = None


class Problem(BaseModel):
    """Why a request, or an image of several, was not read."""

    error: str
    detail: str
    name: str | None = None


class Predictions(BaseModel):
    """Of a multipart request: one for each image, in order."""

    predictions: list[Prediction | Problem]


REQUEST_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
    },
}

ANSWERS = {
    200: {"model": Prediction | Predictions},
    401: {"model": Problem, "description": "no token, or another one"},
    403: {"model": Problem, "description": "asked by a page of another site"},
    408: {"model": Problem, "description": "the body came too slowly"},
    413: {"model": Problem, "description": "the body is too large"},
    415: {"model": Problem, "description": "the content type is none of an image"},
    422: {"model": Problem, "description": "not an image, a damaged one, one of too many pixels; a wrong parameter"},
    503: {"model": Problem, "description": "too much waits already: try again after Retry-After seconds"},
}


def make_app(service: Service) -> FastAPI:
    """The service's ASGI application: `POST /predict`, `GET /health`, `/model`, `/docs` and the page `/`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service.model is None:
            await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPIOffline(
        redoc_url=None,
        title="raycrnn",
        version=__version__,
        summary="Reads images of text lines.",
        lifespan=lifespan,
    )
    app.add_middleware(LastResort)
    _add_error_handlers(app)
    page = resources.files("raycrnn").joinpath("templates/serve.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service reads, and how busy it is."""
        return service.health()

    @app.get("/model", responses={401: ANSWERS[401]})
    async def model(request: Request) -> dict[str, Any]:
        """The model in service: alphabet, scores, version, limits."""
        service.check_leave(request)
        return service.describe()

    @app.post("/predict", responses=ANSWERS, openapi_extra={"requestBody": REQUEST_BODY})
    async def predict(
        request: Request,
        n_best: Annotated[int | None, Query(ge=1, description="readings an image; default: the model's")] = None,
        spans: Annotated[bool, Query(description="tell of each unit where it stands and how sure it is")] = False,
    ) -> Response:
        """Read one image (the body is its file) or several (multipart/form-data, answered as a list)."""
        service.check_leave(request)
        _check_parameters(request, ("n_best", "spans"))
        async with service.uploads(request) as (uploads, several):
            found = await service.read(uploads, n_best, spans)
        if several:
            return JSONResponse({"predictions": found})
        return JSONResponse(found[0], 422 if "error" in found[0] else 200)

    return app


def _check_parameters(request: Request, known: Sequence[str]) -> None:
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise Refused(422, "unknown parameter", f"{unknown[0][:100]!r}: there are {', '.join(known)}")


def _add_error_handlers(app: FastAPI) -> None:
    """Every refusal is JSON: {error, detail}."""

    @app.exception_handler(Refused)
    async def refused(_: Request, refusal: Refused) -> JSONResponse:
        return refusal.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        return Refused(422, "wrong parameter", "; ".join(problems)).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return Refused(error.status_code, str(error.detail).lower(), "see /docs", headers=error.headers).response()

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        # Nobody is there to read it.
        return Response(status_code=400)


class LastResort:
    """ASGI middleware: whatever else goes wrong is logged, and answered as JSON too."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(send)
        try:
            await self.app(scope, receive, answer.send)
        except Exception as error:
            if scope["type"] != "http" or answer.started:
                raise
            logger.exception("a request could not be answered")
            await _failure(error).response()(scope, receive, send)


def _failure(error: Exception) -> Refused:
    if _lacks_memory(error):
        return Refused(503, "busy", "not enough memory at the moment: try again", retry_after=5)
    detail = str(error) if isinstance(error, RaycrnnError) else f"{type(error).__name__}: see the service's log"
    return Refused(500, "internal error", detail)


def _lacks_memory(error: Exception) -> bool:
    # On a CPU torch has no exception of its own for that.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
