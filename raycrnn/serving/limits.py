"""Requests' bodies, taken within limits, and refusals as JSON."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Message, Send

MAX_BODY_MB = 20.0
MAX_UPLOAD_MB = 256.0
BODY_SECONDS = 30.0


class RequestError(Exception):
    """A request that is not answered: which limit it breaks, or what is wrong with it."""

    def __init__(
        self,
        status: int,
        error: str,
        detail: str,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(detail)
        self.status, self.error, self.detail = status, error, detail
        self.headers = dict(headers or {})
        if retry_after is not None:
            # Whole seconds, at least one: so the header is defined.
            self.headers["Retry-After"] = str(max(1, round(retry_after)))

    def response(self) -> JSONResponse:
        return JSONResponse({"error": self.error, "detail": self.detail}, self.status, self.headers)


class Answer:
    """What an application sends, passed on."""

    def __init__(self, send: Send):
        self._send = send
        self.started = False

    async def send(self, message: Message) -> None:
        self.started = True
        await self._send(message)


class BodyLimiter:
    """Takes bodies into memory."""

    def __init__(
        self,
        max_body_mb: float = MAX_BODY_MB,
        max_upload_mb: float = MAX_UPLOAD_MB,
        body_seconds: float = BODY_SECONDS,
    ):
        """
        Args:
            max_body_mb: megabytes of a body.
            max_upload_mb: … of all at a time, until their requests are answered.
            body_seconds: in which a body must have arrived.
        """
        self.max_body_mb, self.max_upload_mb, self.body_seconds = max_body_mb, max_upload_mb, body_seconds
        self.held = 0
        """bytes of bodies whose requests are under way"""

    @asynccontextmanager
    async def body(self, headers: Headers, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """All of a body, which counts as held until the context is left.

        Raises `Refused` if it is too large or comes too slowly, and what the chunks raise.
        """
        with suppress(ValueError):
            self.check(int(headers.get("content-length", 0)))
        body = bytearray()
        try:
            await self._receive(body, chunks)
            yield bytes(body)
        finally:
            self.held -= len(body)

    def check(self, length: int) -> None:
        """Raises `Refused` for a body of too many bytes."""
        if length > 1e6 * self.max_body_mb:
            raise RequestError(413, "body too large", f"more than {self.max_body_mb:g} MB (max_body_mb)")

    async def _receive(self, body: bytearray, chunks: AsyncIterator[bytes]) -> None:
        try:
            async with asyncio.timeout(self.body_seconds):
                async for chunk in chunks:
                    self._take(body, chunk)
        except TimeoutError:
            detail = f"the body did not arrive in {self.body_seconds:g} seconds (body_seconds)"
            raise RequestError(408, "too slow", detail) from None

    def _take(self, body: bytearray, chunk: bytes) -> None:
        self.check(len(body) + len(chunk))
        if self.held + len(chunk) > 1e6 * self.max_upload_mb:
            raise RequestError(503, "busy", "too many uploads at a time (max_upload_mb): try again", retry_after=1)
        body += chunk
        self.held += len(chunk)
