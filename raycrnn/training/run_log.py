"""Write metrics.jsonl, run.json and TensorBoard logs, and describe evaluations and progress."""

import json
import logging
import math
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from raycrnn import __version__
from raycrnn.config import Training
from raycrnn.storage import write_text
from raycrnn.training.learner import StepResult, TrainingState
from raycrnn.training.time_budget import Throughput
from raycrnn.training.validation import UNKNOWN_UNIT, ValidationExample, ValidationResult

if TYPE_CHECKING:
    from raycrnn.training.monitor import ProgressReport


STEPS_BETWEEN_SCALARS = 10
"""Steps between two points of the training curves in TensorBoard."""

BLANK_STEPS = 1000
"""Steps after which a network should no longer output only blanks. With few units it stops within 50 to 200."""


def write_run(path: Path, configuration: dict[str, object], csv_digests: dict[str, str]) -> None:
    """Write run.json, which describes how to repeat the run. Raises `OSError`."""
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
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False))


class MetricsRecord(TypedDict):
    """A line of metrics.jsonl, which describes an evaluation."""

    epoch: float
    step: int
    share: float
    """Completed fraction of the schedule."""
    seconds: float
    """Wall time of all commands of the run."""
    workers: int
    train_loss: NotRequired[float]
    """Missing before the first step, like the next three."""
    images_per_second: NotRequired[float]
    data_wait: NotRequired[float]
    """Fraction of the time that steps waited for their batches."""
    padding: NotRequired[float]
    """Ratio of padding to image pixels."""
    skipped_steps: int
    rejected: dict[str, int]
    """Samples of each set that were rejected since training began."""
    best: bool
    """Whether this is the best evaluation so far."""
    cer: NotRequired[float]
    wer: NotRequired[float]
    accuracy: NotRequired[float]
    loss: NotRequired[float]
    speed: NotRequired[float]
    """Lines per second during the evaluation."""


def metrics_record(
    result: ValidationResult | None,
    progress: TrainingState,
    throughput: Throughput,
    seconds: float,
    workers: int,
    rejected: dict[str, int],
    best: bool,
) -> MetricsRecord:
    """Return the record of an evaluation; without an evaluation set `result` is None and the scores are missing."""
    record: MetricsRecord = {
        "epoch": round(progress.epoch, 3),
        "step": progress.step,
        "share": round(progress.schedule, 4),
        "seconds": round(seconds, 1),
        "workers": workers,
        "skipped_steps": progress.skipped,
        "rejected": rejected,
        "best": best,
    }
    if progress.step:
        record["train_loss"] = progress.mean_loss
        record["images_per_second"] = round(throughput.images_per_second(), 1)
        record["data_wait"] = round(throughput.data_wait(), 5)
        record["padding"] = round(throughput.padding(), 4)
    if result:
        counts = result.counts
        record |= {"cer": counts.cer, "wer": counts.wer, "accuracy": counts.accuracy, "loss": result.loss}
        record["speed"] = round(result.speed, 1)
    return record


def describe(record: MetricsRecord, result: ValidationResult | None, settings: Training) -> Iterator[tuple[int, str]]:
    """Yield the levels and the lines that the command logs for an evaluation."""
    minutes, seconds = divmod(round(record["seconds"]), 60)
    trained = record["step"] > 0
    parts = [f"epoch {record['epoch']:g}", f"step {record['step']}"]
    if trained:
        parts.append(f"loss {record['train_loss']:.3f}")
    if result:
        scores = {"CER": result.counts.cer, "WER": result.counts.wer, "exact": result.counts.accuracy}
        parts += [f"{name} {100 * score:.2f} %" for name, score in scores.items()]
    if trained:
        parts += [f"{record['images_per_second']:.0f} img/s", f"wait {100 * record['data_wait']:.1f} %"]
        parts.append(f"padding {100 * record['padding']:.0f} %")
    parts.append(f"{minutes}:{seconds:02d}")
    yield logging.INFO, "  ".join(parts + (["best"] if record["best"] and result else []))
    if trained and result and result.is_blank:
        yield _describe_blank(record["step"], settings)


def _describe_blank(step: int, settings: Training) -> tuple[int, str]:
    if step <= BLANK_STEPS:
        return logging.INFO, f"the network outputs only blanks so far, as is normal in the first {BLANK_STEPS:,} steps"
    return logging.WARNING, (
        f"after {step:,} steps the network still outputs only blanks, where others read their first units within "
        f"{BLANK_STEPS:,}: check that the labels are those of the images (raycrnn check), or try a lower learning rate "
        f"(training.learning_rate={settings.learning_rate:g})"
    )


def progress_report(progress: TrainingState, throughput: Throughput, steps_left: int) -> "ProgressReport":
    """Return what a progress bar shows."""
    return {
        "epoch": f"{progress.epoch:.1f}",
        "step": progress.step,
        "share": progress.schedule,
        "loss": progress.mean_loss,
        "images_per_second": throughput.images_per_second(),
        "seconds_left": max(0, steps_left) * throughput.seconds_per_step(),
    }


class RunLog:
    """The files metrics.jsonl and logs/ of a run. Only worker 0 opens them.

    All methods but `step` raise `OSError` if they cannot write, for example because the disk is full.
    """

    def __init__(self, output: Path):
        self.problem: OSError | None = None
        """Why `step` could not write. The other workers must learn of it before training can fail."""
        self._output, self._metrics = output, output / "metrics.jsonl"
        self._events: EventsWriter

    def open(self, progress: TrainingState) -> None:
        """Open the files, and remove what an interrupted run recorded after a checkpoint.

        Args:
            progress: The progress at the checkpoint. An evaluation of its last step may be missing from it.
        """
        step = progress.step
        if self._metrics.exists():
            lines = self._metrics.read_text(encoding="utf-8").splitlines()
            write_text(self._metrics, "".join(f"{line}\n" for line in lines if _step_of(line) <= progress.evaluated_at))
        (self._output / "logs").mkdir(exist_ok=True)
        # Not SummaryWriter: it writes in a thread, which ends when the disk is full, and training would wait for it
        # forever. PID and step distinguish the file from that of another run that started in the same second.
        self._events = EventsWriter(str(self._output / "logs" / "events"), f".{os.getpid()}.{step}")
        if step:
            self._add(step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add points to the curves in TensorBoard."""
        for name, value in values.items():
            self._add(step, summary=summary.scalar(name, value))

    def step(self, step: StepResult, progress: TrainingState, throughput: Throughput) -> None:
        """Add the scalars of a training step, every `STEPS_BETWEEN_SCALARS` steps."""
        if progress.step % STEPS_BETWEEN_SCALARS:
            return
        values = {
            "train/loss": step.loss,
            "train/mean_loss": progress.mean_loss,
            "train/learning_rate": step.learning_rate,
            "train/images_per_second": throughput.images_per_second(),
            "train/data_wait_percent": 100 * throughput.data_wait(),
            "train/padding_percent": 100 * throughput.padding(),
            "train/skipped_steps": progress.skipped,
        }
        try:
            self.scalars(progress.step, values)
        except OSError as error:
            self.problem = error

    def evaluation(self, record: MetricsRecord, result: ValidationResult | None) -> None:
        """Add an evaluation: its line, its scores and its examples."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        step = record["step"]
        if result:
            self.scalars(step, {f"eval/{name}": score for name, score in result.scores().items()})
            for number, example in enumerate(result.examples):
                image_CHW = example.image_CHW.expand(3, -1, -1).contiguous().numpy()
                self._add(step, summary=summary.image(f"examples/{number}", image_CHW))
            if result.examples:
                self._add(step, summary=summary.text("examples/transcriptions", _table(result.examples)))
        self._events.flush()

    def close(self) -> None:
        """Flush and close the logs."""
        self._events.close()

    def _add(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))


def read_metrics(path: Path) -> list[dict]:
    """Return the records of a metrics.jsonl. A line that was truncated by a kill or a full disk is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if _step_of(line) < math.inf]


def write_hyperparameters(logs: Path, values: dict[str, object], scores: dict[str, float]) -> None:
    """Log the hyperparameters and scores of a trial for TensorBoard. Raises `OSError`."""
    # TensorBoard accepts numbers, strings and booleans.
    plain = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values.items()}
    events = EventsWriter(str(logs / "events"), f".{os.getpid()}.hparams")
    parts = summary.hparams(plain, {f"best/{name}": score for name, score in scores.items()})
    parts += tuple(summary.scalar(f"best/{name}", score) for name, score in scores.items())
    for part in parts:
        events.write_event(Event(wall_time=time.time(), step=0, summary=part))
    events.close()


def _step_of(line: str) -> float:
    """Return the step of a line of metrics.jsonl, or infinity for a truncated line."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def _table(examples: Sequence[ValidationExample]) -> str:
    """Return the examples as a Markdown table, which TensorBoard renders. The texts in it are shown literally."""
    rows = ["| | label | transcription |", "|---|---|---|"]
    for number, example in enumerate(examples):
        cells = map(_literal, (example.reference, example.transcription))
        rows.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _literal(text: str) -> str:
    """Return Markdown that shows a text as it is, with its markup and spaces."""
    # Stands for a unit that is not in the alphabet. HTML has no NUL.
    text = text.replace(UNKNOWN_UNIT, "\N{REPLACEMENT CHARACTER}")
    # Character references are neither Markdown nor tags. HTML shows several spaces as one, and none at the ends.
    spaced = re.sub(r"^ | (?= )| $", "\N{NO-BREAK SPACE}", text)
    return re.sub(r"[\x00-\x1f!-/:-@\[-`{-\x7f]", lambda found: f"&#{ord(found[0])};", spaced)
