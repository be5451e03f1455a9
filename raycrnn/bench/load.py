"""Load on an HTTP service: clients that ask again and again, and their answers' times.

The client is a bare one: what it takes of the CPU, which it shares with the service, is little and the same for all.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Question:
    """A request, and the text that answers it rightly."""

    body: bytes
    text: str


@dataclass
class Load:
    """What became of requests."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """seconds, of those that were answered"""
    wrong: int = 0
    """answered with another text"""
    refused: int = 0
    """503 with Retry-After"""
    failed: int = 0
    """anything else"""
    refusal_latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        """Of the latencies, in milliseconds."""
        if len(self.latencies) < 2:
            return 1000 * sum(self.latencies)
        return 1000 * statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]


class Client:
    """One connection that is kept alive."""

    def __init__(self, port: int):
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self.writer.drain()
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
        answer = await self.reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, answer

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None

    async def ask(self, question: Question, load: Load) -> None:
        """Ask, and count what comes of it."""
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
    """So many clients, each of which asks as soon as it is answered."""
    load, start = Load(), time.perf_counter()

    async def go_on(first: int) -> None:
        client = Client(port)
        for number in range(first, 10**9, clients):
            if time.perf_counter() - start > seconds:
                break
            await client.ask(questions[number % len(questions)], load)
        client.close()

    await asyncio.gather(*(go_on(first) for first in range(clients)))
    load.seconds = time.perf_counter() - start
    return load


async def open_loop(port: int, questions: Sequence[Question], rate: float, seconds: float) -> Load:
    """So many requests a second, whether those before were answered or not."""
    load, start, idle = Load(), time.perf_counter(), []
    asked = set()

    async def ask(number: int) -> None:
        client = idle.pop() if idle else Client(port)
        await client.ask(questions[number % len(questions)], load)
        idle.append(client)

    number = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(number, int(elapsed * rate)):
            task = asyncio.create_task(ask(number))
            asked.add(task)
            task.add_done_callback(asked.discard)
            number += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*asked)
    load.seconds = time.perf_counter() - start
    for client in idle:
        client.close()
    return load
