"""Seconds from the command to the first training step, by part."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import Field

from raycrnn import bench
from raycrnn.bench.train import settings_of, write_images
from raycrnn.cli import Command
from raycrnn.errors import RaycrnnError


class Start(Command):
    """Measure the seconds from the command to its first training step, by part. Each command starts its own Ray.

    The limit: 15 seconds on 2 cores for a CSV of 2,600 lines.
    """

    rows: int = Field(2600, ge=1)
    """Number of rows in the CSV."""
    workers: int = Field(1, ge=1)
    """Number of training workers."""
    rounds: int = Field(3, ge=1)
    """Number of commands to run, one after the other."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(folder, 100, self.rows)
            rounds = [self._measure(folder, number) for number in range(self.rounds)]
        parts = {part: statistics.median(each[part] for each in rounds) for part in rounds[0]}
        figures = [bench.Figure(part, seconds, "s") for part, seconds in parts.items()]
        total = statistics.median(sum(each.values()) for each in rounds)
        figures.append(bench.Figure("command to first step", total, "s", "≤ 15 on 2 cores"))
        bench.report(f"start: {self.rows:,} rows, {self.workers} worker(s), new processes", figures, self.json_line)

    def _measure(self, folder: Path, number: int) -> dict[str, float]:
        path = folder / "config.json"
        path.write_text(settings_of(folder, "quarter", 32).model_dump_json())
        overrides = [f"output_model_dir={folder}/output{number}", f"cluster.num_workers={self.workers}"]
        command = [sys.executable, "-m", "raycrnn.train", str(path), "training.n_epochs=1", *overrides, "--json"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RaycrnnError(f"training failed with exit code {found.returncode}:\n{found.stderr}")
        return json.loads(found.stdout.splitlines()[-1])["start"]


if __name__ == "__main__":
    Start.main(name="bench start")
