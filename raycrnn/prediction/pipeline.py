"""Transcribe images through Ray Data, with decoding tasks and replicas of the model."""

import logging
import queue
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from raycrnn import cluster, storage
from raycrnn.config import Cluster
from raycrnn.console import ImageProgress, StopRequest
from raycrnn.data import rejections
from raycrnn.data.inputs import printable, to_table
from raycrnn.data.unusual_images import UnusualImages
from raycrnn.errors import RaycrnnError
from raycrnn.model.transcription import Transcription
from raycrnn.prediction import formats, resources
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.stages import RESULTS, Decode, Transcriber

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """The result for one image: a transcription, or why there is none."""

    transcription: Transcription | None
    rejected: rejections.Rejected | None


def transcribe(job: PredictionJob, paths: Sequence[str]) -> Iterator[Result]:
    """Transcribe the images at paths through Ray Data, and yield the results in their order. See `read_blocks`."""
    inputs = to_table((printable(path), path, None) for path in paths)
    progress = ImageProgress(len(inputs), describe_idle=cluster.describe_free_cpus)
    blocks = _blocks_with_pauses(job, inputs)
    try:
        for block in blocks:
            progress.add(len(block))
            yield from map(_to_result, block.to_pylist())
    finally:
        progress.close()
        blocks.close()


def _to_result(row: dict) -> Result:
    if row["rejected"]:
        return Result(None, rejections.Rejected(*row["rejected"]))
    return Result(Transcription.from_json(row), None)


PAUSE_SECONDS = 0.5
"""Seconds between two checks for a request to stop, and updates of the progress, while no image is finished."""


class RowSink(Protocol):
    """Takes tables of `formats.ROWS`: a `formats.Writer` or a `shards.ShardWriter`."""

    def write(self, table: pa.Table) -> None: ...


def write_transcriptions(
    sink: RowSink,
    job: PredictionJob,
    inputs: pa.Table,
    progress: ImageProgress,
    stop: StopRequest,
    unusual: UnusualImages,
) -> bool:
    """Transcribe images and write the rows to a sink; return False if a stop was requested before the end.

    Args:
        unusual: Counts the images.
    """
    done, blocks = 0, _blocks_with_pauses(job, inputs)
    try:
        while done < len(inputs) and not stop.requested:
            block = next(blocks)
            names = inputs["name"].slice(done, len(block))
            sink.write(_rows(names, block))
            columns = names, block["size"], block["is_blank"]
            for name, size, is_blank in zip(*(column.to_pylist() for column in columns), strict=True):
                if size is not None:
                    unusual.add(name, size, is_blank=is_blank)
            done += len(block)
            progress.add(len(block))
    finally:
        progress.close()
        blocks.close()
    return done == len(inputs)


def _blocks_with_pauses(job: PredictionJob, inputs: pa.Table) -> Generator[pa.Table, None, None]:
    """Yield the tables of `read_blocks`, and an empty one whenever none has arrived for `PAUSE_SECONDS`."""
    from raycrnn.ingest.prefetch import Prefetcher

    done, blocks = 0, Prefetcher(lambda: read_blocks(job, inputs), depth=1)
    try:
        while done < len(inputs):
            try:
                block = blocks.next_within(PAUSE_SECONDS)
            except queue.Empty:
                block = RESULTS.empty_table()
            done += len(block)
            yield block
    finally:
        blocks.close()


def _rows(names: pa.ChunkedArray, block: pa.Table) -> pa.Table:
    """Convert a table of `RESULTS` to one of `formats.ROWS`."""
    columns = {name: block[name] for name in block.column_names}
    columns |= {"path": names, "error": pc.binary_join(block["rejected"], ": ")}
    return pa.table(
        [columns[name].cast(kind) for name, kind in zip(formats.ROWS.names, formats.ROWS.types, strict=True)],
        formats.ROWS,
    )


def read_blocks(job: PredictionJob, inputs: pa.Table) -> Iterator[pa.Table]:
    """Transcribe images through Ray Data, and yield tables of `RESULTS` in the order of the inputs.

    If a worker is killed, Ray repeats its work on another one.

    Raises:
        UsageError: the job asks for more replicas than the cluster has CPUs.
        RaycrnnError: replicas cannot read the model, find a different one, or die repeatedly.
    """
    import ray.data

    if not len(inputs):
        return
    # An autoscaling cluster may consist of the head node only.
    cluster.wait_for_nodes(Cluster())
    allocation = resources.allocate_replicas(len(inputs), job)
    size = allocation.images_per_block
    columns = inputs.select(["path", "problem"])
    dataset: ray.data.Dataset = ray.data.from_arrow(
        [columns.slice(start, size) for start in range(0, len(inputs), size)]
    )
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True
    dataset = dataset.map_batches(
        Decode(job.image),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        num_cpus=allocation.decode_cpus,
    ).map_batches(
        Transcriber,
        fn_constructor_args=(storage.absolute(job.model), job.overrides, allocation.threads, job.spans, job.digests),
        compute=ray.data.ActorPoolStrategy(size=allocation.count),
        num_cpus=allocation.cpus,
        num_gpus=allocation.gpus,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayError as error:
        raise RaycrnnError(_message_of_worker(error) or f"workers were lost: {error}") from None


def _message_of_worker(error: Exception) -> str | None:
    """Return the message if a worker failed with an error of raycrnn. Ray passes on only the text of its traceback."""
    found = re.findall(r"^raycrnn\.errors\.\w+: (.+?)(?:\n\n|\Z)", str(error), re.MULTILINE | re.DOTALL)
    return f"in a worker: {found[-1].strip()}" if found else None
