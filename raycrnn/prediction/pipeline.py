"""Reading images through Ray Data: decoding tasks, and replicas of the model."""

import logging
import queue
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycrnn import cluster, storage
from raycrnn.config import Cluster
from raycrnn.console import ImageProgress, StopRequest
from raycrnn.data import rejections
from raycrnn.data.inputs import printable, to_table
from raycrnn.errors import RaycrnnError
from raycrnn.model.transcription import Transcription
from raycrnn.prediction import formats, resources
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.stages import RESULTS, Decode, Transcriber

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What became of one image: a transcription or an error."""

    transcription: Transcription | None
    rejected: rejections.Rejected | None


def transcribe(job: PredictionJob, paths: Sequence[str]) -> Iterator[Result]:
    """Transcribe the images at paths through Ray Data; the results come in their order. See `read_blocks`."""
    inputs = to_table((printable(path), path, None) for path in paths)
    progress, blocks = ImageProgress(len(inputs), describe_idle=cluster.describe_free_cpus), _pulses(job, inputs)
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


PULSE_SECONDS = 0.5
"""So often Ctrl-C is looked for, and progress shown, while no images are done."""


def write_transcriptions(
    sink: Any, job: PredictionJob, inputs: pa.Table, progress: ImageProgress, stop: StopRequest
) -> bool:
    """Read images and write the rows, as `writers.ROWS`, into a sink; False if Ctrl-C was pressed meanwhile."""
    done, blocks = 0, _pulses(job, inputs)
    try:
        while done < len(inputs) and not stop.requested:
            block = next(blocks)
            sink.write(_rows(inputs["name"].slice(done, len(block)), block))
            done += len(block)
            progress.add(len(block))
    finally:
        progress.close()
        blocks.close()
    return done == len(inputs)


def _pulses(job: PredictionJob, inputs: pa.Table) -> Generator[pa.Table, None, None]:
    """`read_blocks`, and tables without rows while none come."""
    from raycrnn.ingest.prefetch import Prefetcher

    done, blocks = 0, Prefetcher(lambda: read_blocks(job, inputs), depth=1)
    try:
        while done < len(inputs):
            try:
                block = blocks.next_within(PULSE_SECONDS)
            except queue.Empty:
                block = RESULTS.empty_table()
            done += len(block)
            yield block
    finally:
        blocks.close()


def _rows(shown: pa.ChunkedArray, block: pa.Table) -> pa.Table:
    """A block of `RESULTS` as `writers.ROWS`."""
    columns = {name: block[name] for name in block.column_names}
    columns |= {"path": shown, "error": pc.binary_join(block["rejected"], ": ")}
    return pa.table(
        [columns[name].cast(kind) for name, kind in zip(formats.ROWS.names, formats.ROWS.types, strict=True)],
        formats.ROWS,
    )


def read_blocks(job: PredictionJob, inputs: pa.Table) -> Iterator[pa.Table]:
    """Read images through Ray Data: tables of `RESULTS`, in the order of the inputs.

    Raises:
        UsageError: more replicas than there is room for.
        RaycrnnError: replicas cannot read the model, find another one, or die again and again. What a worker that is
            killed was at, Ray gives to another.
    """
    import ray.data

    from raycrnn import cluster

    if not len(inputs):
        return
    # A cluster may have a head alone as yet.
    cluster.wait_for_nodes(Cluster())
    plan = resources.allocate_replicas(len(inputs), job)
    wanted = inputs.select(["path", "problem"])
    tables = [wanted.slice(start, plan.images_per_block) for start in range(0, len(inputs), plan.images_per_block)]
    dataset = ray.data.from_arrow(tables)
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True
    dataset = dataset.map_batches(
        Decode(job.image),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        num_cpus=plan.decode_cpus,
    ).map_batches(
        Transcriber,
        fn_constructor_args=(storage.absolute(job.model), job.overrides, plan.threads, job.spans, job.digests),
        compute=ray.data.ActorPoolStrategy(size=plan.count),
        num_cpus=plan.cpus,
        num_gpus=plan.gpus,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayError as error:
        raise RaycrnnError(_why(error) or f"workers were lost: {error}") from None


def _why(error: Exception) -> str | None:
    """What a worker said that ended by an error of ours: Ray has but the text of its stack trace."""
    found = re.findall(r"^raycrnn\.errors\.\w+: (.+?)(?:\n\n|\Z)", str(error), re.MULTILINE | re.DOTALL)
    return f"in a worker: {found[-1].strip()}" if found else None
