"""Decoded images kept in the object store, so that later epochs read no file.

What is kept of an image is what every epoch does alike (`image.begin`); augmentation stays fresh. The command fills
the store while training runs, and a decoding task takes from it what is there already: both ways give the same batch.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raycrnn.cluster import TrainingAllocation
from raycrnn.config import Configuration
from raycrnn.data import image, image_files
from raycrnn.data.augment import Augmenter
from raycrnn.data.rejections import Rejected
from raycrnn.errors import RaycrnnError
from raycrnn.ingest import map_ranges
from raycrnn.ingest.sample_table import SampleTable

logger = logging.getLogger(__name__)

MOST_OF_STORE = 0.25
"""Share of a node's object store that may be filled: tasks on every node read all of it."""

IMAGES_PER_CHUNK = 512
MOST_CHUNK_BYTES = 32 * 2**20
MOST_CHUNKS = 256
"""A list of references is read by every task."""

CHUNKS_AT_A_TIME = 4


@dataclass(frozen=True)
class ImageCache:
    """The chunks that are there so far. Small, and safe to send anywhere."""

    chunks: tuple[ray.ObjectRef, ...]
    images_per_chunk: int

    def find(self, place: int) -> np.ndarray | None:
        """What `image.begin` made of the image at a place of the set's table; None: it is not there, read the file."""
        chunk, row = divmod(place, self.images_per_chunk)
        if chunk >= len(self.chunks):
            return None
        try:
            table = _table(self.chunks[chunk])
        except ray.exceptions.RayError:
            # Lost with its node; the files are still there.
            return None
        shape = table["shape"][row].as_py()
        return np.frombuffer(table["pixels"][row].as_buffer(), np.uint8).reshape(shape) if shape else None


def images_per_chunk(sample_set: SampleTable) -> int:
    """Few enough that a chunk can be made in memory, unless that makes more chunks than a task can look through."""
    by_size = MOST_CHUNK_BYTES * sample_set.usable // max(1, sample_set.decoded_bytes)
    return max(1, min(IMAGES_PER_CHUNK, by_size), -(-sample_set.usable // MOST_CHUNKS))


def bytes_allowed() -> int:
    """That may be kept, by the smallest object store of the cluster."""
    stores = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]]
    return int(MOST_OF_STORE * min(stores))


def fits(sample_set: SampleTable, configuration: Configuration) -> bool:
    """Whether to keep a set's decoded images, by `data.keep_decoded` and by their size."""
    wanted = configuration.data.keep_decoded
    return sample_set.decoded_bytes <= bytes_allowed() if wanted == "auto" else wanted


def is_augmented(settings: Configuration) -> bool:
    """Whether images are augmented: what is kept of them depends on it, but not on how strongly."""
    return bool(Augmenter(settings.augmentation, settings.image.input_channels, settings.training.seed).strengths)


def describe(sample_set: SampleTable, kept: bool) -> str:
    """What becomes of the decoded images, for the log."""
    how = "kept in memory" if kept else "not kept in memory, but read every epoch"
    return f"decoded images are {how}: {sample_set.decoded_bytes / 1e6:,.0f} MB"


def fill_beside(
    sample_set: SampleTable, settings: Configuration, allocation: TrainingAllocation, image_cache_registry: Any
) -> None:
    """`fill` a image_cache_registry (a `monitor.Monitor`) while training runs. It is a help and no need: what fails is said."""

    def tell(kept: ImageCache) -> bool:
        return ray.get(image_cache_registry.set_image_cache.remote(kept))

    try:
        fill(sample_set, settings, allocation, tell)
    except (RaycrnnError, ray.exceptions.RayError) as error:
        logger.warning(f"decoded images are no longer kept, but read every epoch: {error}")


def fill(
    sample_set: SampleTable, settings: Configuration, allocation: TrainingAllocation, tell: Callable[[ImageCache], bool]
) -> None:
    """Decode the whole set, a few chunks at a time; after each, `tell` takes what there is and may end it (False)."""
    each = images_per_chunk(sample_set)
    starts = range(0, sample_set.usable, each)
    chunks = [(start, min(start + each, sample_set.usable)) for start in starts]
    shape, channels = settings.image.input_shape, settings.image.input_channels
    make = partial(make_chunk, sample_set.table, shape, channels, is_augmented(settings))
    bytes_each = sample_set.decoded_bytes // len(chunks)
    references: list[ray.ObjectRef] = []
    for number in range(0, len(chunks), CHUNKS_AT_A_TIME):
        wanted = chunks[number : number + CHUNKS_AT_A_TIME]
        blocks = map_ranges.map_ranges(make, wanted, bytes_each, allocation)
        if len(blocks) != len(wanted):
            raise RaycrnnError(f"Ray Data made {len(blocks)} blocks of {len(wanted)} chunks")
        references += blocks
        if not tell(ImageCache(tuple(references), each)):
            return


CHUNK = pa.schema({"pixels": pa.large_binary(), "shape": pa.list_(pa.int32())})
"""One row an image: uint8 pixels and [h, w, C]; null where the file gives none, for then the reason may pass."""


def make_chunk(
    table: ray.ObjectRef, input_shape: tuple[int, int], channels: int, augmented: bool, first: int, stop: int
) -> pa.Table:
    """Decode the images of a range of a set's rows."""
    pixels, shapes = [], []
    paths = ray.get(table)["path"].slice(first, stop - first).to_pylist()
    for _, read in image_files.iter_readers(paths):
        try:
            begun = image.decode_and_limit(read(), input_shape, channels, augmented)
            pixels.append(begun.tobytes())
            shapes.append(begun.shape)
        except Rejected:
            pixels.append(None)
            shapes.append(None)
    return pa.table({"pixels": pixels, "shape": shapes}, CHUNK)


@lru_cache(maxsize=MOST_CHUNKS)
def _table(chunk: ray.ObjectRef) -> pa.Table:
    """Mapped, not copied, from the object store of this node."""
    return ray.get(chunk)
