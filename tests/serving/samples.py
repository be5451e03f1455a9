"""Images, services and requests that the tests of this package share."""

import asyncio
import io
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import torch
import uvicorn
from PIL import Image

from raycrnn.serving.api import make_app
from raycrnn.serving.limits import BodyLimiter
from raycrnn.serving.proxy_middleware import ProxyMiddleware
from raycrnn.serving.service import Service


def png(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@contextmanager
def serving(service: Service):
    """A client of a service that listens on a real socket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(service), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


def assert_refused(response: httpx.Response, status: int, *texts: str) -> None:
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer.keys() == {"error", "detail"} or answer.keys() == {"error", "detail", "name"}
    for text in texts:
        assert text in f"{answer['error']}: {answer['detail']}"


def post_in_thread(client: httpx.Client, answers: list, **request) -> threading.Thread:
    """Post a request in a thread that appends the response to a list."""

    def ask():
        answers.append(httpx.post(f"{client.base_url}/predict", timeout=30, **request))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


@contextmanager
def gated(reader):
    """Make a recognizer's `transcribe` wait for an event, which is set at the latest when the context is left."""
    gate, real = threading.Event(), reader.transcribe
    reader.transcribe = lambda *given, **named: gate.wait(20) and real(*given, **named)
    try:
        yield gate
    finally:
        gate.set()


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def post(service: Service, request: dict, middleware: bool = False) -> httpx.Response:
    """Post a request to a service without a socket, so that its exceptions are raised here."""

    async def ask():
        await service.start()
        app = make_app(service)
        app = ProxyMiddleware(app, BodyLimiter()) if middleware else app
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            answer = await client.post("/predict", **request)
        await service.stop()
        return answer

    return asyncio.run(ask())


def cuda_out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")
