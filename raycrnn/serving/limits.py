"""Limits on request bodies, and refusals as JSON."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Message, Send

from raycrnn.serving.settings import BODY_SECONDS, MAX_BODY_MB, MAX_UPLOAD_MB


class RequestError(Exception):
    """A request that is refused: the HTTP status, and why.

    Args:
        status: The HTTP status code.
        error: The kind of error, in a few words; the same for all errors of that kind.
        detail: What is wrong with this request, and what to do.
        retry_after: Seconds after which the client may try again; sent as the header Retry-After (RFC 9110).
        headers: Further headers of the response.
    """

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
            # The header needs an integer, and after 0 seconds a client would retry immediately.
            self.headers["Retry-After"] = str(max(1, round(retry_after)))

    def response(self) -> JSONResponse:
        """Return the response {error, detail}."""
        return JSONResponse({"error": self.error, "detail": self.detail}, self.status, self.headers)


class ResponseSender:
    """An ASGI `send` that remembers whether the response has started."""

    def __init__(self, send: Send):
        self._send = send
        self.started = False

    async def send(self, message: Message) -> None:
        self.started = True
        await self._send(message)


class BodyLimiter:
    """Reads request bodies into memory, within limits of size and time.

    Args:
        max_body_mb: Megabytes of one body.
        max_upload_mb: Megabytes of all bodies whose requests are in progress.
        body_seconds: Seconds within which a body must have arrived.
    """

    def __init__(
        self,
        max_body_mb: float = MAX_BODY_MB,
        max_upload_mb: float = MAX_UPLOAD_MB,
        body_seconds: float = BODY_SECONDS,
    ):
        self.max_body_mb, self.max_upload_mb, self.body_seconds = max_body_mb, max_upload_mb, body_seconds
        self.held_bytes = 0
        """Bytes of the bodies whose requests are in progress."""

    @asynccontextmanager
    async def read(self, headers: Headers, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Read a body; it counts towards `held_bytes` until the context is left.

        Raises:
            RequestError: The body is too large or too slow, or too many bodies are held.
        """
        # An invalid Content-Length is ignored, because the bytes are counted as they arrive.
        with suppress(ValueError):
            self.check_size(int(headers.get("content-length", 0)))
        body = bytearray()
        try:
            await self._receive(body, chunks)
            yield bytes(body)
        finally:
            self.held_bytes -= len(body)

    def check_size(self, size: int) -> None:
        """Raise `RequestError` if a body of `size` bytes is too large."""
        if size > 1e6 * self.max_body_mb:
            raise RequestError(413, "body too large", f"the limit is {self.max_body_mb:g} MB (max_body_mb)")

    async def _receive(self, body: bytearray, chunks: AsyncIterator[bytes]) -> None:
        try:
            async with asyncio.timeout(self.body_seconds):
                async for chunk in chunks:
                    self.check_size(len(body) + len(chunk))
                    if self.held_bytes + len(chunk) > 1e6 * self.max_upload_mb:
                        detail = "too many uploads at the same time (max_upload_mb): try again"
                        raise RequestError(503, "busy", detail, retry_after=1)
                    body += chunk
                    self.held_bytes += len(chunk)
        except TimeoutError:
            detail = f"the body did not arrive within {self.body_seconds:g} seconds (body_seconds)"
            raise RequestError(408, "too slow", detail) from None
