"""Seconds from a command to its first result, compared with the import of its libraries."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from raycrnn import bench
from raycrnn.bench.predict import save_model
from raycrnn.bench.serve import free_port, running
from raycrnn.bench.train import settings_of, write_images
from raycrnn.cli import VERBS, Command
from raycrnn.errors import RaycrnnError

Part = Literal["help", "predict", "evaluate", "serve", "train"]

EVALUATED = 200
"""Rows that evaluate reads."""


class Start(Command):
    """Measure the seconds from a command to its first result, beside the bare import of torch or the start of Python.

    Every command is a new process. In each round, a command runs right after what it is compared with. The limits:
    --help of the slowest verb ≤ 8 × `python -c pass`; predict of one image ≤ 2 × and evaluate of 200 rows ≤ 3 ×
    `python -c "import torch"`; the first training step ≤ 15 seconds on 2 cores for a CSV of 2,600 lines, and with two
    workers ≤ 1.4 × that with one.
    """

    parts: list[Part] = Field(["help", "predict", "evaluate", "serve", "train"])
    """Part to measure: help, predict, evaluate, serve or train; can be given more than once. Default: all."""
    rows: int = Field(2600, ge=EVALUATED)
    """Number of rows in the CSV of the training."""
    rounds: int = Field(3, ge=1)
    """Number of measurements of each command."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        measures = {
            "help": _measure_help,
            "predict": _measure_predict,
            "evaluate": _measure_evaluate,
            "serve": _measure_serve,
            "train": _measure_train,
        }
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(folder, 100, self.rows)
            labels = (folder / "labels.csv").read_text().splitlines(keepends=True)
            (folder / "some.csv").write_text("".join(labels[:EVALUATED]))
            save_model(folder / "model", "half")
            figures = [figure for part in self.parts for figure in measures[part](folder, self.rounds)]
        bench.report(f"start: {self.rows:,} rows, new processes, median of {self.rounds}", figures, self.json_line)


def _seconds(*command: str) -> float:
    """Return how long a command of Python runs. Raises `RaycrnnError` if it fails."""
    since = time.monotonic()
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - since
    if found.returncode:
        raise RaycrnnError(f"{' '.join(command)} failed with exit code {found.returncode}:\n{found.stderr}")
    return seconds


PASS, IMPORT_TORCH = ("-c", "pass"), ("-c", "import torch")


def _beside(base: Sequence[str], command: Sequence[str], rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of both commands, which run in turn."""
    pairs = [(_seconds(*base), _seconds(*command)) for _ in range(rounds)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def _figures(name: str, base_name: str, bases: list[float], seconds: list[float], limit: str) -> list[bench.Figure]:
    return [
        bench.Figure(base_name, statistics.median(bases), "s"),
        bench.Figure(name, statistics.median(seconds), "s"),
        bench.Figure(f"{name}, to {base_name}", bench.median_ratio(seconds, bases), "×", limit),
    ]


def _measure_help(folder: Path, rounds: int) -> list[bench.Figure]:
    found = {verb: _beside(PASS, ("-m", "raycrnn", verb, "--help"), rounds) for verb in VERBS}
    slowest = max(found, key=lambda verb: statistics.median(found[verb][1]))
    return _figures(f"{slowest} --help, the slowest", "python -c pass", *found[slowest], "≤ 8")


def _measure_predict(folder: Path, rounds: int) -> list[bench.Figure]:
    figures = []
    for count, limit in ((1, "≤ 2"), (5, "")):
        images = [str(folder / f"{number}.png") for number in range(count)]
        found = _beside(IMPORT_TORCH, ("-m", "raycrnn.predict", str(folder / "model"), *images), rounds)
        figures += _figures(f"predict, {count} image(s)", "import torch", *found, limit)
    return figures


def _measure_evaluate(folder: Path, rounds: int) -> list[bench.Figure]:
    command = ("-m", "raycrnn.evaluate", str(folder / "model"), str(folder / "some.csv"))
    return _figures(f"evaluate, {EVALUATED} rows", "import torch", *_beside(IMPORT_TORCH, command, rounds), "≤ 3")


def _measure_serve(folder: Path, rounds: int) -> list[bench.Figure]:
    bases, seconds = [], []
    for _ in range(rounds):
        bases.append(_seconds(*IMPORT_TORCH))
        since = time.monotonic()
        with running("raycrnn.serve", folder / "model", "--port", free_port()):
            seconds.append(time.monotonic() - since)
    return _figures("serve, first answer", "import torch", bases, seconds, "")


def _measure_train(folder: Path, rounds: int) -> list[bench.Figure]:
    one, two = [], []
    for number in range(rounds):
        one.append(_first_step(folder, f"one{number}", 1))
        two.append(_first_step(folder, f"two{number}", 2))
    parts = [
        bench.Figure(f"train, 1 worker: {part}", statistics.median(each[part] for each in one), "s") for part in one[0]
    ]
    totals = [[sum(each.values()) for each in found] for found in (one, two)]
    return [
        *parts,
        bench.Figure("train, 1 worker: command to first step", statistics.median(totals[0]), "s", "≤ 15 on 2 cores"),
        bench.Figure("train, 2 workers: command to first step", statistics.median(totals[1]), "s"),
        bench.Figure("first step, 2 workers to 1", bench.median_ratio(totals[1], totals[0]), "×", "≤ 1.4"),
    ]


def _first_step(folder: Path, name: str, workers: int) -> dict[str, float]:
    """Return the seconds from the command to the first training step, by part."""
    path = folder / "config.json"
    path.write_text(settings_of(folder, "quarter", 32).model_dump_json())
    overrides = [f"output_model_dir={folder / name}", f"cluster.num_workers={workers}"]
    command = [sys.executable, "-m", "raycrnn.train", str(path), "training.n_epochs=1", *overrides, "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RaycrnnError(f"training failed with exit code {found.returncode}:\n{found.stderr}")
    return json.loads(found.stdout.splitlines()[-1])["start"]


if __name__ == "__main__":
    Start.main(name="bench start")
