"""Rows -> batches of tensors, in the order that `order` gives, decoded in Ray's workers.

What is streamed are whole batches: batch `i` of a run, and the share of it that one worker takes, are pure functions
of the configuration, so a decoding task needs nothing but a range of batch numbers. Every worker streams its own
share, in order.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import ray

from raycrnn import config, image, order, ranges
from raycrnn.augment import Augmenter
from raycrnn.cluster import Plan
from raycrnn.dataset import SampleSet, check_frames
from raycrnn.keep import Kept
from raycrnn.samples import Rejected, Rejection

if TYPE_CHECKING:
    from raycrnn.learning import Batch

IMAGES_PER_TASK = 256
MOST_IMAGES_PER_TASK = 2048
"""A task is small at first, so that its batches come soon; while training has to wait tasks grow, so that what Ray
takes for each of them (some 50 ms) counts for little."""

TASKS_AT_FIRST = (1, 2, 4)
"""of the first executions of `ranges.execute`"""

MOST_BYTES = 256 * 2**20
"""of decoded images, by the set's mean width, in one execution; three are in the object store at a time"""

BATCHES_AT_FIRST = 4
"""Made by the worker itself, so that it need not wait for Ray Data's start, which takes some seconds."""

BATCHES_AHEAD = 4
"""Batches that wait as tensors in the worker."""


# --- decoding, in Ray's workers


@dataclass(frozen=True)
class Recipe:
    """All that a decoding task needs to make any batch of a run."""

    sample_set: SampleSet
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
    kept: Kept | None = None

    @property
    def batches_per_epoch(self) -> int:
        return order.batch_count(self.sample_set.usable, self.batch_size)


def train_recipe(settings: config.Configuration, sample_set: SampleSet, rank: int, world_size: int) -> Recipe:
    """The recipe of a worker's share of the training set."""
    return Recipe(
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


def eval_recipe(settings: config.Configuration, sample_set: SampleSet, rank: int, world_size: int) -> Recipe:
    """The recipe of a worker's share of the evaluation set: not augmented, by width."""
    recipe = train_recipe(settings, sample_set, rank, world_size)
    return replace(recipe, augmenter=None, weights=None, batch_size=settings.training.eval_batch_size)


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


def batches_of(recipe: Recipe, images: int) -> int:
    """So many that one worker's share of them holds about that many images."""
    return max(1, images * recipe.world_size // recipe.batch_size)


def bytes_of_batch(recipe: Recipe) -> int:
    """Size of one worker's share of a batch, by the mean width."""
    samples_each = max(1, recipe.batch_size // recipe.world_size)
    pixels = int(recipe.image.input_shape[0] * recipe.sample_set.mean_width) * recipe.image.input_channels
    return max(1, samples_each * pixels)


def warm_up(plan: Plan) -> None:
    """Start what Ray Data needs, before it is needed: its own actors, and a decoding worker with its imports."""
    ranges.execute(_no_block, [(0, 0)], 1, plan)


def _no_block(first: int, stop: int) -> pa.Table:
    return pa.table({})


def make_block(recipe: Recipe, first: int, stop: int) -> pa.Table:
    """One worker's share of a range of batches."""
    return pa.Table.from_pylist([make_batch(recipe, number) for number in range(first, stop)], BLOCK)


def make_batch(recipe: Recipe, number: int) -> dict:
    """Decode one worker's share of a batch: a row of `BLOCK`. What cannot be used is left out and listed."""
    rows = _rows(recipe.sample_set.table)
    epoch, position = divmod(number, recipe.batches_per_epoch)
    places, passes = (
        order.worker_share(of_batch, recipe.rank, recipe.world_size) for of_batch in _epoch(recipe, epoch)[position]
    )
    images, taken, rejected = [], [], []
    paths = rows.paths(places)
    read = image.reading([path for place, path in zip(places, paths, strict=True) if not _is_kept(recipe, place)])
    for place, path, times in zip(places, paths, passes.tolist(), strict=True):
        try:
            images.append(_load(recipe, rows, int(place), partial(read, path), times))
            taken.append(place)
        except Rejected as error:
            where = (recipe.sample_set.csvs[rows.source[place]], int(rows.line[place]), path)
            rejected.append([int(rows.row[place]), *where, error.reason, error.detail])
    height, channels = recipe.image.input_shape[0], recipe.image.input_channels
    blank = np.zeros((height, image.LEAST_WIDTH, channels), np.uint8)
    images_BCHW, widths_B = image.collate(images or [blank])
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


def _epoch(recipe: Recipe, epoch: int) -> order.Epoch:
    table, size = recipe.sample_set.table, recipe.batch_size
    if recipe.augmenter is None:
        return _eval_epoch(table, size)
    return _train_epoch(table, size, recipe.by_area, recipe.weights, recipe.seed, epoch)


@lru_cache(maxsize=1)
def _eval_epoch(table: ray.ObjectRef, batch_size: int) -> order.Epoch:
    return order.eval_epoch(_rows(table).width, batch_size)


@lru_cache(maxsize=2)
def _train_epoch(
    table: ray.ObjectRef, batch_size: int, by_area: bool, weights: tuple[float, ...] | None, seed: int, epoch: int
) -> order.Epoch:
    rows = _rows(table)
    sources = order.Sources(rows.source, weights) if weights else None
    return order.train_epoch(rows.width, batch_size, seed, epoch, by_area, sources)


def _is_kept(recipe: Recipe, place: int) -> bool:
    return recipe.kept is not None and recipe.kept.find(int(place)) is not None


def _load(recipe: Recipe, rows: _Rows, place: int, read: Callable[[], bytes], times: int) -> np.ndarray:
    shape, channels = recipe.image.input_shape, recipe.image.input_channels
    if recipe.augmenter is None:
        return image.prepare(read(), shape, channels)
    augment = recipe.augmenter.of(times, int(rows.row[place]))
    begun = recipe.kept.find(place) if recipe.kept else None
    if begun is None:
        begun = image.begin(read(), shape, channels, augment is not None)
    array = image.finish(begun, shape, augment)
    if rows.frames[place] > image.frames(array.shape[1]):
        # Augmentation may narrow an image; a sample that is good without it stays.
        array = image.prepare(read(), shape, channels)
        check_frames(len(rows.codes(place)), int(rows.frames[place]), array.shape[1])
    return array


# --- batches, in the training worker

T = TypeVar("T")


@dataclass
class Stream:
    """One worker's share of the batches `first` … `stop` − 1, in order; close it to end the decoding."""

    recipe: Recipe
    plan: Plan
    first: int
    stop: int
    pin_memory: bool = False
    ask_kept: Callable[[], Kept | None] = lambda: None
    """what is kept of the set's images by now"""
    waited: float = 0.0
    """seconds that the consumer waited for batches"""
    pixels: int = 0
    """columns of pixels in the batches so far"""
    padding: int = 0
    """of them those that only make images as wide as the widest"""
    rejected: dict[int, Rejection] = field(default_factory=dict)
    """what was left out so far, by row number"""
    _images_per_task: int = IMAGES_PER_TASK

    def __iter__(self) -> "Iterator[Batch]":
        ahead = Ahead(self._read, BATCHES_AHEAD)
        try:
            for batch, rejected in ahead:
                self.waited += ahead.waited
                self.rejected.update(rejected)
                if len(batch):
                    pixels = len(batch) * batch.images_BCHW.shape[3]
                    self.pixels += pixels
                    self.padding += pixels - int(batch.widths_B.sum())
                yield batch
        finally:
            ahead.close()

    def _read(self) -> "Iterator[tuple[Batch, dict[int, Rejection]]]":
        executions = Ahead(self._executions, depth=1)
        try:
            at_first = make_block(replace(self.recipe, kept=self.ask_kept()), self.first, self._after_first())
            yield from (_to_batch(at_first, row, self.pin_memory) for row in range(len(at_first)))
            for number, blocks in enumerate(executions):
                if number >= len(TASKS_AT_FIRST) and executions.waited > 0.05:
                    self._images_per_task = min(2 * self._images_per_task, MOST_IMAGES_PER_TASK)
                for block in blocks:
                    table = ray.get(block)
                    for row in range(len(table)):
                        yield _to_batch(table, row, self.pin_memory)
        finally:
            executions.close()

    def _after_first(self) -> int:
        return min(self.first + BATCHES_AT_FIRST, self.stop)

    def _executions(self) -> Iterator[list[ray.ObjectRef]]:
        """Blocks of whole batches, execution by execution."""
        first, at_first = self._after_first(), iter(TASKS_AT_FIRST)
        bytes_each = bytes_of_batch(self.recipe)
        while first < self.stop:
            step = min(batches_of(self.recipe, self._images_per_task), max(1, MOST_BYTES // bytes_each))
            most = max(1, MOST_BYTES // (bytes_each * step))
            tasks = min(next(at_first, max(TASKS_AT_FIRST[-1], 8 * self.plan.decode_tasks)), most)
            stop = min(first + tasks * step, self.stop)
            starts = range(first, stop, step)
            make = partial(make_block, replace(self.recipe, kept=self.ask_kept()))
            parts = [(start, min(start + step, stop)) for start in starts]
            yield ranges.execute(make, parts, step * bytes_each, self.plan)
            first = stop


def _to_batch(block: pa.Table, row: int, pin_memory: bool) -> "tuple[Batch, dict[int, Rejection]]":
    # Imported here: the decoding tasks share this module and do without torch's memory and seconds.
    import torch

    from raycrnn.learning import Batch

    def tensor(name: str, kind: type) -> torch.Tensor:
        # A copy, because the object store's memory is read-only and given back when the block goes.
        return torch.from_numpy(np.frombuffer(block[name][row].as_buffer(), kind).copy())

    images_BCHW = tensor("images", np.uint8).view(block["shape"][row].as_py())
    numbers = [tensor(name, np.int64) for name in ("widths", "codes", "lengths", "rows")]
    batch = Batch(images_BCHW.pin_memory() if pin_memory else images_BCHW, *numbers)
    rejected = json.loads(block["rejected"][row].as_py())
    return batch, {number: Rejection(*fields) for number, *fields in rejected}


class Ahead(Iterator[T]):
    """An iterator run ahead of its consumer in a thread, by at most `depth` items."""

    waited: float = 0.0
    """seconds that the consumer waited for the last item"""

    def __init__(self, make: Callable[[], Iterator[T]], depth: int):
        self._items: queue.Queue = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make,), daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[], Iterator[T]]) -> None:
        try:
            for item in make():
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, pair: tuple) -> bool:
        """Wait for room; False once closed."""
        while not self._closed.is_set():
            try:
                self._items.put(pair, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> T:
        return self.within(None)

    def within(self, seconds: float | None) -> T:
        """The next item. Raises `StopIteration` at the end, `queue.Empty` if none comes within so many seconds."""
        start = time.perf_counter()
        item, error = self._items.get(timeout=seconds)
        self.waited = time.perf_counter() - start
        if error is not None:
            self._items.put((None, error))
            raise error
        return item

    def close(self) -> None:
        self._closed.set()
        # It may be waiting for Ray; as a daemon it ends with the process.
        self._thread.join(timeout=2)
