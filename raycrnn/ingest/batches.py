"""Rows -> batches of tensors, in the order that `order` gives, decoded in Ray's workers.

What is streamed are whole batches: batch `i` of a run, and the share of it that one worker takes, are pure functions
of the configuration, so a decoding task needs nothing but a range of batch numbers. Every worker streams its own
share, in order.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import ray

from raycrnn import config
from raycrnn.cluster import TrainingAllocation
from raycrnn.data import batch_order, image_files
from raycrnn.data.augment import Augmenter
from raycrnn.data.image import MIN_WIDTH, augment_and_fit, collate, decode_and_limit, frames, prepare
from raycrnn.data.rejections import Rejected
from raycrnn.ingest import map_ranges
from raycrnn.ingest.image_cache import ImageCache
from raycrnn.ingest.sample_table import SampleTable, check_frames

IMAGES_PER_TASK = 256
MOST_IMAGES_PER_TASK = 2048
"""A task is small at first, so that its batches come soon; while training has to wait tasks grow, so that what Ray
takes for each of them (some 50 ms) counts for little."""

MOST_BYTES = 256 * 2**20
"""of decoded images, by the set's mean width, in one execution; three are in the object store at a time"""


# --- decoding, in Ray's workers


@dataclass(frozen=True)
class BatchSpec:
    """All that a decoding task needs to make any batch of a run."""

    sample_set: SampleTable
    image: config.Image
    batch_size: int
    """global: over all workers"""
    by_area: bool
    weights: tuple[float, ...] | None
    """of the set's CSVs"""
    seed: int
    augmenter: Augmenter | None
    """None: evaluation, one pass in the order of width"""
    rank: int
    world_size: int
    image_cache: ImageCache | None = None

    @property
    def batches_per_epoch(self) -> int:
        return batch_order.batch_count(self.sample_set.usable, self.batch_size)


def train_batch_spec(settings: config.Configuration, sample_set: SampleTable, rank: int, world_size: int) -> BatchSpec:
    """The spec of a worker's share of the training set."""
    return BatchSpec(
        sample_set=replace(sample_set, rejections=(), warnings=()),
        image=settings.image,
        batch_size=settings.training.train_batch_size,
        by_area=settings.training.batch_by == "area",
        weights=settings.data.train_weights,
        seed=settings.training.seed,
        augmenter=Augmenter(settings.augmentation, settings.image.input_channels, settings.training.seed),
        rank=rank,
        world_size=world_size,
    )


def eval_batch_spec(settings: config.Configuration, sample_set: SampleTable, rank: int, world_size: int) -> BatchSpec:
    """The spec of a worker's share of the evaluation set: not augmented, by width."""
    spec = train_batch_spec(settings, sample_set, rank, world_size)
    return replace(spec, augmenter=None, weights=None, batch_size=settings.training.eval_batch_size)


BLOCK = pa.schema(
    {
        "images": pa.large_binary(),
        "shape": pa.list_(pa.int64()),
        "widths": pa.binary(),
        "codes": pa.binary(),
        "lengths": pa.binary(),
        "rows": pa.binary(),
        "rejected": pa.string(),
    }
)
"""One row a batch; all but the images is int64. `rejected` is a JSON list of `Rejection` fields, each with its row
number first."""


def batches_of(spec: BatchSpec, images: int) -> int:
    """So many that one worker's share of them holds about that many images."""
    return max(1, images * spec.world_size // spec.batch_size)


def bytes_of_batch(spec: BatchSpec) -> int:
    """Size of one worker's share of a batch, by the mean width."""
    samples_each = max(1, spec.batch_size // spec.world_size)
    pixels = int(spec.image.input_shape[0] * spec.sample_set.mean_width) * spec.image.input_channels
    return max(1, samples_each * pixels)


def warm_up(allocation: TrainingAllocation) -> None:
    """Start what Ray Data needs, before it is needed: its own actors, and a decoding worker with its imports."""
    map_ranges.map_ranges(_no_block, [(0, 0)], 1, allocation)


def _no_block(first: int, stop: int) -> pa.Table:
    return pa.table({})


def make_block(spec: BatchSpec, first: int, stop: int) -> pa.Table:
    """One worker's share of a range of batches."""
    return pa.Table.from_pylist([make_batch(spec, number) for number in range(first, stop)], BLOCK)


def make_batch(spec: BatchSpec, number: int) -> dict:
    """Decode one worker's share of a batch: a row of `BLOCK`. What cannot be used is left out and listed."""
    rows = _rows(spec.sample_set.table)
    epoch, position = divmod(number, spec.batches_per_epoch)
    places, passes = (
        batch_order.worker_share(of_batch, spec.rank, spec.world_size) for of_batch in _epoch(spec, epoch)[position]
    )
    images, taken, rejected = [], [], []
    paths = rows.paths(places)
    read = image_files.prefetching_reader(
        [path for place, path in zip(places, paths, strict=True) if not _is_kept(spec, place)]
    )
    for place, path, times in zip(places, paths, passes.tolist(), strict=True):
        try:
            images.append(_load(spec, rows, int(place), partial(read, path), times))
            taken.append(place)
        except Rejected as error:
            where = (spec.sample_set.csvs[rows.source[place]], int(rows.line[place]), path)
            rejected.append([int(rows.row[place]), *where, error.reason, error.detail])
    height, channels = spec.image.input_shape[0], spec.image.input_channels
    blank = np.zeros((height, MIN_WIDTH, channels), np.uint8)
    images_BCHW, widths_B = collate(images or [blank])
    codes = [rows.codes(place) for place in taken]
    return {
        # Not a view, which pyarrow would never let go again.
        "images": images_BCHW.tobytes(),
        "shape": images_BCHW.shape,
        "widths": widths_B.tobytes(),
        "codes": np.concatenate(codes or [()]).astype(np.int64).tobytes(),
        "lengths": np.array([len(label) for label in codes], np.int64).tobytes(),
        "rows": rows.row[taken].tobytes(),
        "rejected": json.dumps(rejected),
    }


class _Rows:
    """The columns of a set's table, for access by place."""

    def __init__(self, table: pa.Table):
        table = table.combine_chunks()
        self._paths = table["path"]
        self.row, self.source, self.line, self.frames, self.width = (
            table[name].to_numpy() for name in ("row", "source", "line", "frames", "width")
        )
        labels = table["codes"].chunk(0) if len(table) else pa.array([], pa.list_(pa.int32()))
        self._bounds, self._codes = labels.offsets.to_numpy(), labels.values.to_numpy()

    def paths(self, places: np.ndarray) -> list[str]:
        return self._paths.take(places).to_pylist()

    def codes(self, place: int) -> np.ndarray:
        return self._codes[self._bounds[place] : self._bounds[place + 1]]


@lru_cache(maxsize=2)
def _rows(table: ray.ObjectRef) -> _Rows:
    return _Rows(ray.get(table))


def _epoch(spec: BatchSpec, epoch: int) -> batch_order.Epoch:
    table, size = spec.sample_set.table, spec.batch_size
    if spec.augmenter is None:
        return _eval_epoch(table, size)
    return _train_epoch(table, size, spec.by_area, spec.weights, spec.seed, epoch)


@lru_cache(maxsize=1)
def _eval_epoch(table: ray.ObjectRef, batch_size: int) -> batch_order.Epoch:
    return batch_order.eval_epoch(_rows(table).width, batch_size)


@lru_cache(maxsize=2)
def _train_epoch(
    table: ray.ObjectRef, batch_size: int, by_area: bool, weights: tuple[float, ...] | None, seed: int, epoch: int
) -> batch_order.Epoch:
    rows = _rows(table)
    sources = batch_order.Sources(rows.source, weights) if weights else None
    return batch_order.train_epoch(rows.width, batch_size, seed, epoch, by_area, sources)


def _is_kept(spec: BatchSpec, place: int) -> bool:
    return spec.image_cache is not None and spec.image_cache.get(int(place)) is not None


def _load(spec: BatchSpec, rows: _Rows, place: int, read: Callable[[], bytes], times: int) -> np.ndarray:
    shape, channels = spec.image.input_shape, spec.image.input_channels
    if spec.augmenter is None:
        return prepare(read(), shape, channels)
    augment = spec.augmenter.for_sample(times, int(rows.row[place]))
    begun = spec.image_cache.get(place) if spec.image_cache else None
    if begun is None:
        begun = decode_and_limit(read(), shape, channels, augment is not None)
    array = augment_and_fit(begun, shape, augment)
    if rows.frames[place] > frames(array.shape[1]):
        # Augmentation may narrow an image; a sample that is good without it stays.
        array = prepare(read(), shape, channels)
        check_frames(len(rows.codes(place)), int(rows.frames[place]), array.shape[1])
    return array
