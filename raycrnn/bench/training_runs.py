"""Run the trainings of a plan, and keep their results in a file, from which an interrupted comparison continues."""

import hashlib
import json
import logging
import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from raycrnn import __version__, config, storage
from raycrnn.bench.training_plan import SET_BY_THE_PLAN, Plan, PlannedRun, csv_of, epochs_of, overrides_of, runs_of
from raycrnn.config import Configuration
from raycrnn.config.group import AUTO
from raycrnn.data.csv_files import CsvFile, Row, read_csv, units_of
from raycrnn.data.duplicates import same_images
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model.cpus import usable_cpus
from raycrnn.tools.split import Part, group_rows, hold_back, write_parts
from raycrnn.training import base_model, initial_model

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
    """What determines the result: `PreparedRun.arguments`."""
    cer: float
    wer: float
    accuracy: float
    steps: int
    seconds: float
    curve: list[dict[str, float]]
    """The values of `CURVE` at each evaluation after the first step."""
    machine: str

    @property
    def run(self) -> PlannedRun:
        return PlannedRun(self.set, self.setting, self.rows, self.seed)


@dataclass(frozen=True)
class PreparedRun:
    """A training whose rows have been chosen."""

    run: PlannedRun
    csv: CsvFile
    train: list[Row]
    eval: list[Row]
    overrides: tuple[str, ...]
    epochs: int
    initial_weights: str | None
    """SHA-256 of the weights that training starts from."""

    @property
    def arguments(self) -> dict[str, object]:
        """What determines the result, besides the machine. The contents of the images are not compared."""
        rows = json.dumps([[(row.path, row.label) for row in part] for part in (self.train, self.eval)])
        return {
            "overrides": list(self.overrides),
            "epochs": self.epochs,
            "rows": hashlib.sha256(rows.encode()).hexdigest(),
            "initial_weights": self.initial_weights,
            "raycrnn": __version__,
        }

    @property
    def key(self) -> str:
        return _key(self.run, self.arguments)


def run_plan(plan: Plan, data: str, output: Path) -> list[RunResult]:
    """Run the trainings of a plan that have no result yet, one after the other, and return the results of all.

    Args:
        plan: The plan.
        data: Folder of the sets.
        output: Folder for the results, and for the files of the training that runs.

    Raises:
        UsageError: A set, an override or a kept result is not valid. Nothing has been trained then.
        RaycrnnError: A training failed.
    """
    prepared = list(_prepare(plan, data))
    output.mkdir(parents=True, exist_ok=True)
    results = {_key(result.run, result.arguments): result for result in read_results(output / RESULTS)}
    for number, each in enumerate(prepared, start=1):
        if each.key in results:
            continue
        logger.info(f"{number} of {len(prepared)}: {each.run.name}, {each.epochs} epochs")
        result = results[each.key] = _train(each, output / "run")
        with (output / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
        logger.info(f"  CER {result.cer:.2%}, exact {result.accuracy:.2%}, {result.seconds:.0f} s")
    return [results[each.key] for each in prepared]


def read_results(path: Path) -> list[RunResult]:
    """Read a file of results; empty if there is none. Raises `UsageError` if a line is damaged."""
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            results.append(RunResult(**json.loads(line)))
        except (TypeError, ValueError):
            raise UsageError(
                f"{path}, line {number}: not a result of this version: delete the line, or choose another --output"
            ) from None
    return results


def _key(run: PlannedRun, arguments: dict[str, object]) -> str:
    return json.dumps([asdict(run), arguments], sort_keys=True)


def _prepare(plan: Plan, data: str) -> Iterator[PreparedRun]:
    """Check all trainings of a plan, and choose their rows."""
    groups: dict[str, tuple[CsvFile, list[list[Row]]]] = {}
    for run in runs_of(plan):
        configuration = _configuration(plan, run)
        if run.set not in groups:
            path = csv_of(plan, run, data)
            if not os.path.isfile(path):
                raise UsageError(f"{path}: no such file; --data names the folder of the sets")
            csv = read_csv(str(path))
            groups[run.set] = csv, group_rows(csv, plan.sets[run.set].group, same_images(csv))
        csv, rows_by_group = groups[run.set]
        train, held_back = _choose(plan, run, csv, rows_by_group)
        settings = configuration.training
        yield PreparedRun(
            run,
            csv,
            train,
            held_back,
            overrides_of(plan, run),
            epochs_of(plan, run, len(train), settings.train_batch_size),
            _initial_weights(configuration, replace(csv, rows=train)),
        )


def _initial_weights(configuration: Configuration, csv: CsvFile) -> str | None:
    """Return the SHA-256 of the weights that a training on some rows starts from; None if they are random."""
    location = configuration.training.initial_model
    if location == AUTO:
        units = {unit for row in csv.rows for unit in units_of(row, configuration.data)}
        measure = partial(base_model.usual_height, [csv], configuration)
        location = base_model.suitable(units, len(csv.rows), configuration, measure).name
        configuration = config.completed(configuration, {"training.initial_model": location})
    return initial_model.read(configuration).sha256 if location else None


def _configuration(plan: Plan, run: PlannedRun) -> Configuration:
    """Return the configuration of a training, without its CSVs. Raises `UsageError` if it is invalid."""
    overrides = overrides_of(plan, run)
    if refused := {text.partition("=")[0] for text in overrides}.intersection(SET_BY_THE_PLAN):
        raise UsageError(
            f"setting {run.setting!r}: {', '.join(sorted(refused))}: cannot be set, the plan determines it"
        )
    return config.parse({"data": {"csv_files_train": "train.csv"}}, overrides, f"setting {run.setting!r}")


def _choose(plan: Plan, run: PlannedRun, csv: CsvFile, groups: list[list[Row]]) -> tuple[list[Row], list[Row]]:
    """Return the rows to train on, and those held back."""
    held_back = hold_back([len(rows) for rows in groups], plan.sets[run.set].eval_share, run.seed)
    train = [row for index, rows in enumerate(groups) if index not in held_back for row in rows]
    evaluation = [row for index in sorted(held_back) for row in groups[index]]
    if run.rows is None:
        return train, evaluation
    if run.rows > len(train):
        raise UsageError(f"{csv.path}: {len(train)} rows are left for training, fewer than the plan's {run.rows}")
    random.Random(run.seed).shuffle(train)
    return train[: run.rows], evaluation


def _train(prepared: PreparedRun, folder: Path) -> RunResult:
    """Train in a new folder, which is deleted afterwards. Raises `RaycrnnError` if it fails; the folder stays."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    parts = [Part(folder / "train.csv", [prepared.train]), Part(folder / "eval.csv", [prepared.eval])]
    write_parts(prepared.csv, parts, ";", "utf-8")
    tree = {
        "output_model_dir": str(folder / "output"),
        "data": {"csv_files_train": str(parts[0].file), "csv_files_eval": str(parts[1].file)},
        "training": {
            "n_epochs": prepared.epochs,
            "evaluate_every_epoch": max(1, prepared.epochs // EVALUATIONS),
            "seed": prepared.run.seed,
        },
    }
    storage.write_text(folder / "config.json", json.dumps(tree, ensure_ascii=False))
    # In a separate process, as users run it.
    command = [sys.executable, "-m", "raycrnn", "train", str(folder / "config.json"), *prepared.overrides]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    if code:
        text = (folder / "log.txt").read_text(encoding="utf-8").strip()
        raise RaycrnnError(f"{prepared.run.name}: training failed with exit code {code}; {folder}/log.txt has:\n{text}")
    records = [json.loads(line) for line in (folder / "output" / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(folder)
    last = records[-1]
    return RunResult(
        **asdict(prepared.run),
        arguments=prepared.arguments,
        **{score: last[score] for score in ("cer", "wer", "accuracy")},
        steps=last["step"],
        seconds=last["seconds"],
        curve=[{name: record[name] for name in CURVE} for record in records if record["step"]],
        machine=describe_machine(),
    )


def describe_machine() -> str:
    """Return the processor, the number of CPUs, the GPU if there is one, and the version of PyTorch."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{_processor()}, {usable_cpus()} CPUs{gpu}, torch {version('torch')}"


def _processor() -> str:
    """Return the name of the processor, with its support of bfloat16 where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line for line in lines if line.startswith("flags")), "")
    return f"{name} ({'with' if 'bf16' in flags else 'without'} bfloat16)"
