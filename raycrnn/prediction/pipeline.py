"""Transcribe images in the command's own process while that takes less time than Ray needs to start; then with Ray."""

import logging
import os
import queue
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from raycrnn import cluster
from raycrnn.console import ImageProgress, StopRequest
from raycrnn.data import rejections
from raycrnn.data.inputs import printable, to_table
from raycrnn.data.unusual_images import UnusualImages
from raycrnn.ingest.decoder_process import DecoderProcess
from raycrnn.model.transcription import Transcription
from raycrnn.prediction import formats, image_stage
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.tables import RESULTS

if TYPE_CHECKING:
    from raycrnn.prediction.local import LocalReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """The result for one image: a transcription, or why there is none."""

    transcription: Transcription | None
    rejected: rejections.Rejected | None
    size: tuple[int, int] | None = None
    """The upright width and height of the image in pixels, if it was read."""
    is_blank: bool = False
    """Whether all pixels of the image are equal."""


def _to_result(row: dict) -> Result:
    if row["rejected"]:
        return Result(None, rejections.Rejected(*row["rejected"]))
    return Result(Transcription.from_json(row), None, tuple(row["size"]), row["is_blank"])


PAUSE_SECONDS = 0.5
"""Seconds between two checks for a request to stop, and updates of the progress, while no image is finished."""


class Executor:
    """Transcribes images here or with Ray, for the duration of a `with` block.

    Args:
        address: Address of a Ray cluster. With an address or the environment variable RAY_ADDRESS, or when Ray is
            already running, Ray transcribes everything. Otherwise a local Ray is started when what is left of a job
            would take longer here than Ray takes to start.
    """

    def __init__(self, address: str | None = None):
        self._address = address
        self._stack = ExitStack()
        self._wants_ray = bool(address or os.environ.get("RAY_ADDRESS")) or _ray_is_running()
        self._is_connected = False
        self._local: tuple[PredictionJob, DecoderProcess] | None = None
        self._reader: LocalReader | None = None

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_: object) -> None:
        self._close_local()
        self._stack.close()

    def start_decoder(self, job: PredictionJob) -> None:
        """Start the process that decodes the images of a job, if it reads here, and return without waiting for it.

        Starting takes as long as importing torch, which this process can do meanwhile.
        """
        if self._reads_here(job):
            self._decoder(job)

    def transcribe(self, job: PredictionJob, paths: Sequence[str]) -> Iterator[Result]:
        """Transcribe the images at paths, and yield the results in their order. Raises the errors of `blocks`."""
        inputs = to_table((printable(path), path, None) for path in paths)
        progress = ImageProgress(len(inputs), describe_idle=self.describe_idle)
        blocks = self.blocks(job, inputs)
        try:
            for block in blocks:
                progress.add(len(block))
                yield from map(_to_result, block.to_pylist())
        finally:
            progress.close()
            blocks.close()

    def blocks(self, job: PredictionJob, inputs: pa.Table) -> Generator[pa.Table, None, None]:
        """Transcribe images, and yield tables of `tables.RESULTS` in their order.

        Whenever none has arrived for `PAUSE_SECONDS`, it yields an empty one.

        Args:
            job: The model.
            inputs: A table of `inputs.INPUTS`.

        Raises:
            UsageError: No cluster answers at the address, the job asks for more replicas than the cluster has CPUs, or
                there is no model.
            RaycrnnError: The model cannot be read or is a different one, Ray does not start, or its workers die
                repeatedly.
        """
        done = 0
        if len(inputs) and self._reads_here(job):
            decoder = self._decoder(job)
            for block in _with_pauses(lambda: self._local_reader(job, decoder).read_blocks(inputs)):
                done += len(block)
                yield block
        if done < len(inputs):
            self._connect(len(inputs) - done)
            from raycrnn.prediction import distributed

            yield from _with_pauses(lambda: distributed.read_blocks(job, inputs, done))

    def _reads_here(self, job: PredictionJob) -> bool:
        return not self._wants_ray and job.replicas is None

    def _decoder(self, job: PredictionJob) -> DecoderProcess:
        """Return the decoder of a job. Its process starts while the thread that reads imports torch."""
        if self._local is None or self._local[0] != job:
            self._close_local()
            self._local = job, image_stage.start_decoder(job.all_images)
        return self._local[1]

    def _local_reader(self, job: PredictionJob, decoder: DecoderProcess) -> "LocalReader":
        from raycrnn.prediction.local import LocalReader

        if self._reader is None:
            self._reader = LocalReader(job, decoder)
        return self._reader

    def _close_local(self) -> None:
        if self._local is not None:
            self._local[1].close()
        self._local = self._reader = None

    def _connect(self, left: int) -> None:
        if self._is_connected:
            return
        if self._local is not None:
            logger.info(f"{left:,} images are left: Ray is started to read them in parallel")
            self._close_local()
        self._stack.enter_context(cluster.connect(self._address))
        self._wants_ray = self._is_connected = True

    def describe_idle(self) -> str:
        """Return what to log about an idle run."""
        return cluster.describe_free_cpus() if self._is_connected else ""


def _ray_is_running() -> bool:
    # Not imported here, which takes a second.
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _with_pauses(read: Callable[[], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Yield the tables of an iterator, and an empty one whenever none has arrived for `PAUSE_SECONDS`."""
    from raycrnn.ingest.prefetch import Prefetcher

    blocks = Prefetcher(read, depth=1)
    try:
        while True:
            try:
                yield blocks.next_within(PAUSE_SECONDS)
            except queue.Empty:
                yield RESULTS.empty_table()
            except StopIteration:
                return
    finally:
        blocks.close()


class RowSink(Protocol):
    """Takes tables of `formats.ROWS`: a `formats.Writer` or a `shards.ShardWriter`."""

    def write(self, table: pa.Table) -> None: ...


@dataclass(frozen=True)
class PredictionMonitor:
    """What follows a prediction run."""

    progress: ImageProgress
    unusual: UnusualImages
    stop: StopRequest


def write_transcriptions(
    sink: RowSink, executor: Executor, job: PredictionJob, inputs: pa.Table, monitor: PredictionMonitor
) -> bool:
    """Transcribe images and write the rows to a sink; return False if a stop was requested before the end."""
    done, blocks = 0, executor.blocks(job, inputs)
    try:
        while done < len(inputs) and not monitor.stop.requested:
            block = next(blocks)
            names = inputs["name"].slice(done, len(block))
            sink.write(_rows(names, block))
            columns = names, block["size"], block["is_blank"]
            for name, size, is_blank in zip(*(column.to_pylist() for column in columns), strict=True):
                if size is not None:
                    monitor.unusual.add(name, size, is_blank=is_blank)
            done += len(block)
            monitor.progress.add(len(block))
    finally:
        monitor.progress.close()
        blocks.close()
    return done == len(inputs)


def _rows(names: pa.ChunkedArray, block: pa.Table) -> pa.Table:
    """Convert a table of `RESULTS` to one of `formats.ROWS`."""
    columns = {name: block[name] for name in block.column_names}
    columns |= {"path": names, "error": pc.binary_join(block["rejected"], ": ")}
    return pa.table(
        [columns[name].cast(kind) for name, kind in zip(formats.ROWS.names, formats.ROWS.types, strict=True)],
        formats.ROWS,
    )
