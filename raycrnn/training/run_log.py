"""What a run leaves to read beside its model: metrics.jsonl, rejected.csv, run.json and TensorBoard's logs."""

import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from raycrnn import __version__
from raycrnn.storage import write_whole
from raycrnn.training.validation import ValidationExample


def write_run(path: Path, configuration: dict, csv_digests: dict[str, str]) -> None:
    """run.json: what it would take to do the run again."""
    packages = ("torch", "ray", "numpy", "pillow", "pyarrow")
    record = {
        "raycrnn": __version__,
        "command": sys.argv,
        "configuration": configuration,
        "csv_sha256": csv_digests,
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
    }
    write_whole(path, json.dumps(record, indent=2, ensure_ascii=False))


class RunLog:
    """The running record: a line of metrics.jsonl an evaluation, and TensorBoard.

    Every method raises `OSError`, as of a full disk.
    """

    def __init__(self, output: Path, step: int):
        """A record that goes on after `step`: what an interrupted run wrote past it is taken out."""
        self._metrics = output / "metrics.jsonl"
        if self._metrics.exists():
            lines = self._metrics.read_text(encoding="utf-8").splitlines()
            write_whole(self._metrics, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))
        (output / "logs").mkdir(exist_ok=True)
        # Not SummaryWriter: it writes in a thread, which dies of a full disk, and training then waits for it forever.
        # The process and the step tell it from the log of a run that began in the same second.
        self._events = EventsWriter(str(output / "logs" / "events"), f".{os.getpid()}.{step}")
        if step:
            self._add(step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._add(step, summary=summary.scalar(name, value))

    def evaluation(self, record: dict, examples: Sequence[ValidationExample]) -> None:
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        step = record["step"]
        scores = ("cer", "wer", "accuracy", "loss")
        self.scalars(step, {f"eval/{name}": record[name] for name in scores if name in record})
        for number, example in enumerate(examples):
            image_CHW = example.image_CHW.expand(3, -1, -1).contiguous().numpy()
            self._add(step, summary=summary.image(f"examples/{number}", image_CHW))
        if examples:
            self._add(step, summary=summary.text("examples/transcriptions", _table(examples)))
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _add(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl, without one torn by a kill or a full disk."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if _step_of(line) < math.inf]


def write_hyperparameters(logs: Path, values: dict[str, Any], scores: dict[str, float]) -> None:
    """Tell TensorBoard what a run of a search tried and reached. Raises `OSError`."""
    # It takes numbers, texts and truth values.
    plain = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values.items()}
    events = EventsWriter(str(logs / "events"), f".{os.getpid()}.hparams")
    parts = summary.hparams(plain, {f"best/{name}": score for name, score in scores.items()})
    parts += tuple(summary.scalar(f"best/{name}", score) for name, score in scores.items())
    for part in parts:
        events.write_event(Event(wall_time=time.time(), step=0, summary=part))
    events.close()


def _step_of(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity for one torn by a kill or a full disk."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def _table(examples: Sequence[ValidationExample]) -> str:
    """Markdown: TensorBoard shows it as a table."""
    rows = ["| | label | transcription |", "|---|---|---|"]
    for number, example in enumerate(examples):
        cells = (text.replace("|", "\\|") for text in (example.reference, example.transcription))
        rows.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(rows)
