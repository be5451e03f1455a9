"""The HTTP API: `POST /predict`, `GET /health`, `GET /model`, and a page for people at `/`. No Ray.

Limits on bodies, pixels, images and the queue keep one request from harming others. A path or URL in a request is
never opened.
"""

import logging
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

import torch
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from raycrnn import __version__
from raycrnn.errors import RaycrnnError
from raycrnn.serving import proxy_middleware
from raycrnn.serving.forms import Form, parse_multipart
from raycrnn.serving.limits import RequestError, ResponseSender
from raycrnn.serving.service import Service, Upload

logger = logging.getLogger(__name__)

RAW_TYPES = ("image/", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")
"""Prefixes of content types whose body is one image file. `binary/octet-stream` comes from S3, and the last is what
`curl --data-binary` sends by default."""

TEXT_TYPES = ("application/json", "text/")
"""Prefixes of content types with which images are sent in base64 elsewhere."""

MULTIPART_START = re.compile(rb"--[^\r\n]{1,70}\r?\nContent-", re.IGNORECASE)

FORM_START = re.compile(rb"[\w.\[\]%-]{1,100}=[\w.*%+/:;,=&~-]+\Z")
"""The first 200 bytes of a form with a name and a value, which no image begins with."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

BEARER = HTTPBearer(auto_error=False, description="The service's token, if it has one.")


# --- requests


@asynccontextmanager
async def _form(service: Service, request: Request) -> AsyncIterator[Form]:
    """Return the images of a request, and its lexicon. Raises `RequestError`."""
    content_type = request.headers.get("content-type", "").lower() or "application/octet-stream"
    _check_encoding(request.headers)
    is_multipart = content_type.startswith("multipart/form-data")
    is_raw = content_type.startswith(RAW_TYPES) and not content_type.startswith("image/svg")
    if not is_multipart and not is_raw:
        is_text = content_type.startswith(TEXT_TYPES) or "+json" in content_type
        raise _unsupported_type(content_type, "base64 and data URLs in text or JSON are not read; " if is_text else "")
    async with _body(service, request) as body:
        if not body:
            raise RequestError(
                422, "empty body", "send the bytes of an image, or several images as multipart/form-data"
            )
        if is_multipart:
            yield await parse_multipart(request.headers["content-type"], body, service.limits)
        else:
            _check_raw_body(content_type, body)
            yield Form([Upload(None, body)], is_multipart=False)


def _check_encoding(headers: Headers) -> None:
    """Raise `RequestError` if a body is compressed: a small one could take gigabytes."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        detail = f"{encoding[:100]}: send the body without compression and without the header Content-Encoding"
        raise RequestError(415, "unsupported content encoding", detail, headers={"Accept-Encoding": "identity"})


def _check_raw_body(content_type: str, body: bytes) -> None:
    """Raise `RequestError` if a body is a form, although its content type is one that clients also use for images."""
    if body.startswith(b"--") and MULTIPART_START.match(body[:1000]):
        detail = "the body is multipart/form-data: let the HTTP client set the content type, with its boundary; or "
        raise _unsupported_type(content_type, detail)
    if content_type.startswith("application/x-www-form-urlencoded") and FORM_START.match(body[:200]):
        raise _unsupported_type(content_type, "the body is a form, in which base64 is not read; ")


def _unsupported_type(content_type: str, detail: str) -> RequestError:
    advice = (
        "send the bytes of an image (PNG, JPEG, TIFF, WebP, BMP, GIF, PNM, JPEG 2000; with curl: --data-binary "
        "@line.png), or several images as multipart/form-data"
    )
    return RequestError(415, "unsupported content type", f"{content_type[:100]}: {detail}{advice}")


@asynccontextmanager
async def _body(service: Service, request: Request) -> AsyncIterator[bytes]:
    body = request.scope.get(proxy_middleware.BODY)
    if body is None:
        async with service.body_limiter.read(request.headers, request.stream()) as body:
            yield body
    else:
        # The proxy's limit comes from its environment, and may be higher.
        service.body_limiter.check_size(len(body))
        yield body


def _check_authorization(token: str | None, request: Request, credentials: HTTPAuthorizationCredentials | None) -> None:
    """Raise `RequestError` if the token is missing or wrong, or if a page of another site sent the request.

    Without the second check, any web page could make a visitor's browser send images to a service in a private network.
    A page that sends the token has received it from someone who knows it.
    """
    if token is not None and (
        credentials is None or not secrets.compare_digest(credentials.credentials.encode(), token.encode())
    ):
        detail = "send the service's token in the header Authorization: Bearer TOKEN"
        raise RequestError(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
    if request.method == "POST" and credentials is None and request.headers.get("sec-fetch-site") == "cross-site":
        raise RequestError(403, "cross-site request", "cross-site requests are not allowed")


def _check_parameters(request: Request, known: Sequence[str]) -> None:
    """Raise `RequestError` for a query parameter that does not exist."""
    for name in request.query_params:
        if name not in known:
            raise RequestError(422, "unknown parameter", f"{name[:100]!r}: the parameters are {', '.join(known)}")


# --- responses


class Reading(BaseModel):
    """One reading of an image."""

    text: str
    confidence: float = Field(description="Calibrated probability that the text is entirely correct.")
    log_prob: float = Field(description="Natural logarithm of the reading's probability (CTC).")


class ReadUnit(BaseModel):
    """One unit of the best reading, with `?spans=true`."""

    text: str
    confidence: float
    left: int = Field(description="First column, in pixels of the image after rotation by its EXIF orientation.")
    top: int = Field(description="First row; 0 if lines are horizontal.")
    right: int = Field(description="The column after the last one.")
    bottom: int = Field(description="The row after the last one; the height of the image if lines are horizontal.")


class Prediction(Reading):
    """The best reading of an image, and alternatives."""

    name: str | None = Field(description="The part's file name.")
    score: float | None = Field(description="Difference in log-probability to the second-best reading.")
    alternatives: list[Reading] = Field(description="The other readings, best first, up to `n_best` in total.")
    units: list[ReadUnit] | None = None


class Problem(BaseModel):
    """Why a request, or one image of a multipart request, was not read."""

    error: str
    detail: str
    name: str | None = None


class Predictions(BaseModel):
    """The response to a multipart request: one item for each image, in order."""

    predictions: list[Prediction | Problem]


REQUEST_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "lexicon": {
                        "type": "string",
                        "description": "Entries to which the readings are restricted, one a line.",
                    },
                },
            }
        },
    },
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Prediction | Predictions},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    403: {"model": Problem, "description": "A page of another site sent the request."},
    408: {"model": Problem, "description": "The body arrived too slowly."},
    413: {"model": Problem, "description": "The body or its lexicon is too large."},
    415: {"model": Problem, "description": "The content type is not that of an image, or the body is compressed."},
    422: {
        "model": Problem,
        "description": "The image is damaged, too large or not an image; or a parameter is invalid.",
    },
    503: {"model": Problem, "description": "The queue is full: try again after Retry-After seconds."},
}


# --- the application


def make_app(service: Service) -> FastAPI:
    """Return the ASGI application of a service. Its lifespan starts the service where needed, and stops it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not service.is_started:
            await service.start()
        try:
            yield
        finally:
            await service.stop()

    async def authorize(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
    ) -> None:
        _check_authorization(service.token, request, credentials)

    app = FastAPIOffline(
        redoc_url=None,
        title="raycrnn",
        version=__version__,
        summary="Reads images of text lines.",
        lifespan=lifespan,
    )
    app.add_middleware(JsonErrors)
    _add_error_handlers(app)
    page = resources.files("raycrnn.serving").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, object]:
        """Return whether the service is running, and its load."""
        return service.health()

    @app.get("/model", responses={401: RESPONSES[401]}, dependencies=[Depends(authorize)])
    async def model() -> dict[str, object]:
        """Return the model's version, alphabet and scores, and the limits."""
        return service.describe()

    @app.post(
        "/predict", responses=RESPONSES, openapi_extra={"requestBody": REQUEST_BODY}, dependencies=[Depends(authorize)]
    )
    async def predict(
        request: Request,
        n_best: Annotated[int | None, Query(ge=1, description="Readings per image; default: the model's.")] = None,
        spans: Annotated[bool, Query(description="Return the position and confidence of each unit.")] = False,
    ) -> Response:
        """Read one image (the body is its file) or several (multipart/form-data; the response is a list)."""
        _check_parameters(request, ("n_best", "spans"))
        async with _form(service, request) as form:
            results = await service.read(form.uploads, n_best, spans, form.lexicon)
        if form.is_multipart:
            return JSONResponse({"predictions": results})
        return JSONResponse(results[0], 422 if "error" in results[0] else 200)

    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Send every error as JSON {error, detail}."""

    @app.exception_handler(RequestError)
    async def request_error(_: Request, error: RequestError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        return RequestError(422, "wrong parameter", "; ".join(problems)).response()

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return RequestError(error.status_code, str(error.detail).lower(), "see /docs", headers=error.headers).response()

    @app.exception_handler(ClientDisconnect)
    async def disconnected(_: Request, __: ClientDisconnect) -> Response:
        # Nobody receives this response.
        return Response(status_code=400)


class JsonErrors:
    """ASGI middleware that logs unexpected exceptions and answers with JSON."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = ResponseSender(send)
        try:
            await self.app(scope, receive, response.send)
        except Exception as error:
            if scope["type"] != "http" or response.started:
                raise
            logger.exception("a request failed")
            await _unexpected_error(error).response()(scope, receive, send)


def _unexpected_error(error: Exception) -> RequestError:
    # On a CPU, torch raises a plain RuntimeError when memory runs out.
    is_cpu_allocator = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or is_cpu_allocator:
        return RequestError(503, "busy", "not enough memory at the moment: try again", retry_after=5)
    detail = str(error) if isinstance(error, RaycrnnError) else f"{type(error).__name__}: see the service's log"
    return RequestError(500, "internal error", detail)
