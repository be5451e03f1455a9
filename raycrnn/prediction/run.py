"""Transcribe many images into one file: check the output, and write it."""

import hashlib
import itertools
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from raycrnn import __version__, storage
from raycrnn.config import Configuration, Data
from raycrnn.console import ImageProgress, StopRequest, defer_stop
from raycrnn.data.image_files import is_whole_file
from raycrnn.data.inputs import is_one_of
from raycrnn.data.unusual_images import UnusualImages
from raycrnn.errors import UsageError
from raycrnn.model.model_names import directory_of
from raycrnn.prediction import formats, shards
from raycrnn.prediction.formats import LabelFormat, Layout
from raycrnn.prediction.job import Format, PredictionJob
from raycrnn.prediction.pipeline import Executor, PredictionMonitor, write_transcriptions

logger = logging.getLogger(__name__)

FORMATS: dict[str, Format] = {
    "": "csv",
    ".csv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
}
"""Formats by the suffix of the output; an output with another suffix needs --format."""


def _identity(job: PredictionJob, configuration: Configuration, inputs: pa.Table) -> dict[str, object]:
    """Return what a resumed run must have in common with the run that it resumes."""
    decoding = configuration.decoding.model_dump(mode="json")
    return {
        "raycrnn": __version__,
        **{f"the model's {name}": {"sha256": digest} for name, digest in (job.digests or {}).items()},
        **{f"decoding.{key}": value for key, value in decoding.items()},
        "the lexicon": {"sha256": job.lexicon.digest if job.lexicon else None},
        "the language model": {"sha256": job.language_model.digest if job.language_model else None},
        # Of data.*, only these keys affect transcriptions, apart from the list of images.
        "data.unicode_form": configuration.data.unicode_form,
        "data.line_orientation": configuration.data.line_orientation,
        "--spans or --format=labels": job.spans,
        "images": len(inputs),
        "the list of images": {"sha256": _digest(inputs)},
    }


def _digest(inputs: pa.Table) -> str:
    digest = hashlib.sha256()
    for batch in inputs.to_batches():
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Output:
    """Where a prediction run writes."""

    name: str | None
    """Path or URI as the user typed it; None for stdout."""
    resume: bool = False
    """Whether to resume a run with this output that was stopped."""
    overwrite: bool = False
    """Whether to replace an existing output, or start over if a run with this output was stopped."""

    @property
    def is_uri(self) -> bool:
        """Whether the output is in object storage."""
        return self.name is not None and storage.is_uri(self.name)

    @property
    def is_stream(self) -> bool:
        """Whether the output is stdout, a pipe or a device, which rows are written to directly."""
        if self.name is None:
            return True
        path = Path(self.name)
        return not self.is_uri and path.exists() and not path.is_file() and not path.is_dir()

    @property
    def place(self) -> str:
        """The path of the output on the disk, with symbolic links resolved; a URI unchanged; empty for stdout."""
        if self.name is None or self.is_uri:
            return self.name or ""
        return os.path.realpath(storage.as_on_disk(self.name))

    def layout(self, format: Format | None, readings: int, confidence: bool, spans: bool) -> Layout:
        """Return the layout of the output.

        Args:
            format: None selects it by the suffix of the name.

        Raises:
            UsageError: the options contradict each other.
        """
        suffix = Path((self.name or "").partition("?")[0] if self.is_uri else self.name or "").suffix
        chosen = format or FORMATS.get(suffix.lower())
        if chosen is None:
            raise UsageError(
                f"{self.name}: unknown format {suffix}: end the name in .csv, .jsonl or .parquet, or set "
                "--format=csv, jsonl, parquet or labels"
            )
        if chosen == "parquet" and self.name is None:
            raise UsageError("Parquet cannot be written to stdout: name a file, -o transcriptions.parquet")
        if spans and chosen == "csv":
            raise UsageError("--spans: CSV cannot hold spans: set --format=jsonl or --format=parquet")
        for option, given in (("--spans", spans), ("--confidence", confidence)):
            if given and chosen == "labels":
                raise UsageError(f"{option}: labels have no place for it: remove it, or choose another --format")
        return Layout(chosen, readings, confidence, spans)

    def label_format(self, inputs: pa.Table, settings: Data) -> LabelFormat:
        """Return what the format `labels` needs.

        Args:
            inputs: the images.
            settings: those of the model, whose delimiters and Unicode form the CSV gets.

        Raises:
            UsageError: an image is not a file of its own.
        """
        paths = inputs["path"]
        for batch in inputs.to_batches():
            for name, path in zip(batch["name"].to_pylist(), batch["path"].to_pylist(), strict=True):
                if not is_whole_file(os.fsdecode(path)):
                    raise UsageError(
                        f"{name}: is in a packed data set, and labels name files: name the images, or choose another "
                        "--format"
                    )
        if self.is_uri:
            return LabelFormat(paths, None, settings)
        # Not of the output itself, which may be a link: training starts at the folder of the name that it is given.
        folder = os.path.dirname(storage.as_on_disk(self.name)) if self.name and not self.is_stream else ""
        return LabelFormat(paths, os.path.realpath(folder), settings)

    def check(self, models: Sequence[str], names: Sequence[str], inputs: pa.Table) -> None:
        """Check that the output may be written.

        Args:
            models: paths or URIs of the model directories.
            names: the inputs as the user typed them.
            inputs: the images that they stand for.

        Raises:
            UsageError: the output is a directory, has no folder, is in the model directory, is one of the inputs, or
                exists.
        """
        if self.resume and self.is_stream:
            raise UsageError("--resume needs the file that the run to resume writes: name it with -o")
        if self.name is None:
            return
        exists = storage.check_output_file(self.place, self.name)
        if any(map(self._is_in, models)):
            raise UsageError(f"{self.name}: is in the model directory, which holds only the model; name another place")
        if exists and not self.is_stream:
            self._check_replaceable(names, inputs)

    def _is_in(self, model: str) -> bool:
        if self.is_uri != storage.is_uri(model):
            return False
        if self.is_uri:
            return Path(storage.locate(self.place)[1]).is_relative_to(storage.locate(model)[1])
        return Path(self.place).is_relative_to(os.path.realpath(directory_of(model)))

    def _check_replaceable(self, names: Sequence[str], inputs: pa.Table) -> None:
        read = itertools.chain(names, (path for chunk in inputs["path"].chunks for path in chunk.to_pylist()))
        if is_one_of(self.place, read):
            raise UsageError(f"{self.name}: is one of the inputs; name another output")
        if self.overwrite:
            return
        if self.resume and not storage.Directory(shards.folder_of(self.place)).entries():
            raise UsageError(f"{self.name}: already exists, and there is no run to resume; --overwrite replaces it")
        if self.resume:
            raise UsageError(f"{self.name}: already exists; --resume --overwrite resumes the run that replaces it")
        raise UsageError(f"{self.name}: already exists; --overwrite replaces it")


def predict(
    job: PredictionJob,
    configuration: Configuration,
    inputs: pa.Table,
    output: Output,
    layout: Layout,
    address: str | None,
) -> int | None:
    """Transcribe images and write the output.

    Args:
        configuration: of the model, with the overrides of the job.
        address: of the Ray cluster.

    Returns:
        How many images were read; None if a signal stopped the run.
    """
    with defer_stop() as stop, Executor(address) as executor:
        if output.name is None:
            return _stream(sys.stdout, executor, job, inputs, layout, stop)
        if output.is_stream:
            with formats.open_file(Path(output.name), layout) as file:
                return _stream(file, executor, job, inputs, layout, stop)
        identity = _identity(job, configuration, inputs)
        with shards.open_shards(output.place, identity, len(inputs), output.resume, output.overwrite) as store:
            if not _fill(store, executor, job, inputs, stop):
                return None
            return store.finish(layout)


def _stream(
    file: IO, executor: Executor, job: PredictionJob, inputs: pa.Table, layout: Layout, stop: StopRequest
) -> int | None:
    writer = formats.make_writer(file, layout)
    monitor = _monitor(executor, job, inputs, 0, stop)
    finished = write_transcriptions(writer, executor, job, inputs, monitor)
    writer.close()
    _warn(monitor.unusual)
    return writer.read if finished else None


def _fill(
    store: shards.ShardStore,
    executor: Executor,
    job: PredictionJob,
    inputs: pa.Table,
    stop: StopRequest,
) -> bool:
    """Write the missing shards; return False if a signal stopped it."""
    missing = store.missing()
    done = len(inputs) - sum(end - first for first, end in missing)
    if done:
        logger.info(f"{done:,} of {len(inputs):,} images were read before")
    monitor = _monitor(executor, job, inputs, done, stop)
    for first, end in missing:
        writer = shards.ShardWriter(store, first)
        finished = write_transcriptions(writer, executor, job, inputs.slice(first, end - first), monitor)
        writer.close()
        if not finished:
            done, total = monitor.progress.done, monitor.progress.total
            logger.info(f"stopped at {done:,} of {total:,} images; --resume continues from there")
            return False
    _warn(monitor.unusual)
    return True


def _monitor(
    executor: Executor, job: PredictionJob, inputs: pa.Table, done: int, stop: StopRequest
) -> PredictionMonitor:
    progress = ImageProgress(len(inputs), done, executor.describe_idle)
    return PredictionMonitor(progress, UnusualImages(job.image.input_shape, job.orientation), stop)


def _warn(unusual: UnusualImages) -> None:
    for warning in unusual.warnings():
        logger.warning(warning)
