"""The verb predict: images in, text out, streamed through Ray Data."""

import csv
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import AliasChoices, Field
from pydantic_settings import CliPositionalArg

from raycrnn import image, samples
from raycrnn.command import Command
from raycrnn.config import Image
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.recognizer import Recognizer, Transcription, is_override

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".pbm", ".pgm", ".ppm", ".jp2")
"""What of a folder is read as an image."""

IMAGES_PER_BLOCK = 256


@dataclass(frozen=True)
class Result:
    """What became of one image: a transcription or an error."""

    transcription: Transcription | None
    rejected: samples.Rejected | None

    @property
    def error(self) -> str:
        return f"{self.rejected.reason}: {self.rejected.detail}" if self.rejected else ""


@dataclass(frozen=True)
class Input:
    """An image to read."""

    shown: str
    """as the user gave it"""
    path: str
    """as the file system takes it"""
    problem: str | None = None
    """what is malformed in its row of a CSV"""


class Predict(Command):
    """Transcribe images: files, folders and CSVs (their labels are ignored).

    Writes one row an image, in input order: path, text, score, error, then text_2, score_2 … as
    decoding.num_beam_paths says. The score is the gap of log-probability to the second best reading (empty for
    greedy decoding); score_2 … are those readings' log-probabilities relative to the best one.
    """

    model: CliPositionalArg[str]
    """the model directory, such as output/model"""
    inputs: CliPositionalArg[list[str]] = Field(min_length=1)
    """images, folders and .csv files; also decoding.key=value, such as decoding.num_beam_paths=3"""
    output: str | None = Field(None, validation_alias=AliasChoices("o", "output"))
    """file to write: CSV, or JSON lines if it ends in .jsonl; default: CSV on stdout"""
    overwrite: bool = False
    """replace the output where it exists"""
    format: Literal["csv", "jsonl"] | None = None
    """csv or jsonl, whatever the output's name"""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else a local Ray of its own"""

    def run(self) -> int:
        overrides = [text for text in self.inputs if is_override(text)]
        recognizer = Recognizer.load(self.model, "cpu", overrides)
        inputs = list_inputs([text for text in self.inputs if text not in overrides], recognizer.configuration.data)
        jsonl = (self.format or Path(self.output or "").suffix.lstrip(".")) == "jsonl"
        paths = recognizer.configuration.decoding.num_beam_paths
        read = 0

        from raycrnn import cluster

        _check_output(self.output, self.overwrite, [*self.inputs, *(item.path for item in inputs)])
        with _open_output(self.output) as file, cluster.connect(self.address):
            write = _write_jsonl if jsonl else _write_csv
            settings = recognizer.configuration.image
            readable = [item.path for item in inputs if item.problem is None]
            results = _with_malformed(inputs, transcribe(self.model, settings, readable, overrides))
            for result in write(file, inputs, results, paths):
                read += result.transcription is not None
        print(f"{read} of {len(inputs)} images read", file=sys.stderr)
        return 0 if read else 1


def list_inputs(names: Sequence[str], settings: Any) -> list[Input]:
    """The images that names stand for, in order. Raises `UsageError` where there is nothing to read."""
    inputs = []
    for name in names:
        if name.lower().endswith(".csv"):
            file = samples.read_csv(name, settings.csv_delimiter, settings.encoding)
            inputs += [Input(row.path, file.resolve(row.path), row.problem) for row in file.rows]
        elif Path(name).is_dir():
            named = sorted(path for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES)
            inputs += [Input(_printable(path), str(path)) for path in named if not path.is_dir()]
        else:
            inputs.append(Input(_printable(name), name))
    if not inputs:
        what = f"{', '.join(names)} hold no images" if names else "name images, folders or CSVs"
        raise UsageError(f"nothing to read: {what}")
    return inputs


def _printable(path: str | Path) -> str:
    """A file name may hold bytes that are no text; they are shown escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _with_malformed(inputs: Sequence[Input], results: Iterator[Result]) -> Iterator[Result]:
    """Results for all inputs, of which the malformed ones were not sent."""
    for item in inputs:
        yield Result(None, samples.Rejected("malformed row", item.problem)) if item.problem else next(results)


# --- streaming


def transcribe(model: str, settings: Image, paths: Sequence[str], overrides: Sequence[str] = ()) -> Iterator[Result]:
    """Transcribe the images at paths through Ray Data; the results come in their order.

    Args:
        model: the model directory.
        settings: the model's.
        overrides: as `Recognizer.load` takes them.
    """
    import pyarrow as pa
    import ray.data

    if not paths:
        return
    # As bytes, which file names are.
    places = [os.fsencode(path if "://" in path else os.path.join(os.getcwd(), path)) for path in paths]
    tables = [pa.table({"path": pa.array(places[start:stop], pa.binary())}) for start, stop in _blocks(len(places))]
    dataset = ray.data.from_arrow(tables)
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True
    replicas = _replicas(len(tables))
    dataset = dataset.map_batches(
        Decode(settings), batch_format="pyarrow", batch_size=None, zero_copy_batch=True, num_cpus=DECODE_CPUS
    ).map_batches(
        Transcriber,
        fn_constructor_args=(str(Path(model).absolute()), tuple(overrides), replicas.threads),
        compute=ray.data.ActorPoolStrategy(size=replicas.count),
        num_cpus=replicas.cpus,
        num_gpus=replicas.gpus,
        batch_format="pyarrow",
        batch_size=IMAGES_PER_BLOCK,
    )
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from map(_from_json, block["result"].to_pylist())
    except ray.exceptions.RayError as error:
        raise RaycrnnError(f"a worker was lost, or {model} cannot be read where it runs: {error}") from None


DECODE_CPUS = 0.25
"""of a CPU for a decoding task: reading a line takes the network far longer than decoding its image"""


def _blocks(rows: int) -> list[tuple[int, int]]:
    return [(start, start + IMAGES_PER_BLOCK) for start in range(0, rows, IMAGES_PER_BLOCK)]


@dataclass(frozen=True)
class _Replicas:
    count: int
    cpus: float
    gpus: float
    threads: int


def _replicas(blocks: int) -> _Replicas:
    """One a GPU; without GPUs one a CPU, all of its threads for a single one."""
    import ray

    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), resources.get("CPU", 1)
    if gpus:
        return _Replicas(min(gpus, blocks), 0.5, 1, 1)
    count = max(1, min(int(cpus), blocks))
    return _Replicas(count, 1 - DECODE_CPUS, 0, max(1, int(cpus) // count))


@dataclass(frozen=True)
class Decode:
    """Paths -> prepared images, as bytes beside their widths; what cannot be read becomes an error."""

    settings: Image

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        columns: dict[str, list] = {"pixels": [], "width": [], "rejected": []}
        for path in map(os.fsdecode, table["path"].to_pylist()):
            try:
                array = image.prepare(image.read_bytes(path), self.settings.input_shape, self.settings.input_channels)
                values = (array.tobytes(), array.shape[1], None)
            except samples.Rejected as rejected:
                values = (None, 0, [rejected.reason, rejected.detail])
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
        return pa.table(
            {
                "pixels": pa.array(columns["pixels"], pa.large_binary()),
                "width": pa.array(columns["width"], pa.int64()),
                "rejected": pa.array(columns["rejected"], pa.list_(pa.string())),
            }
        )


class Transcriber:
    """A replica of the model: prepared images -> results as JSON."""

    def __init__(self, model: str, overrides: tuple[str, ...], threads: int):
        import torch

        torch.set_num_threads(threads)
        self.recognizer = Recognizer.load(model, "auto", overrides)

    def __call__(self, table: Any) -> Any:
        import numpy as np
        import pyarrow as pa

        shape = self.recognizer.configuration.image
        results, images, places = [], [], []
        for place, row in enumerate(table.to_pylist()):
            results.append({"rejected": row["rejected"]})
            if row["pixels"] is not None:
                array = np.frombuffer(row["pixels"], np.uint8)
                images.append(array.reshape(shape.input_shape[0], row["width"], shape.input_channels))
                places.append(place)
        for place, transcription in zip(places, self.recognizer.transcribe(images), strict=True):
            results[place] = {"rejected": None, "transcription": transcription.to_json()}
        return pa.table({"result": [json.dumps(result) for result in results]})


def _from_json(text: str) -> Result:
    result = json.loads(text)
    if result["rejected"]:
        return Result(None, samples.Rejected(*result["rejected"]))
    return Result(Transcription.from_json(result["transcription"]), None)


# --- writing


def _check_output(name: str | None, overwrite: bool, inputs: Sequence[str]) -> None:
    """Raises `UsageError` if an output is no file's name, one of the inputs, or there already."""
    if name is None:
        return
    path = Path(name)
    if not path.name or path.is_dir():
        raise UsageError(f"{name or repr(name)}: is a directory and not the name of a file to write")
    if not path.is_file():
        return
    if any(os.path.exists(each) and path.samefile(each) for each in inputs):
        raise UsageError(f"{name}: is one of the inputs; name another output")
    if not overwrite:
        raise UsageError(f"{name}: already there; --overwrite replaces it")


@contextmanager
def _open_output(name: str | None) -> Iterator[IO[str]]:
    """stdout, or a file that takes its name when it is whole. Raises `UsageError` if it cannot be written."""
    if name is None:
        yield sys.stdout
        return
    path = Path(name).resolve()
    if path.exists() and not path.is_file():
        # A pipe or a device is written to as it is.
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.part")
    try:
        file = temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise UsageError(f"{name}: cannot be written: {error.strerror}") from None
    try:
        with file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise RaycrnnError(f"{name}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(file: IO[str], inputs: Sequence[Input], results: Iterable[Result], paths: int) -> Iterator[Result]:
    writer = csv.writer(file, lineterminator="\r\n" if file is not sys.stdout else "\n")
    more = [name for number in range(2, paths + 1) for name in (f"text_{number}", f"score_{number}")]
    writer.writerow(["path", "text", "score", "error", *more])
    for item, result in zip(inputs, results, strict=True):
        writer.writerow([item.shown, *_csv_fields(result, paths)])
        yield result


def _csv_fields(result: Result, paths: int) -> list[str]:
    found = result.transcription
    if found is None:
        return ["", "", result.error, *[""] * (2 * paths - 2)]
    fields = [found.text, "" if found.score is None else f"{found.score:.4f}", ""]
    for number in range(1, paths):
        known = number < len(found.alternatives)
        other = found.alternatives[number] if known else None
        fields += [other.text, f"{other.log_prob - found.log_prob:.4f}"] if other else ["", ""]
    return fields


def _write_jsonl(file: IO[str], inputs: Sequence[Input], results: Iterable[Result], paths: int) -> Iterator[Result]:
    for item, result in zip(inputs, results, strict=True):
        found = result.transcription
        record = {"path": item.shown, "text": None, "score": None, "error": result.error or None}
        if found is not None:
            finite = found.score is not None and math.isfinite(found.score)
            record |= {"text": found.text, "score": found.score if finite else None, "log_prob": found.log_prob}
            record["alternatives"] = [
                {"text": other.text, "log_prob": other.log_prob} for other in found.alternatives[1:]
            ]
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        yield result


if __name__ == "__main__":
    Predict.main()
