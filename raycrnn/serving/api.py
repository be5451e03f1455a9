"""The service over HTTP: requests in, transcriptions out, and a page for people. No Ray.

Whatever a request holds, others are not harmed by it: its body, its pixels and its images are limited, and what waits
to be read is. No path or URL in a request is ever opened.
"""

import logging
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

import torch
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from raycrnn import __version__
from raycrnn.errors import RaycrnnError
from raycrnn.serving import proxy_middleware
from raycrnn.serving.limits import Answer, RequestError
from raycrnn.serving.service import Service, Upload

logger = logging.getLogger(__name__)

RAW_TYPES = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")
"""Beginnings of content types whose body is an image file; the last is what curl says of a body it is not told of."""

BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")
"""of a multipart body, by RFC 2046"""

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@asynccontextmanager
async def _uploads(service: Service, request: Request) -> AsyncIterator[tuple[list[Upload], bool]]:
    """The images of a request, and whether it may hold several. Raises `Refused`."""
    kind = request.headers.get("content-type", "application/octet-stream").lower()
    several = kind.startswith("multipart/form-data")
    if not several and (not kind.startswith(RAW_TYPES) or kind.startswith("image/svg")):
        raise RequestError(
            415,
            "unsupported content type",
            f"{kind[:100]}: send the bytes of an image (PNG, JPEG, TIFF, WebP, BMP, GIF, PNM, JPEG 2000), or "
            "several as multipart/form-data",
        )
    async with _body(service, request) as body:
        if not body:
            raise RequestError(422, "empty body", "send the bytes of an image, or several as multipart/form-data")
        yield (await _parts(request, body, service.limits.max_images) if several else [Upload(None, body)]), several


@asynccontextmanager
async def _body(service: Service, request: Request) -> AsyncIterator[bytes]:
    body = request.scope.get(proxy_middleware.BODY)
    if body is None:
        async with service.intake.body(request.headers, request.stream()) as body:
            yield body
    else:
        # The door's limit may be another one: it comes from its environment.
        service.intake.check(len(body))
        yield body


def _check_leave(service: Service, request: Request) -> None:
    """Raises `Refused` where a token is asked for and the request does not bear it, and for other sites' pages.

    A page that bears a token knows it; others could have any visitor's browser keep the service busy.
    """
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    given = given.strip() if scheme.lower() == "bearer" else ""
    if service.token is not None and not secrets.compare_digest(given.encode(), service.token.encode()):
        raise RequestError(401, "unauthorized", "send the service's token: Authorization: Bearer TOKEN")
    if request.method == "POST" and not given and request.headers.get("sec-fetch-site") == "cross-site":
        raise RequestError(403, "cross-site request", "pages of other sites have no leave to ask")


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
        raise RequestError(422, "malformed multipart body", detail) from None
    async with _closing(form):
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if len(files) > most:
            raise _too_many(most)
        if not files:
            raise RequestError(
                422, "no image", "the multipart body holds no file: send each image as a part with a filename"
            )
        return [Upload(_clean(part.filename), await part.read()) for part in files]


def _boundary(request: Request) -> str:
    """Raises `Refused`."""
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"").decode("latin-1")
    if not BOUNDARY.fullmatch(boundary):
        raise RequestError(422, "malformed multipart body", "no boundary in the content type, or none by RFC 2046")
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


def _too_many(most: int) -> RequestError:
    return RequestError(422, "too many images", f"more than {most} images in a request (max_images)")


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
    page = resources.files("raycrnn.serving").joinpath("page.html").read_text(encoding="utf-8")

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
        _check_leave(service, request)
        return service.describe()

    @app.post("/predict", responses=ANSWERS, openapi_extra={"requestBody": REQUEST_BODY})
    async def predict(
        request: Request,
        n_best: Annotated[int | None, Query(ge=1, description="readings an image; default: the model's")] = None,
        spans: Annotated[bool, Query(description="tell of each unit where it stands and how sure it is")] = False,
    ) -> Response:
        """Read one image (the body is its file) or several (multipart/form-data, answered as a list)."""
        _check_leave(service, request)
        _check_parameters(request, ("n_best", "spans"))
        async with _uploads(service, request) as (uploads, several):
            found = await service.read(uploads, n_best, spans)
        if several:
            return JSONResponse({"predictions": found})
        return JSONResponse(found[0], 422 if "error" in found[0] else 200)

    return app


def _check_parameters(request: Request, known: Sequence[str]) -> None:
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestError(422, "unknown parameter", f"{unknown[0][:100]!r}: there are {', '.join(known)}")


def _add_error_handlers(app: FastAPI) -> None:
    """Every refusal is JSON: {error, detail}."""

    @app.exception_handler(RequestError)
    async def refused(_: Request, refusal: RequestError) -> JSONResponse:
        return refusal.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        return RequestError(422, "wrong parameter", "; ".join(problems)).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return RequestError(error.status_code, str(error.detail).lower(), "see /docs", headers=error.headers).response()

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


def _failure(error: Exception) -> RequestError:
    if _lacks_memory(error):
        return RequestError(503, "busy", "not enough memory at the moment: try again", retry_after=5)
    detail = str(error) if isinstance(error, RaycrnnError) else f"{type(error).__name__}: see the service's log"
    return RequestError(500, "internal error", detail)


def _lacks_memory(error: Exception) -> bool:
    # On a CPU torch has no exception of its own for that.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
