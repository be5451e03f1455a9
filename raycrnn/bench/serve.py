"""The service under load, compared with a plain web server with the same model."""

import asyncio
import io
import logging
import operator
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from raycrnn import bench, config
from raycrnn.bench.load import Client, Load, Question, closed_loop, open_loop
from raycrnn.cli import Command
from raycrnn.data.alphabet import Alphabet
from raycrnn.errors import RaycrnnError
from raycrnn.model.cpus import usable_cpus
from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer

logger = logging.getLogger(__name__)


LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:-'"

CLIENTS = (1, 8, 32)


class ServeBench(Command):
    """Measure requests per second and latencies of `raycrnn serve` and of a plain web server, in turn.

    The plain server is one process with FastAPI, uvicorn and torch that reads one image per call, with the same model,
    decoding, precision and threads. Both are measured with 1, 8 and 32 clients on the same machine. Then the service
    receives ten times as many requests as it can answer: it must refuse the rest at once, and its memory must not grow.
    The limits: with 32 clients ≥ 1.5 × the rate of the plain server, with one client ≤ 1.5 × its p95.
    """

    size: Literal["full", "half", "quarter"] = "full"
    """Size of the network."""
    decoding: Literal["beam", "greedy"] = "beam"
    """Decoding method."""
    threads: int | None = Field(None, ge=1)
    """Number of CPU threads of the network. Default: all."""
    seconds: float = Field(10, gt=0)
    """Seconds of each measurement."""
    rounds: int = Field(3, ge=1)
    """Number of rounds; each starts and measures both servers."""
    overload: float = Field(60, ge=0)
    """Seconds of overload, in the last round."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        threads = self.threads or usable_cpus()
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            recognizer = make_recognizer(self.size, self.decoding)
            recognizer.save(model)
            questions = make_questions(recognizer, 64)
            plain, ours, overload = [], [], None
            for number in range(self.rounds):
                logger.info(f"round {number + 1} of {self.rounds}")
                with running("raycrnn.bench.plain_server", model, port := free_port(), threads):
                    plain.append(measure(port, questions, self.seconds))
                options = (str(model), "--port", port := free_port(), "--threads", threads)
                with running("raycrnn.serve", *options) as process:
                    ours.append(measure(port, questions, self.seconds))
                    if number == self.rounds - 1 and self.overload:
                        rate = 10 * ours[-1][32].rate
                        overload = overloaded(process.pid, port, questions, rate, self.overload)
        figures = [*_figures(plain, ours), *(_overload_figures(*overload) if overload else [])]
        title = f"serve: {self.size} network, {self.decoding}, lines of 32×64–512, {threads} threads, fp32"
        bench.report(title, figures, self.json_line)


def make_recognizer(size: str, decoding: str) -> Recognizer:
    """Return an untrained recogniser. It takes as long as a trained one."""
    torch.manual_seed(0)
    tree = {"data": {"csv_files_train": "none.csv"}, "model": {"size": size}, "decoding": {"method": decoding}}
    configuration = config.parse(tree)
    alphabet = Alphabet(tuple(LETTERS))
    network = CRNN.from_settings(configuration.model, configuration.image, len(alphabet) + 1)
    # The output of an untrained network is nearly uniform, and rounding would decide which text is the best.
    network.output.weight.data.mul_(8)
    return Recognizer(network, configuration, alphabet, {})


def make_questions(recognizer: Recognizer, count: int) -> list[Question]:
    """Return lines of text as PNG, 64 to 512 pixels wide and 32 high, with the text that the recogniser returns."""
    generator, font = random.Random(0), ImageFont.load_default(size=24)
    bodies = []
    for number in range(count):
        image = Image.new("L", (64 + 448 * number // max(1, count - 1), 32), 255)
        text = "".join(generator.choices(LETTERS, k=60))
        ImageDraw.Draw(image).text((4, 1), text, fill=0, font=font)
        file = io.BytesIO()
        image.save(file, "PNG")
        bodies.append(file.getvalue())
    generator.shuffle(bodies)
    found = recognizer(bodies, spans=False)
    return [Question(body, transcription.text) for body, transcription in zip(bodies, found, strict=True)]


@contextmanager
def running(module: str, *arguments: object) -> Iterator[subprocess.Popen]:
    """Run a server in a new process for the duration of a `with` block.

    Args:
        module: Module to run.
        arguments: Its arguments. The port follows --port, or else it is the second argument.

    Raises:
        RaycrnnError: The server does not answer within two minutes.
    """
    words = [str(argument) for argument in arguments]
    port = int(words[words.index("--port") + 1] if "--port" in words else words[1])
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([sys.executable, "-m", module, *words], stdout=errors, stderr=errors)
        try:
            deadline = time.monotonic() + 120
            while not asyncio.run(_answers(port)):
                if process.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    raise RaycrnnError(
                        f"{module} does not answer within two minutes, or has ended: {errors.read()[-2000:]}"
                    )
                time.sleep(0.2)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()


async def _answers(port: int) -> bool:
    client = Client(port)
    try:
        return (await client.request("GET", "/health"))[0] == 200
    except (OSError, asyncio.IncompleteReadError, KeyError, ValueError):
        return False
    finally:
        client.close()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


Measured = dict[int, Load]
"""The loads by number of clients."""


def measure(port: int, questions: Sequence[Question], seconds: float) -> Measured:
    """Measure a server with each number of clients, after a few seconds to warm up."""
    asyncio.run(closed_loop(port, questions, 8, min(seconds, 5)))
    return {clients: asyncio.run(closed_loop(port, questions, clients, seconds)) for clients in CLIENTS}


def overloaded(
    pid: int, port: int, questions: Sequence[Question], rate: float, seconds: float
) -> tuple[Load, list[float]]:
    """Send `rate` requests per second; return their outcomes, and the memory of the service in MB every two seconds."""
    memory, ended = [], threading.Event()

    def watch() -> None:
        while not ended.wait(2):
            memory.append(memory_of(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return asyncio.run(open_loop(port, questions, rate, seconds)), memory
    finally:
        ended.set()
        watcher.join()


def memory_of(pid: int) -> float:
    """Return the proportional set size of a process and its descendants, in MB."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family, children = {pid}, {pid}
    while children:
        children = {child for child, parent in parents.items() if parent in family} - family
        family |= children
    return sum(_proportional_set_size(member) for member in family)


def _proportional_set_size(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def _figures(plain: Sequence[Measured], ours: Sequence[Measured]) -> list[bench.Figure]:
    figures = []
    for clients in CLIENTS:
        for name, measured in (("plain", plain), ("serve", ours)):
            own = [each[clients] for each in measured]
            figures.append(
                bench.Figure(f"{name}, {clients} clients: rate", _median(own, lambda load: load.rate), "req/s")
            )
            for percent in (50, 95):
                value = _median(own, operator.methodcaller("percentile", percent))
                figures.append(bench.Figure(f"{name}, {clients} clients: p{percent}", value, "ms"))
    rate = bench.median_ratio([each[32].rate for each in ours], [each[32].rate for each in plain])
    p95 = bench.median_ratio([each[1].percentile(95) for each in ours], [each[1].percentile(95) for each in plain])
    bad = sum(load.wrong + load.failed + load.refused for each in ours for load in each.values())
    return [
        *figures,
        bench.Figure("rate at 32 clients, serve to plain", rate, "", "≥ 1.5"),
        bench.Figure("p95 at 1 client, serve to plain", p95, "", "≤ 1.5"),
        bench.Figure("wrong or missing answers of serve", bad, "", "0"),
    ]


def _overload_figures(load: Load, memory: Sequence[float]) -> list[bench.Figure]:
    half = len(memory) // 2
    growth = statistics.mean(memory[half:]) - statistics.mean(memory[1:half]) if half > 1 else 0.0
    slowest = 1000 * max(load.refusal_latencies, default=0.0)
    typical = 1000 * statistics.median(load.refusal_latencies) if load.refusal_latencies else 0.0
    return [
        bench.Figure("10 × overload: answered", load.rate, "req/s"),
        bench.Figure("10 × overload: refused", load.refused / load.seconds, "req/s"),
        bench.Figure("10 × overload: median refusal", typical, "ms"),
        bench.Figure("10 × overload: slowest refusal", slowest, "ms"),
        bench.Figure("10 × overload: wrong or failed", load.wrong + load.failed, "", "0"),
        bench.Figure("10 × overload: growth of memory", growth, "MB", "≈ 0"),
    ]


def _median(loads: Sequence[Load], value: Callable[[Load], float]) -> float:
    return statistics.median(map(value, loads))
