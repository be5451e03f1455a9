"""Batches of decoded images, made in Ray's decoding tasks.

Batch `i` of a run, and each worker's share of it, are pure functions of the configuration (`batch_order`). A decoding
task therefore needs only a range of batch numbers, every worker streams its own shares in order, and after a resume or
with another number of workers the batches are the same.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TypedDict

import numpy as np
import pyarrow as pa
import ray

from raycrnn import config, storage
from raycrnn.cluster import TrainingAllocation
from raycrnn.data import batch_order, generated_lines, image_files
from raycrnn.data.augment import Augmenter
from raycrnn.data.image import MIN_WIDTH, augment_and_fit, collate, decode_and_limit, frames, prepare
from raycrnn.data.orientation import LineOrientation
from raycrnn.data.rejections import Rejected
from raycrnn.data.usable_rows import check_frames
from raycrnn.errors import StorageError
from raycrnn.ingest import map_ranges, packed_files
from raycrnn.ingest.image_cache import ImageCache
from raycrnn.ingest.sample_table import SampleTable


@dataclass(frozen=True)
class BatchSpec:
    """All that a decoding task needs to make one worker's share of any batch of a run."""

    samples: SampleTable
    image: config.Image
    orientation: LineOrientation
    """How the lines run in the images."""
    batch_size: int
    """Images in a batch, over all workers."""
    by_area: bool
    """Whether batches have about the same total width instead of the same number of images."""
    weights: tuple[float, ...] | None
    """Sampling weight of each CSV; None: every row once an epoch."""
    seed: int
    augmenter: Augmenter | None
    """None for evaluation, which takes one pass in the order of width."""
    rank: int
    world_size: int
    image_cache: ImageCache | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        draws = batch_order.count_draws(self.samples.rows_of_source, self.weights, self.samples.endless)
        return batch_order.batch_count(draws, self.batch_size)


def train_batch_spec(settings: config.Configuration, samples: SampleTable, rank: int, world_size: int) -> BatchSpec:
    """Return the spec of a worker's share of the training batches."""
    return BatchSpec(
        samples=samples.without_lists(),
        image=settings.image,
        orientation=settings.data.line_orientation,
        batch_size=settings.training.train_batch_size,
        by_area=settings.training.batch_by == "area",
        weights=settings.data.train_weights,
        seed=settings.training.seed,
        augmenter=Augmenter(settings.augmentation, settings.image.input_channels, settings.training.seed),
        rank=rank,
        world_size=world_size,
    )


def eval_batch_spec(settings: config.Configuration, samples: SampleTable, rank: int, world_size: int) -> BatchSpec:
    """Return the spec of a worker's share of the evaluation batches: not augmented, in the order of width."""
    spec = train_batch_spec(settings, samples, rank, world_size)
    return replace(spec, augmenter=None, weights=None, batch_size=settings.training.eval_batch_size)


def batch_bytes(spec: BatchSpec) -> int:
    """Return the size in bytes of one worker's share of a batch, by the mean width of the images."""
    images = max(1, spec.batch_size // spec.world_size)
    pixels = int(spec.image.input_shape[0] * spec.samples.mean_width) * spec.image.input_channels
    return max(1, images * pixels)


def warm_up(allocation: TrainingAllocation) -> None:
    """Start Ray Data's actors, and a decoding process with its imports, before they are needed."""
    map_ranges.map_ranges(_empty_block, [(0, 0)], allocation)


def _empty_block(first: int, stop: int) -> pa.Table:
    return pa.table({})


BLOCK = pa.schema(
    {
        "images": pa.large_binary(),
        "shape": pa.list_(pa.int64()),
        "widths": pa.binary(),
        "codes": pa.binary(),
        "lengths": pa.binary(),
        "rows": pa.binary(),
        "rejected": pa.string(),
        "changed": pa.string(),
        "problem": pa.string(),
    }
)
"""Schema of a block, with one row per batch. `images` is uint8 [B, C, H, W], the other binary columns are int64.
`rejected` is a JSON list with the row number and the fields of each `Rejection`. `changed` is the URI of an image whose
width is not the measured one. `problem` says why object storage did not deliver the images; the batch is then empty. It
is not raised as an error in the task, because all workers have to learn of it in the same step."""


class BlockRow(TypedDict):
    """A row with the schema `BLOCK`."""

    images: bytes
    shape: tuple[int, ...]
    widths: bytes
    codes: bytes
    lengths: bytes
    rows: bytes
    rejected: str
    changed: str | None
    problem: str | None


def make_block(spec: BatchSpec, first: int, stop: int) -> pa.Table:
    """Return one worker's shares of the batches `first` … `stop` − 1, or up to one that storage does not deliver."""
    rows = []
    for number in range(first, stop):
        rows.append(make_batch(spec, number))
        if rows[-1]["problem"] is not None:
            break
    return pa.Table.from_pylist(rows, BLOCK)


def has_problem(block: pa.Table) -> bool:
    """Return whether a block ends with a batch that object storage did not deliver."""
    return len(block) > 0 and block["problem"][len(block) - 1].is_valid


def make_batch(spec: BatchSpec, number: int) -> BlockRow:
    """Decode one worker's share of a batch. Samples that cannot be used are left out and listed."""
    rows = _rows(spec.samples.table)
    epoch, position = divmod(number, spec.batches_per_epoch)
    indices, passes = (
        batch_order.worker_share(part, spec.rank, spec.world_size) for part in _epoch(spec, epoch)[position]
    )
    share, problem = DecodedShare(), None
    try:
        _decode(spec, rows, indices, passes, share)
    except StorageError as error:
        share, problem = DecodedShare(), str(error)
    height, channels = spec.image.input_shape[0], spec.image.input_channels
    empty = np.zeros((height, MIN_WIDTH, channels), np.uint8)
    images_BCHW, widths_B = collate(share.images or [empty])
    codes = [rows.codes(index) for index in share.indices]
    return {
        # A copy: pyarrow would never free the memory of a view.
        "images": images_BCHW.tobytes(),
        "shape": images_BCHW.shape,
        "widths": widths_B.tobytes(),
        "codes": np.concatenate([np.zeros(0, np.int64), *codes]).astype(np.int64).tobytes(),
        "lengths": np.array([len(label) for label in codes], np.int64).tobytes(),
        "rows": rows.row[share.indices].tobytes(),
        "rejected": json.dumps(share.rejected),
        "changed": share.changed,
        "problem": problem,
    }


@dataclass
class DecodedShare:
    """The images of one worker's share of a batch."""

    images: list[np.ndarray] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    """Index in the sample table of each image."""
    rejected: list[list[object]] = field(default_factory=list)
    """The row number and the fields of the `Rejection` of each sample that cannot be used."""
    changed: str | None = None
    """URI of an image whose width is not the measured one."""


def _decode(spec: BatchSpec, rows: "_Rows", indices: np.ndarray, passes: np.ndarray, share: DecodedShare) -> None:
    """Decode the images of some rows of the sample table into a share. Raises `StorageError`."""
    paths = [generated_lines.with_variant(path, times) for path, times in zip(rows.paths(indices), passes, strict=True)]
    missing = [path for index, path in zip(indices, paths, strict=True) if _cached(spec, index) is None]
    read = image_files.prefetching_reader(missing, packed_files.finder(spec.samples.packed))
    for index, path, times in zip(indices.tolist(), paths, passes.tolist(), strict=True):
        try:
            is_new = generated_lines.parse_reference(path) is not None
            image = _load(spec, rows, index, partial(read, path), times, is_new)
        except Rejected as error:
            csv, line = spec.samples.csv_paths[rows.source[index]], int(rows.line[index])
            share.rejected.append([int(rows.row[index]), csv, line, path, error.reason, error.detail])
            continue
        share.images.append(image)
        share.indices.append(index)
        # Two roundings, to twice the height and to the height, may make one column of difference.
        if abs(image.shape[1] - rows.width[index]) > 1 and storage.is_uri(path):
            share.changed = path


class _Rows:
    """The columns of a sample table as arrays."""

    def __init__(self, table: pa.Table):
        table = table.combine_chunks()
        self._paths = table["path"]
        self.row, self.source, self.line, self.frames, self.width = (
            table[name].to_numpy() for name in ("row", "source", "line", "frames", "width")
        )
        labels = table["codes"].chunk(0) if len(table) else pa.array([], pa.list_(pa.int32()))
        self._bounds, self._codes = labels.offsets.to_numpy(), labels.values.to_numpy()

    def paths(self, indices: np.ndarray) -> list[str]:
        return self._paths.take(indices).to_pylist()

    def codes(self, index: int) -> np.ndarray:
        return self._codes[self._bounds[index] : self._bounds[index + 1]]


@lru_cache(maxsize=2)
def _rows(table: ray.ObjectRef) -> _Rows:
    return _Rows(ray.get(table))


def _epoch(spec: BatchSpec, epoch: int) -> batch_order.Epoch:
    table, size = spec.samples.table, spec.batch_size
    if spec.augmenter is None:
        return _eval_epoch(table, size)
    return _train_epoch(table, size, spec.by_area, spec.weights, spec.samples.endless, spec.seed, epoch)


@lru_cache(maxsize=1)
def _eval_epoch(table: ray.ObjectRef, batch_size: int) -> batch_order.Epoch:
    return batch_order.eval_epoch(_rows(table).width, batch_size)


@lru_cache(maxsize=2)
def _train_epoch(
    table: ray.ObjectRef,
    batch_size: int,
    by_area: bool,
    weights: tuple[float, ...] | None,
    endless: tuple[bool, ...],
    seed: int,
    epoch: int,
) -> batch_order.Epoch:
    rows = _rows(table)
    sources = batch_order.Sources(rows.source, weights, endless) if weights else None
    return batch_order.train_epoch(rows.width, batch_size, seed, epoch, by_area, sources)


def _cached(spec: BatchSpec, index: int) -> np.ndarray | None:
    return spec.image_cache.get(int(index)) if spec.image_cache else None


def _load(spec: BatchSpec, rows: _Rows, index: int, read: Callable[[], bytes], times: int, is_new: bool) -> np.ndarray:
    """Return an image [H, W, C], augmented if the spec says so."""
    shape, channels = spec.image.input_shape, spec.image.input_channels
    if spec.augmenter is None:
        return prepare(read(), shape, channels, None, spec.orientation)
    augment = spec.augmenter.for_sample(times, int(rows.row[index]), is_new)
    decoded = _cached(spec, index)
    if decoded is None:
        decoded = decode_and_limit(read(), shape, channels, augment is not None, spec.orientation)
    fitted = augment_and_fit(decoded, shape, augment)
    if rows.frames[index] > frames(fitted.shape[1]):
        # Scaled in two steps, an augmented image may be a pixel narrower, and so have a frame less.
        fitted = prepare(read(), shape, channels, None, spec.orientation)
        check_frames(len(rows.codes(index)), int(rows.frames[index]), fitted.shape[1])
    return fitted
