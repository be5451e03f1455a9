"""ASGI middleware for Ray Serve's HTTP proxies: limits on bodies and requests, and a second attempt.

A proxy loads it from the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH (see `IMPORT_PATH`), which must
be set where Ray is started. It reads the body, and only then passes the request on. It refuses what is over the limits,
passes a request on a second time if its replica dies (reading an image has no side effects), and removes headers that
control Ray Serve.

Why it is needed: Ray Serve 2.60's proxy passes a body on only when a replica takes the request, and has no limit until
then. Memory of the proxy and of one replica that is busy (max_ongoing_requests=1, 20 MB accepted), for one body of
1,000 MiB, whether sent with Content-Length or chunked:

                        proxy             replica
    without middleware  334 -> 3,302 MiB  315 -> 3,124 MiB, 413 after 17 s
    with it             205 ->   226 MiB  205 ->   206 MiB, 413 at once

If the replica is free, it refuses the body at its limit, and the proxy stays below 350 MiB. Memory matters most when
the service is busy.
"""

import logging
import os
import re
from collections.abc import AsyncIterator, Iterable

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raycrnn.errors import UsageError
from raycrnn.serving.limits import BodyLimiter, RequestError, ResponseSender
from raycrnn.serving.settings import MAX_BODY_MB, MAX_UPLOAD_MB

logger = logging.getLogger(__name__)

IMPORT_PATH = "raycrnn.serving.proxy_middleware:middlewares"

MAX_BODY_VARIABLE = "RAYCRNN_MAX_BODY_MB"
"""Environment variable: megabytes of a body. A proxy knows neither the service's settings nor its model."""

MAX_REQUESTS_VARIABLE = "RAYCRNN_MAX_REQUESTS"
"""Environment variable: requests that a proxy may have in progress."""

MAX_REQUESTS = 256

BODY = "raycrnn.body"
"""Key of the ASGI scope under which a replica finds the body. Receiving it would take another call to the proxy."""

RAY_HEADERS = {
    b"serve-multiplexed-model-id",
    b"x-request-id",
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    os.environ.get("RAY_SERVE_SESSION_ID_HEADER_KEY", "x-session-id").lower().replace("_", "-").encode(),
}
"""Headers by which a request would control Ray Serve: routing, time limit, handling of disconnects. Ray Serve decodes
them without error handling, so that bytes that are not UTF-8 would end a request without a response."""

VALID_REQUEST_ID = re.compile(rb"[\w.:+/=-]{1,128}", re.ASCII)

MAX_ATTEMPTS = 2
"""Not more: a request that kills its replica must not kill all of them."""


def middlewares() -> list[Middleware]:
    """Return the middleware, configured from the environment. Ray Serve calls this in each proxy."""
    max_body_mb = read_max_body_mb(os.environ.get(MAX_BODY_VARIABLE))
    body_limiter = BodyLimiter(max_body_mb, max(MAX_UPLOAD_MB, max_body_mb))
    return [Middleware(ProxyMiddleware, body_limiter, int(os.environ.get(MAX_REQUESTS_VARIABLE, MAX_REQUESTS)))]


def read_max_body_mb(text: str | None) -> float:
    """Return the value of `MAX_BODY_VARIABLE`, or the default. Raises `UsageError` if it is not a positive number."""
    try:
        value = MAX_BODY_MB if text is None else float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UsageError(f"{MAX_BODY_VARIABLE}={text!r}: must be a number of megabytes, such as 20")
    return value


class ProxyMiddleware:
    """ASGI middleware that limits bodies and requests, and repeats a request whose replica died.

    Args:
        app: The next ASGI application.
        body_limiter: Reads the bodies.
        max_requests: Requests with a body that may be in progress at the same time.
    """

    def __init__(self, app: ASGIApp, body_limiter: BodyLimiter, max_requests: int = MAX_REQUESTS):
        self.app, self.body_limiter, self.max_requests = app, body_limiter, max_requests
        self.requests_in_progress = 0
        """Requests whose body has arrived and that are not answered yet."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope, response = {**scope, "headers": _without_ray_headers(scope["headers"])}, ResponseSender(send)
        try:
            await self._handle(scope, receive, response)
        except RequestError as error:
            await error.response()(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception:
            if response.started:
                raise
            logger.exception("a request could not be forwarded to a replica")
            refusal = RequestError(503, "busy", "the request could not be forwarded: try again", retry_after=5)
            await refusal.response()(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, response: ResponseSender) -> None:
        # Other methods have no body and cost little: health checks and the page.
        if scope["method"] != "POST":
            await self.app(scope, receive, response.send)
            return
        self._check_requests()
        async with self.body_limiter.read(Headers(scope=scope), _body_chunks(receive)) as body:
            # Requests count only from here on, or clients that send slowly would keep others out.
            self._check_requests()
            self.requests_in_progress += 1
            try:
                await self._forward(scope, body, receive, response)
            finally:
                self.requests_in_progress -= 1

    def _check_requests(self) -> None:
        """Raise `RequestError` if too many requests are in progress."""
        if self.requests_in_progress >= self.max_requests:
            detail = f"{self.requests_in_progress} requests are in progress ({MAX_REQUESTS_VARIABLE}): try again"
            raise RequestError(503, "busy", detail, retry_after=2)

    async def _forward(self, scope: Scope, body: bytes, receive: Receive, response: ResponseSender) -> None:
        """Pass a request on until a replica responds.

        Raises:
            RequestError: No replica responded in `MAX_ATTEMPTS` attempts.
            ClientDisconnect: The client has disconnected.
        """
        for _ in range(MAX_ATTEMPTS):
            replay = _ReplayedBody(body, receive)
            await self.app({**scope, BODY: body}, replay.receive, response.send)
            if response.started:
                return
            if replay.disconnected:
                raise ClientDisconnect
        raise RequestError(503, "busy", "the replica that read this image died: try again", retry_after=5)


def _without_ray_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Remove the headers in `RAY_HEADERS`; a valid X-Request-Id stays, because it identifies the request in logs."""

    def controls_ray(name: bytes, value: bytes) -> bool:
        return name in RAY_HEADERS and not (name == b"x-request-id" and VALID_REQUEST_ID.fullmatch(value))

    return [(name, value) for name, value in headers if not controls_ray(name.lower().replace(b"_", b"-"), value)]


async def _body_chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


class _ReplayedBody:
    """An ASGI `receive` that returns a body that has been read already, and then the messages after it."""

    def __init__(self, body: bytes, receive: Receive):
        self._body: bytes | None = body
        self._receive = receive
        self.disconnected = False

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._receive()
        self.disconnected = message["type"] == "http.disconnect"
        return message
