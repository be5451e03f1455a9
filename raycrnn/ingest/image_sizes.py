"""Sizes of images in pixels: measured by their headers, and kept in the output directory for those behind URIs."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from raycrnn import storage
from raycrnn.data import image, image_heads
from raycrnn.data.image_files import SIZES_FILE
from raycrnn.data.rejections import Rejected
from raycrnn.data.usable_rows import Size
from raycrnn.storage import Directory

logger = logging.getLogger(__name__)

SIZES = pa.schema({"path": pa.string(), "width": pa.int32(), "height": pa.int32()})
"""Schema of the file: one row for each image behind a URI that could be measured."""

ROWS_PER_MEASURING_TASK = 20_000
"""Local images that one task measures, and the most that the command measures itself. One takes about 0.1 ms."""

REQUESTS_AT_A_TIME = storage.CONNECTIONS
"""Images in object storage that are measured at a time. An image takes two requests, and each takes 10 to 100 ms."""

IMAGES_PER_PART = 4096
"""Images in object storage after which the progress may be logged."""

SECONDS_BETWEEN_LINES = 10.0
"""Least seconds between two log lines about the progress."""


class ImageSizes:
    """The sizes of the images of a run.

    Images behind URIs are measured once, and `SIZES_FILE` in the output directory keeps their sizes: measuring takes
    two requests for each image, and a resumed run must make the same batches.

    Args:
        output: The output directory; None to keep nothing.
        others: Output directories of other runs, whose sizes are used as well.
    """

    def __init__(self, output: Directory | None = None, *others: Directory):
        self._output, self._others = output, others
        self._known: dict[str, Size] | None = None

    def measure(self, paths: Sequence[str]) -> list[Size | Rejected]:
        """Return the size of each image, or why it cannot be used.

        Raises:
            StorageError: Object storage fails. What was measured until then is kept.
        """
        local = [path for path in paths if not storage.is_uri(path)]
        measured: dict[str, Size | Rejected] = dict(zip(local, _measure_local(local), strict=True))
        if len(local) < len(paths):
            measured |= self._measure_remote([path for path in dict.fromkeys(paths) if storage.is_uri(path)])
        return [measured[path] for path in paths]

    def _measure_remote(self, uris: Sequence[str]) -> dict[str, Size | Rejected]:
        if self._known is None:
            self._known = self._read()
        known, rejected = self._known, dict[str, Rejected]()
        missing = [uri for uri in uris if uri not in known]
        if missing:
            logger.info(f"measuring {len(missing):,} images in object storage{self._place()}")
        before, last_line = len(known), time.monotonic()
        readers = ThreadPoolExecutor(REQUESTS_AT_A_TIME)
        try:
            for start in range(0, len(missing), IMAGES_PER_PART):
                part = missing[start : start + IMAGES_PER_PART]
                for uri, size in zip(part, readers.map(_measure_uri, part), strict=True):
                    if isinstance(size, Rejected):
                        rejected[uri] = size
                    else:
                        known[uri] = size
                if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                    last_line = time.monotonic()
                    logger.info(f"measured {start + len(part):,} of {len(missing):,} images")
        finally:
            readers.shutdown(cancel_futures=True)
            if len(known) > before:
                self._write(known)
        return {uri: rejected[uri] if uri in rejected else known[uri] for uri in uris}

    def _place(self) -> str:
        return f"; {self._output}/{SIZES_FILE} keeps their sizes" if self._output else ""

    def _read(self) -> dict[str, Size]:
        """Read the files with sizes. One that cannot be read is measured anew, with a warning."""
        import pyarrow.parquet as pq

        known: dict[str, Size] = {}
        for directory in filter(None, (*self._others, self._output)):
            directory.fetch(SIZES_FILE)
            if not (directory.path / SIZES_FILE).exists():
                continue
            try:
                columns = pq.read_table(directory.path / SIZES_FILE, schema=SIZES).columns
            except (OSError, pa.ArrowException) as error:
                logger.warning(f"{directory}/{SIZES_FILE}: cannot be read, the images are measured again: {error}")
                continue
            paths, widths, heights = (column.to_pylist() for column in columns)
            known.update(zip(paths, zip(widths, heights, strict=True), strict=True))
        return known

    def _write(self, known: dict[str, Size]) -> None:
        """Write the sizes. If that fails, log a warning: the next command can measure the images again."""
        import pyarrow.parquet as pq

        if self._output is None:
            return
        widths, heights = zip(*known.values(), strict=True)
        table = pa.table([list(known), widths, heights], SIZES)
        try:
            with storage.replacing_file(self._output.path / SIZES_FILE) as temporary:
                pq.write_table(table, temporary, compression="zstd")
            if self._output.uri:
                # Not `sync`, which also deletes files: another command may still write to this directory.
                storage.upload(self._output.path / SIZES_FILE, storage.join(self._output.uri, SIZES_FILE))
        except OSError as error:
            logger.warning(f"{self._output}/{SIZES_FILE}: cannot be written: {storage.describe(error)}")


def _measure_local(paths: Sequence[str]) -> list[Size | Rejected]:
    if len(paths) <= ROWS_PER_MEASURING_TASK:
        return _measure_files(paths)
    # Ray must not be imported before its environment is set, and few images need no Ray.
    import ray

    starts = range(0, len(paths), ROWS_PER_MEASURING_TASK)
    # A whole CPU, Ray's default, may not be free. With 0 CPUs, tasks would also run on a head node that has none.
    measure = ray.remote(num_cpus=0.1)(_measure_files)
    chunks = [measure.remote(paths[start : start + ROWS_PER_MEASURING_TASK]) for start in starts]
    return [size for chunk in chunks for size in ray.get(chunk)]


def _measure_files(paths: Sequence[str]) -> list[Size | Rejected]:
    sizes: list[Size | Rejected] = []
    for path in paths:
        try:
            sizes.append(image.measure(path))
        except Rejected as rejected:
            sizes.append(rejected)
    return sizes


def _measure_uri(uri: str) -> Size | Rejected:
    try:
        return image_heads.measure(uri)
    except Rejected as rejected:
        return rejected
