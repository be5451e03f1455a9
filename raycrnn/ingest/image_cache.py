"""Decoded images kept in the object store, so that later epochs read no files.

The cache holds what is the same in every epoch (`image.decode_and_limit`); images are still augmented anew in each. The
command fills the cache while training runs, and a decoding task uses the images that are already there. A batch is the
same with the cache as without it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import ray

from raycrnn.cluster import TrainingAllocation, nodes
from raycrnn.config import Configuration, Image
from raycrnn.data import generated_lines, image, image_files
from raycrnn.data.augment import Augmenter
from raycrnn.data.orientation import LineOrientation
from raycrnn.data.rejections import Rejected
from raycrnn.errors import RaycrnnError
from raycrnn.ingest import map_ranges, packed_files
from raycrnn.ingest.sample_table import SampleTable

logger = logging.getLogger(__name__)

MAX_STORE_FRACTION = 0.25
"""Largest fraction of a node's object store that the cache may fill. Tasks on every node read all of the cache."""

IMAGES_PER_CHUNK = 512
MAX_CHUNK_BYTES = 32 * 2**20
MAX_CHUNKS = 256
"""Largest number of chunks: every task receives the references to all of them."""

CHUNKS_PER_EXECUTION = 4


@dataclass(frozen=True)
class ImageCache:
    """The chunks that are in the object store so far. Small; can be sent to any process."""

    chunks: tuple[ray.ObjectRef, ...]
    images_per_chunk: int

    def get(self, index: int) -> np.ndarray | None:
        """Return the decoded image [h, w, C] of a row of the sample table, or None if it is not in the cache."""
        chunk, row = divmod(index, self.images_per_chunk)
        if chunk >= len(self.chunks):
            return None
        try:
            table = _table(self.chunks[chunk])
        except ray.exceptions.RayError:
            # The chunk was lost with its node.
            return None
        shape = table["shape"][row].as_py()
        return np.frombuffer(table["pixels"][row].as_buffer(), np.uint8).reshape(shape) if shape else None


@lru_cache(maxsize=MAX_CHUNKS)
def _table(chunk: ray.ObjectRef) -> pa.Table:
    """Return a chunk, mapped from this node's object store without a copy."""
    return ray.get(chunk)


def images_per_chunk(samples: SampleTable) -> int:
    """Return how many images a chunk holds: few enough for a task's memory, but at most `MAX_CHUNKS` chunks in all."""
    by_size = MAX_CHUNK_BYTES * samples.usable // max(1, samples.decoded_bytes)
    return max(1, min(IMAGES_PER_CHUNK, by_size), -(-samples.usable // MAX_CHUNKS))


def max_bytes() -> int:
    """Return the largest size of the cache in bytes."""
    return int(MAX_STORE_FRACTION * nodes.smallest_object_store())


def should_cache(samples: SampleTable, configuration: Configuration) -> bool:
    """Return whether to keep the decoded images, by `data.keep_decoded` and by their size."""
    setting = configuration.data.keep_decoded
    return samples.decoded_bytes <= max_bytes() if setting == "auto" else setting


def is_augmented(settings: Configuration) -> bool:
    """Return whether images are augmented. Cached images depend on this, but not on the strengths."""
    return bool(Augmenter(settings.augmentation, settings.image.input_channels, settings.training.seed).strengths)


def describe(samples: SampleTable, cached: bool) -> str:
    """Return a log line that says whether the decoded images are kept in memory."""
    how = "kept in memory" if cached else "not kept in memory, files are read in every epoch"
    return f"decoded images are {how}: {samples.decoded_bytes / 1e6:,.0f} MB"


def fill_or_warn(
    samples: SampleTable,
    settings: Configuration,
    allocation: TrainingAllocation,
    publish: Callable[[ImageCache], bool],
) -> None:
    """Call `fill`; if it fails, log a warning, because training can go on without the rest of the cache."""
    try:
        fill(samples, settings, allocation, publish)
    except (RaycrnnError, ray.exceptions.RayError) as error:
        logger.warning(f"no more decoded images are kept in memory, their files are read in every epoch: {error}")


def fill(
    samples: SampleTable, settings: Configuration, allocation: TrainingAllocation, publish: Callable[[ImageCache], bool]
) -> None:
    """Decode all images, `CHUNKS_PER_EXECUTION` chunks at a time.

    Args:
        samples: The rows whose images are decoded.
        settings: The run's configuration.
        allocation: CPUs of the decoding tasks.
        publish: Called with the cache after each execution; if it returns False, filling ends.

    Raises:
        RaycrnnError: Ray Data returned an unexpected number of blocks.
    """
    size = images_per_chunk(samples)
    chunks = [(start, min(start + size, samples.usable)) for start in range(0, samples.usable, size)]
    make = partial(
        make_chunk, samples.without_lists(), settings.image, settings.data.line_orientation, is_augmented(settings)
    )
    references: list[ray.ObjectRef] = []
    for number in range(0, len(chunks), CHUNKS_PER_EXECUTION):
        ranges = chunks[number : number + CHUNKS_PER_EXECUTION]
        blocks = map_ranges.map_ranges(make, ranges, allocation)
        if len(blocks) != len(ranges):
            raise RaycrnnError(f"Ray Data made {len(blocks)} blocks of {len(ranges)} chunks")
        references += [ray.put(block) for block in blocks]
        if not publish(ImageCache(tuple(references), size)):
            return


CHUNK = pa.schema({"pixels": pa.large_binary(), "shape": pa.list_(pa.int32())})
"""One row per image: uint8 pixels and [h, w, C]. Null for generated lines, and where the file could not be
read: the reason may be temporary."""


def make_chunk(
    samples: SampleTable, settings: Image, orientation: LineOrientation, augmented: bool, first: int, stop: int
) -> pa.Table:
    """Decode the images of rows `first` … `stop` − 1 of a sample table into a table with the schema `CHUNK`."""
    images: list[np.ndarray | None] = []
    shape, channels = settings.input_shape, settings.input_channels
    paths = ray.get(samples.table)["path"].slice(first, stop - first).to_pylist()
    for path, read in image_files.iter_readers(paths, packed_files.finder(samples.packed)):
        try:
            decoded = None
            # A generated line looks different in each epoch.
            if generated_lines.parse_reference(path) is None:
                decoded = image.decode_and_limit(read(), shape, channels, augmented, orientation)
            images.append(decoded)
        except Rejected:
            images.append(None)
    pixels = [None if each is None else each.tobytes() for each in images]
    shapes = [None if each is None else each.shape for each in images]
    return pa.table({"pixels": pixels, "shape": shapes}, CHUNK)
