"""What a run leaves to read beside its model: metrics.jsonl, rejected.csv, run.json and TensorBoard's logs."""

import csv
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from tensorboardX import SummaryWriter

from raycrnn import __version__
from raycrnn.learning import Example

REJECTED_COLUMNS = ("file", "line", "path", "reason", "detail")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(path)


def write_rejected(path: Path, rows: Iterable[Sequence]) -> None:
    """rejected.csv: comma-separated (RFC 4180), a header, one line a sample that was left out."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(REJECTED_COLUMNS)
        writer.writerows(rows)
    temporary.replace(path)


def write_run(path: Path, configuration: dict, csvs: Iterable[str]) -> None:
    """run.json: what it would take to do the run again."""
    packages = ("torch", "ray", "numpy", "pillow", "pyarrow")
    record = {
        "raycrnn": __version__,
        "command": sys.argv,
        "configuration": configuration,
        "csv_sha256": {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in csvs},
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
    }
    write_whole(path, json.dumps(record, indent=2, ensure_ascii=False))


class Journal:
    """The running record: a line of metrics.jsonl an evaluation, and TensorBoard."""

    def __init__(self, output: Path, step: int):
        """A record that goes on after `step`: what an interrupted run wrote past it is taken out."""
        self._metrics = output / "metrics.jsonl"
        if self._metrics.exists():
            lines = self._metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            write_whole(self._metrics, "".join(f"{line}\n" for line in kept))
        self._writer = SummaryWriter(str(output / "logs"), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def evaluation(self, record: dict, examples: Sequence[Example]) -> None:
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        step = record["step"]
        self.scalars(step, {f"eval/{name}": record[name] for name in ("cer", "wer", "accuracy", "loss")})
        for number, example in enumerate(examples):
            image_CHW = example.image_CHW.expand(3, -1, -1).contiguous().numpy()
            self._writer.add_image(f"examples/{number}", image_CHW, step)
        if examples:
            self._writer.add_text("examples/transcriptions", _table(examples), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _table(examples: Sequence[Example]) -> str:
    """Markdown: TensorBoard shows it as a table."""
    rows = ["| | label | transcription |", "|---|---|---|"]
    for number, example in enumerate(examples):
        cells = (text.replace("|", "\\|") for text in (example.reference, example.transcription))
        rows.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(rows)

