"""What stands before Ray Serve's proxies: bodies are taken within limits, what is too much is refused at once, and a
request whose replica died is asked again.

Ray Serve's proxies take whatever is sent into memory, let requests wait that a replica is to refuse, and end a request
whose replica died without an answer, which the client sees as a status of 500. Reading an image changes nothing, so
that it can be asked for twice. Headers that steer Ray do not pass. A proxy takes the door up by the environment:
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=raycrnn.serving.proxy_middleware:middlewares`.
"""

import logging
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raycrnn.serving.limits import MAX_BODY_MB, MAX_UPLOAD_MB, Answer, BodyLimiter, RequestError

logger = logging.getLogger(__name__)

IMPORT_PATH = "raycrnn.serving.proxy_middleware:middlewares"
"""Value of that variable."""

MAX_BODY_VARIABLE = "RAYCRNN_MAX_BODY_MB"
"""Environment variable with the megabytes of a body; the proxies know nothing else of the service."""

MAX_REQUESTS_VARIABLE = "RAYCRNN_MAX_REQUESTS"
"""… with the number of requests that a proxy may have under way."""

MAX_REQUESTS = 256

BODY = "raycrnn.body"
"""Where in the scope a replica finds the body: what it would receive, it had to call the proxy for."""

RAY_HEADERS = {
    b"serve-multiplexed-model-id",
    b"x-request-id",
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    os.environ.get("RAY_SERVE_SESSION_ID_HEADER_KEY", "x-session-id").lower().replace("_", "-").encode(),
}
"""… by which a request tells Ray Serve where it goes, how long it may take and whether its client is waited for. They
are decoded without a look at what they hold: bytes that are no UTF-8 end a request without an answer."""

CLEAN_REQUEST_ID = re.compile(rb"[\w.:+/=-]{1,128}", re.ASCII)

TRIES = 2
"""A request that kills every replica must not kill many."""


def middlewares() -> list[Middleware]:
    """As Ray Serve asks for them."""
    max_body_mb = float(os.environ.get(MAX_BODY_VARIABLE, MAX_BODY_MB))
    intake = BodyLimiter(max_body_mb, max(MAX_UPLOAD_MB, max_body_mb))
    return [Middleware(ProxyMiddleware, intake, int(os.environ.get(MAX_REQUESTS_VARIABLE, MAX_REQUESTS)))]


class ProxyMiddleware:
    """ASGI middleware. Answers 503 where no replica lived long enough to answer."""

    def __init__(self, app: ASGIApp, intake: BodyLimiter, most_requests: int = MAX_REQUESTS):
        self.app, self.intake, self.most_requests = app, intake, most_requests
        self.requests = 0
        """whose body is there, that are under way"""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope, answer = {**scope, "headers": _clean(scope["headers"])}, Answer(send)
        try:
            await self._pass(scope, receive, answer)
        except RequestError as refused:
            await refused.response()(scope, receive, send)
        except ClientDisconnect:
            # Nobody waits for an answer.
            return
        except Exception:
            if answer.started:
                raise
            logger.exception("a request could not be passed on")
            refused = RequestError(503, "busy", "the request could not be passed on: try again", retry_after=5)
            await refused.response()(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        # What has no body is not read: health checks, the page.
        if scope["method"] != "POST":
            await self.app(scope, receive, answer.send)
            return
        self._check_room()
        async with self.intake.body(Headers(scope=scope), _chunks(receive)) as body:
            with self._counted():
                await self._ask(scope, body, receive, answer)

    def _check_room(self) -> None:
        """Raises `Refused` if too much is under way: a replica would say so too, but later."""
        if self.requests >= self.most_requests:
            raise RequestError(503, "busy", f"{self.requests} requests are under way already: try again", retry_after=2)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Raises `Refused` if too much is under way."""
        # Not before its body is there: those that are slow to come would keep the others out.
        self._check_room()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def _ask(self, scope: Scope, body: bytes, receive: Receive, answer: Answer) -> None:
        """Raises `Refused` if no replica answers, `ClientDisconnect` if nobody waits for it any more."""
        for _ in range(TRIES):
            request = _Request(body, receive)
            await self.app({**scope, BODY: body}, request.receive, answer.send)
            if answer.started:
                return
            if request.gone:
                raise ClientDisconnect
        raise RequestError(503, "busy", "the replica that read this was lost: try again", retry_after=5)


def _clean(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without those that steer Ray; a request's own name for itself, which ends up in logs, passes."""
    return [(name, value) for name, value in headers if not _steers(name.lower().replace(b"_", b"-"), value)]


def _steers(name: bytes, value: bytes) -> bool:
    return name in RAY_HEADERS and not (name == b"x-request-id" and CLEAN_REQUEST_ID.fullmatch(value))


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


class _Request:
    """A whole body as an application receives it, then what comes after."""

    def __init__(self, body: bytes, receive: Receive):
        self._body: bytes | None = body
        self._receive = receive
        self.gone = False
        """whether the client has gone away"""

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._receive()
        self.gone = message["type"] == "http.disconnect"
        return message
