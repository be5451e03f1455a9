"""A stand-in for S3 that serves the files of a folder, answers after a delay, fails on demand and counts requests.

It answers HEAD and GET, which is all that reading images takes. Run as a module, it serves until its stdin is closed.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

Fault = Literal["slow down", "reset", "cut", "stall", "denied"]
"""How a request fails: 503 SlowDown, a closed connection before or within the answer, no answer, 403 AccessDenied."""

ERRORS = {"slow down": (503, "SlowDown"), "denied": (403, "AccessDenied"), "missing": (404, "NoSuchKey")}

COUNT = "/requests"
"""Path of the number of requests so far; the first part of another path is a bucket."""


class ObjectStore:
    """A server on the loopback interface, in a thread of its own. Use it in a `with` block.

    Args:
        folder: Contains a folder for each bucket.
        delay: Seconds before each answer.
        fault: Returns how a request for a path fails, or None.
    """

    def __init__(self, folder: Path, delay: float = 0.0, fault: Callable[[str], Fault | None] = lambda path: None):
        self.folder, self.delay, self.fault = folder, delay, fault
        self.requests = 0
        """Number of requests so far."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "ObjectStore":
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = starting.result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        answers = asyncio.all_tasks() - {asyncio.current_task()}
        for answer in answers:
            answer.cancel()
        await asyncio.gather(*answers, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port of the server."""
        return self._server.sockets[0].getsockname()[1]

    def uri(self, *names: str) -> str:
        """Return the URI of a bucket or of something in it."""
        return uri_of(self.port, *names)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().split("\r\n")
                method, target, _ = request.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                if not await self._answer(writer, method, unquote(target.partition("?")[0]), headers.get("range")):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            # The client has closed the connection, or the server stops.
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, method: str, path: str, span: str | None) -> bool:
        """Answer a request, and return whether the connection stays open."""
        if path == COUNT:
            writer.write(_response(method, 200, str(self.requests).encode()))
            return True
        self.requests += 1
        await asyncio.sleep(self.delay)
        fault, file = self.fault(path), self.folder / path.lstrip("/")
        if fault == "stall":
            await asyncio.sleep(3600)
        if fault == "reset":
            writer.transport.abort()
            return False
        error = fault if fault in ERRORS else None if file.is_file() else "missing"
        if error:
            status, code = ERRORS[error]
            writer.write(_response(method, status, f"<Error><Code>{code}</Code></Error>".encode()))
            return True
        response = _response(method, 200, file.read_bytes(), span)
        writer.write(response[: len(response) - 20] if fault == "cut" and method == "GET" else response)
        await writer.drain()
        return fault != "cut"


def _response(method: str, status: int, body: bytes, span: str | None = None) -> bytes:
    headers = ['ETag: "1"', "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"]
    if span:
        first, last = span.removeprefix("bytes=").split("-")
        headers.append(f"Content-Range: bytes {span.removeprefix('bytes=')}/{len(body)}")
        status, body = 206, body[int(first) : int(last) + 1]
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)


def uri_of(port: int, *names: str) -> str:
    """Return the URI of a bucket, or of something in it, that an `ObjectStore` serves."""
    return f"s3://{'/'.join(names)}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


def main(folder: str, delay: str) -> None:
    """Serve a folder until stdin is closed, and print the port."""
    with ObjectStore(Path(folder), float(delay)) as store:
        print(store.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
