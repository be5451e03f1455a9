"""Run the trainings of a plan, and keep their results in a file, from which an interrupted comparison continues."""

import json
import logging
import os
import platform
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from raycrnn import __version__, config, storage
from raycrnn.bench.training_plan import Plan, PlannedRun, csv_of, epochs_of, overrides_of, runs_of
from raycrnn.config import Configuration
from raycrnn.data.csv_files import read_csv
from raycrnn.data.duplicates import same_images
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model.cpus import usable_cpus
from raycrnn.tools.split import Part, group_rows, hold_back, write_parts

logger = logging.getLogger(__name__)

EVALUATIONS = 10
"""Evaluations of a training, as far as its epochs allow."""

CURVE = ("epoch", "step", "cer", "accuracy", "train_loss")
"""Keys of an evaluation that a result keeps."""

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class RunResult:
    """The result of a training. The scores are those of its last evaluation, not of its best one: choosing an epoch by
    the rows that score it would flatter settings whose scores vary."""

    set: str
    setting: str
    rows: int | None
    seed: int
    arguments: dict[str, object]
    """What determines the result: overrides, epochs, version."""
    cer: float
    wer: float
    accuracy: float
    steps: int
    seconds: float
    curve: list[dict[str, float]]
    """The values of `CURVE` at each evaluation."""
    machine: str

    @property
    def run(self) -> PlannedRun:
        return PlannedRun(self.set, self.setting, self.rows, self.seed)


def run_plan(plan: Plan, data: str, output: Path) -> list[RunResult]:
    """Run the trainings of a plan that have no result yet, one after the other, and return the results of all.

    Args:
        data: Folder of the sets.
        output: Folder for the results, and for the files of the training that runs.

    Raises:
        UsageError: A set or an override is not valid. Nothing has been trained then.
        RaycrnnError: A training failed.
    """
    for run in runs_of(plan):
        _configuration(plan, run, output)
        if not os.path.isfile(csv := csv_of(plan, run, data)):
            raise UsageError(f"{csv}: no such file; --data names the folder of the sets")
    output.mkdir(parents=True, exist_ok=True)
    done = {_key(result.run, result.arguments): result for result in read_results(output / RESULTS)}
    results = []
    for number, run in enumerate(runs := list(runs_of(plan)), start=1):
        folder = output / "run"
        parts = _split(plan, run, data, folder)
        arguments = _arguments(plan, run, len(parts[0].rows), output)
        result = done.get(_key(run, arguments))
        if result is None:
            logger.info(f"{number} of {len(runs)}: {run.name}, {arguments['epochs']} epochs")
            result = _train(run, arguments, parts, folder)
            with (output / RESULTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
            logger.info(f"  CER {result.cer:.2%}, exact {result.accuracy:.2%}, {result.seconds:.0f} s")
        results.append(result)
        shutil.rmtree(folder)
    return results


def read_results(path: Path) -> list[RunResult]:
    """Read a file of results; empty if there is none."""
    if not path.exists():
        return []
    return [RunResult(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _key(run: PlannedRun, arguments: dict[str, object]) -> str:
    return json.dumps([asdict(run), arguments], sort_keys=True)


def _arguments(plan: Plan, run: PlannedRun, rows: int, output: Path) -> dict[str, object]:
    batch_size = _configuration(plan, run, output).training.train_batch_size
    epochs = epochs_of(plan, run, rows, batch_size)
    return {"overrides": list(overrides_of(plan, run)), "epochs": epochs, "raycrnn": __version__}


def _configuration(plan: Plan, run: PlannedRun, output: Path) -> Configuration:
    """Return the configuration of a training, whose CSVs need not exist yet. Raises `UsageError` if it is invalid."""
    return config.parse({"data": {"csv_files_train": str(output)}}, overrides_of(plan, run), f"setting {run.setting!r}")


def _split(plan: Plan, run: PlannedRun, data: str, folder: Path) -> list[Part]:
    """Write the CSVs of a training to a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    csv = read_csv(str(csv_of(plan, run, data)))
    groups = group_rows(csv, plan.sets[run.set].group, same_images(csv))
    held_back = hold_back([len(rows) for rows in groups], plan.sets[run.set].eval_share, run.seed)
    chosen = [row for index, rows in enumerate(groups) if index not in held_back for row in rows]
    if run.rows is not None:
        if run.rows > len(chosen):
            raise UsageError(f"{csv.path}: {len(chosen)} rows are left for training, fewer than the plan's {run.rows}")
        random.Random(run.seed).shuffle(chosen)
        chosen = chosen[: run.rows]
    parts = [
        Part(folder / "train.csv", [chosen]),
        Part(folder / "eval.csv", [rows for index, rows in enumerate(groups) if index in held_back]),
    ]
    write_parts(csv, parts, ";", "utf-8")
    return parts


def _train(run: PlannedRun, arguments: dict[str, object], parts: list[Part], folder: Path) -> RunResult:
    epochs = arguments["epochs"]
    assert isinstance(epochs, int) and isinstance(arguments["overrides"], list)
    tree = {
        "output_model_dir": str(folder / "output"),
        "data": {"csv_files_train": str(parts[0].file), "csv_files_eval": str(parts[1].file)},
        "training": {
            "n_epochs": epochs,
            "evaluate_every_epoch": max(1, epochs // EVALUATIONS),
            "seed": run.seed,
        },
    }
    storage.write_text(folder / "config.json", json.dumps(tree, ensure_ascii=False))
    # In a separate process, as users run it.
    command = [sys.executable, "-m", "raycrnn", "train", str(folder / "config.json"), *arguments["overrides"]]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RaycrnnError(f"{run.name}: training failed with exit code {ended.returncode}:\n{ended.stderr}")
    records = [json.loads(line) for line in (folder / "output" / "metrics.jsonl").read_text().splitlines()]
    last = records[-1]
    return RunResult(
        **asdict(run),
        arguments=arguments,
        **{score: last[score] for score in ("cer", "wer", "accuracy")},
        steps=last["step"],
        seconds=last["seconds"],
        curve=[
            {name: record[name] for name in ("epoch", "step", "cer", "accuracy", "train_loss")} for record in records
        ],
        machine=describe_machine(),
    )


def describe_machine() -> str:
    """Return the processor, the number of CPUs and the version of PyTorch."""
    return f"{_processor()}, {usable_cpus()} CPUs, torch {version('torch')}"


def _processor() -> str:
    """Return the name of the processor, with its support of bfloat16 where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line for line in lines if line.startswith("flags")), "")
    return f"{name} ({'with' if 'bf16' in flags else 'without'} bfloat16)"
