"""Put load on an HTTP service and measure its answers.

The HTTP client is minimal, because it shares the CPU with the service that it measures.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Question:
    """A request and its expected answer."""

    body: bytes
    """An image file."""
    text: str
    """The text that the service must return."""


@dataclass
class Load:
    """The outcomes of a series of requests."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds until the answer, for each request that was answered."""
    wrong: int = 0
    """Requests that were answered with a different text."""
    refused: int = 0
    """Requests that were answered with 503 and Retry-After."""
    failed: int = 0
    """Requests with any other outcome, such as a closed connection."""
    refusal_latencies: list[float] = field(default_factory=list)
    """Seconds until the answer, for each request that was refused."""

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        """Return a percentile of the latencies, in milliseconds."""
        if len(self.latencies) < 2:
            return 1000 * sum(self.latencies)
        return 1000 * statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]


class Client:
    """A client with one keep-alive connection."""

    def __init__(self, port: int):
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Send a request, and return the status, the headers by lower-case name, and the body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
        answer = await reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, answer

    def close(self) -> None:
        """Close the connection. The next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None

    async def ask(self, question: Question, load: Load) -> None:
        """Send a question to /predict, and count the outcome."""
        start = time.perf_counter()
        try:
            status, headers, body = await self.request("POST", "/predict", question.body)
        except (OSError, asyncio.IncompleteReadError, ValueError, KeyError):
            self.close()
            load.failed += 1
            return
        seconds = time.perf_counter() - start
        if status == 200:
            load.latencies.append(seconds)
            load.wrong += json.loads(body)["text"] != question.text
        elif status == 503 and "retry-after" in headers:
            load.refused += 1
            load.refusal_latencies.append(seconds)
        else:
            load.failed += 1


async def closed_loop(port: int, questions: Sequence[Question], clients: int, seconds: float) -> Load:
    """Send requests from a number of clients, each of which sends the next one as soon as it has its answer."""
    load, start = Load(), time.perf_counter()

    async def send(first: int) -> None:
        client = Client(port)
        for number in range(first, 10**9, clients):
            if time.perf_counter() - start > seconds:
                break
            await client.ask(questions[number % len(questions)], load)
        client.close()

    await asyncio.gather(*(send(first) for first in range(clients)))
    load.seconds = time.perf_counter() - start
    return load


async def open_loop(port: int, questions: Sequence[Question], rate: float, seconds: float) -> Load:
    """Send a number of requests per second, whether or not earlier ones have been answered."""
    load, start = Load(), time.perf_counter()
    idle: list[Client] = []
    pending = set()

    async def ask(number: int) -> None:
        client = idle.pop() if idle else Client(port)
        await client.ask(questions[number % len(questions)], load)
        idle.append(client)

    number = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(number, int(elapsed * rate)):
            task = asyncio.create_task(ask(number))
            pending.add(task)
            task.add_done_callback(pending.discard)
            number += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*pending)
    load.seconds = time.perf_counter() - start
    for client in idle:
        client.close()
    return load
