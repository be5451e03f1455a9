"""The verb predict: images in, text out, streamed through Ray Data."""

import itertools
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AliasChoices, Field
from pydantic_settings import CliPositionalArg

from raycrnn import storage
from raycrnn.cli import Command, Metavar
from raycrnn.config import is_override
from raycrnn.console import ImageProgress, defer_stop
from raycrnn.data.inputs import is_one_of, list_inputs
from raycrnn.errors import UsageError
from raycrnn.model.model_dir import file_digests
from raycrnn.model.recognizer import Recognizer
from raycrnn.prediction import formats, run, shards
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.pipeline import write_transcriptions
from raycrnn.prediction.run import FORMATS

# Not __name__, which is "__main__" under python -m.
logger = logging.getLogger("raycrnn.predict")


class Predict(Command):
    """Transcribe images, given as files, folders or CSVs (whose labels are ignored).

    Writes one row per image, in input order: path, text, score and error, then text_2, score_2 and so on, as many as
    decoding.num_beam_paths. The score is the difference in log-probability to the second-best transcription (empty for
    greedy decoding); score_2 and so on are log-probabilities relative to the best one. JSON Lines and Parquet also
    contain the confidence, which is the probability that a text is exact.
    """

    model: CliPositionalArg[str]
    """Model directory, such as output/model."""
    inputs: CliPositionalArg[Annotated[list[str], Metavar("INPUT")]] = Field(min_length=1)
    """Images, folders and .csv files, and settings of decoding as KEY=VALUE, such as decoding.num_beam_paths=3."""
    output: Annotated[str | None, Metavar("FILE")] = Field(None, validation_alias=AliasChoices("o", "output"))
    """File to write. Its suffix selects the format: .csv or .txt (CSV), .jsonl (JSON Lines) or .parquet. Default: CSV
    on stdout."""
    overwrite: bool = False
    """Replace an existing output, and the partial output of a run that was stopped."""
    resume: bool = False
    """Resume a run with the same output that was stopped."""
    format: formats.Format | None = None
    """Format of the output. Default: the one that the name of the output selects."""
    confidence: bool = False
    """Add a column with the confidence to CSV. The other formats always have it."""
    spans: bool = False
    """Add the position in the image and the confidence of each unit to JSON Lines and Parquet."""
    replicas: int | None = Field(None, ge=1)
    """Number of copies of the model that run in parallel. Default: one per GPU, or without GPUs one per CPU."""
    address: Annotated[str | None, Metavar("ADDRESS")] = None
    """Ray cluster to run on. Default: the environment variable RAY_ADDRESS, else a local Ray."""

    def run(self) -> int:
        overrides = [text for text in self.inputs if is_override(text)]
        # First, so that a model that is replaced from here on is noticed.
        found = file_digests(self.model)
        configuration = Recognizer.load(self.model, "cpu", overrides).configuration
        layout = self._layout(configuration.decoding.num_beam_paths)
        inputs = list_inputs([text for text in self.inputs if text not in overrides], configuration.data)
        self._check_output(inputs)
        job = PredictionJob(self.model, configuration.image, tuple(overrides), self.spans, self.replicas, found)
        if self._is_stream:
            read = self._stream(job, inputs, layout)
        else:
            read = self._write(job, inputs, layout, run.identity(found, configuration, self.spans, inputs))
        if read is None:
            return 130
        logger.info(f"{read} of {len(inputs)} images read")
        return 0 if read else 1

    def _layout(self, readings: int) -> formats.Layout:
        """Raises `UsageError` for options that do not go together."""
        name = self.output or ""
        suffix = Path(name.partition("?")[0] if self._is_remote else name).suffix
        found = self.format or FORMATS.get(suffix.lower())
        if found is None:
            raise UsageError(
                f"{self.output}: {suffix} is no format: end the name in .csv, .jsonl or .parquet, or set "
                "--format=csv, jsonl or parquet"
            )
        if found == "parquet" and self.output is None:
            raise UsageError("Parquet is nothing for a terminal: name a file, -o transcriptions.parquet")
        if self.spans and found == "csv":
            raise UsageError("--spans: CSV has no place for them: --format=jsonl or --format=parquet")
        return formats.Layout(found, readings, self.confidence, self.spans)

    def _check_output(self, inputs: pa.Table) -> None:
        """Raises `UsageError` if the output is no file's name, the model's, one of the inputs, or there already."""
        if self.resume and self._is_stream:
            raise UsageError("--resume goes on with a file: name it with -o")
        if self.output is None:
            return
        try:
            is_folder, exists = storage.is_folder(self._place), storage.exists(self._place)
        except OSError as error:
            raise UsageError(f"{self.output}: cannot be written: {storage.describe(error)}") from None
        if is_folder:
            raise UsageError(f"{self.output or repr('')}: is a directory and not the name of a file to write")
        if self._is_in_model:
            raise UsageError(f"{self.output}: lies in the model directory, where only the model is; name another place")
        if exists and not self._is_stream:
            self._check_replaced(inputs)

    def _check_replaced(self, inputs: pa.Table) -> None:
        """Raises `UsageError` if the output is one of the inputs, or is not to be replaced."""
        read = itertools.chain(self.inputs, (each for chunk in inputs["path"].chunks for each in chunk.to_pylist()))
        if is_one_of(self._place, read):
            raise UsageError(f"{self.output}: is one of the inputs; name another output")
        if self.overwrite:
            return
        if self.resume and not storage.Directory(shards.folder_of(self._place)).entries():
            raise UsageError(f"{self.output}: already there, and nothing to resume; --overwrite replaces it")
        how = (
            "--resume --overwrite goes on with the run that is to replace it"
            if self.resume
            else "--overwrite replaces it"
        )
        raise UsageError(f"{self.output}: already there; {how}")

    @property
    def _is_remote(self) -> bool:
        return self.output is not None and storage.is_uri(self.output)

    @property
    def _is_stream(self) -> bool:
        """Whether it is stdout, a pipe or a device, which is written to as it is."""
        if self.output is None:
            return True
        path = Path(self.output)
        return not self._is_remote and path.exists() and not path.is_file() and not path.is_dir()

    @property
    def _place(self) -> str:
        """Where the output is, whatever links lead there; a URI as it is."""
        return self.output if self._is_remote else os.path.realpath(self.output)

    @property
    def _is_in_model(self) -> bool:
        if self._is_remote != storage.is_uri(self.model):
            return False
        where = (lambda uri: storage.locate(uri)[1]) if self._is_remote else os.path.realpath
        return Path(where(self.output)).is_relative_to(where(self.model))

    def _stream(self, job: PredictionJob, inputs: pa.Table, layout: formats.Layout) -> int | None:
        """Write to stdout, a pipe or a device, as it is; returns how many images were read, None after Ctrl-C."""
        if self.output is None:
            return self._write_to(sys.stdout, job, inputs, layout)
        with formats.open_file(Path(self.output), layout) as file:
            return self._write_to(file, job, inputs, layout)

    def _write_to(self, file: Any, job: PredictionJob, inputs: pa.Table, layout: formats.Layout) -> int | None:
        from raycrnn import cluster

        with cluster.connect(self.address), defer_stop() as request:
            writer = formats.make_writer(file, layout)
            whole = write_transcriptions(
                writer, job, inputs, ImageProgress(len(inputs), describe_idle=cluster.describe_free_cpus), request
            )
            writer.close()
        return writer.read if whole else None

    def _write(self, job: PredictionJob, inputs: pa.Table, layout: formats.Layout, same: dict[str, Any]) -> int | None:
        """Write a file, by shards; returns how many images were read, None after Ctrl-C."""
        with shards.open_shards(self._place, same, len(inputs), self.resume, self.overwrite) as parts:
            missing = parts.missing()
            if missing and not self._fill(parts, missing, job, inputs):
                return None
            return parts.finish(layout)

    def _fill(
        self, parts: shards.ShardStore, missing: Sequence[tuple[int, int]], job: PredictionJob, inputs: pa.Table
    ) -> bool:
        """Make the shards that are missing; False if Ctrl-C was pressed meanwhile."""
        from raycrnn import cluster

        done = len(inputs) - sum(stop - first for first, stop in missing)
        progress = ImageProgress(len(inputs), done, cluster.describe_free_cpus)
        if progress.done:
            logger.info(f"{progress.done:,} of {len(inputs):,} images were read before")
        with cluster.connect(self.address), defer_stop() as request:
            for first, stop in missing:
                filling = shards.ShardWriter(parts, first)
                whole = write_transcriptions(filling, job, inputs.slice(first, stop - first), progress, request)
                filling.close()
                if not whole:
                    logger.info(
                        f"stopped at {progress.done:,} of {progress.total:,} images; --resume goes on from there"
                    )
                    return False
        return True


if __name__ == "__main__":
    Predict.main()
