"""Scan images in the command's own process while that takes less time than Ray needs to start; then with Ray Data."""

import logging
import os
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raycrnn.checking import scan
from raycrnn.cluster import start_time
from raycrnn.console import ImageProgress, defer_stop
from raycrnn.errors import StorageError

logger = logging.getLogger(__name__)

IMAGES_PER_BLOCK = 1024
"""Images that are scanned between two updates of the progress, and that a task of Ray scans at least."""

MAX_IMAGES_PER_BLOCK, BLOCKS_PER_CPU = 4096, 4
"""Images of a task of Ray at most, and tasks for each CPU: Ray takes about 50 ms for a task, whatever its size."""

PAUSE_SECONDS = 0.5
"""Seconds between two checks for a request to stop, while Ray has finished no block."""


def scan_all(paths: Sequence[str], channels: int, address: str | None = None, import_seconds: float = 0.0) -> pa.Table:
    """Return the notes on all images, a table with the schema `scan.SCANNED`, in the order of the paths.

    Args:
        paths: Absolute paths or URIs.
        channels: 1 to decode the images to grey, 3 to RGB.
        address: Address of a Ray cluster. With an address or the environment variable RAY_ADDRESS, Ray Data scans all
            images.
        import_seconds: CPU time of this process when the imports of its command were done.

    Raises:
        UsageError: No cluster answers at the address.
        RaycrnnError: Ray does not start, or its workers die repeatedly.
        StorageError: Object storage fails.
    """
    progress = ImageProgress(len(paths))
    blocks: list[pa.Table] = []
    done = 0
    try:
        for block in _blocks(paths, channels, address, import_seconds):
            problems = block["problem"].drop_null()
            if len(problems):
                raise StorageError(problems[0].as_py())
            blocks.append(block)
            done += len(block)
            progress.add(len(block))
    finally:
        progress.close()
    return pa.concat_tables(blocks) if blocks else scan.SCANNED.empty_table()


def _blocks(paths: Sequence[str], channels: int, address: str | None, import_seconds: float) -> Iterator[pa.Table]:
    scanned = 0
    if not address and "RAY_ADDRESS" not in os.environ:
        start_seconds, first, since = start_time.estimate_start_seconds(import_seconds), 0, 0.0
        for block in _local_blocks(paths, channels):
            yield block
            scanned += len(block)
            if not first:
                # Not part of the rate, because the process that decodes has to start.
                first, since = scanned, time.monotonic()
                continue
            left = len(paths) - scanned
            seconds_left = (time.monotonic() - since) / (scanned - first) * left
            if start_time.is_worth_starting(seconds_left, start_seconds):
                logger.info(f"{left:,} images are left: Ray is started to read them in parallel")
                break
    if scanned < len(paths):
        yield from _ray_blocks(paths[scanned:], channels, address)


def _local_blocks(paths: Sequence[str], channels: int) -> Iterator[pa.Table]:
    if not paths:
        return
    decoder = scan.start_decoder(channels)
    try:
        yield from decoder.decode_ahead(pa.table({"path": part}) for part in _parts(paths, IMAGES_PER_BLOCK))
    finally:
        decoder.close()


def _parts(paths: Sequence[str], size: int) -> list[Sequence[str]]:
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def _ray_blocks(paths: Sequence[str], channels: int, address: str | None) -> Iterator[pa.Table]:
    from raycrnn import cluster
    from raycrnn.config import Cluster
    from raycrnn.ingest.prefetch import Prefetcher

    with cluster.connect(address), defer_stop() as stop:
        # An autoscaling cluster may consist of the head node only.
        cluster.wait_for_nodes(Cluster())
        # In a thread, because a KeyboardInterrupt in the middle of a callback of Ray's could get lost.
        blocks = Prefetcher(lambda: _read_with_ray(paths, channels), depth=1)
        try:
            while not stop.requested:
                try:
                    yield blocks.next_within(PAUSE_SECONDS)
                except queue.Empty:
                    yield scan.SCANNED.empty_table()
                except StopIteration:
                    return
        finally:
            blocks.close()
        raise KeyboardInterrupt


def _read_with_ray(paths: Sequence[str], channels: int) -> Iterator[pa.Table]:
    import ray.data

    from raycrnn import cluster
    from raycrnn.cluster import workers

    cpus = sum(cpus for cpus, _ in cluster.list_nodes())
    even = len(paths) // max(1, int(BLOCKS_PER_CPU * cpus))
    parts = _parts(paths, min(max(even, IMAGES_PER_BLOCK), MAX_IMAGES_PER_BLOCK))
    dataset = ray.data.from_arrow([pa.table({"path": part}) for part in parts]).map_batches(
        ScanBlock(channels), batch_format="pyarrow", batch_size=None, zero_copy_batch=True
    )
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True
    yield from workers.read_blocks(dataset)


@dataclass(frozen=True)
class ScanBlock:
    """The task from a table of paths to one of `scan.SCANNED`."""

    channels: int

    def __call__(self, table: pa.Table) -> pa.Table:
        from raycrnn.cluster.workers import check_deaths

        check_deaths("a worker that decodes images", "one of the images may crash its decoder")
        return scan.scan_block(table, self.channels)
