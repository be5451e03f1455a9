"""CSV -> Ray Dataset -> batches of tensors.

The rows of all CSVs are put into the object store once. What is streamed are whole batches: batch `i` of a run,
and the share of it that one worker takes, are pure functions of the configuration, so a decoding task needs
nothing but a range of batch numbers. Every worker streams its own share, in order.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raycrnn import config, image, order, samples
from raycrnn.alphabet import Alphabet
from raycrnn.augment import Augmenter
from raycrnn.cluster import Plan
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.samples import UNKNOWN, Rejected, Rejection

if TYPE_CHECKING:
    from raycrnn.learning import Batch

IMAGES_PER_TASK = 256
"""Large enough that a task's overhead (some 10 ms) is small, small enough that the first batch comes soon."""

TASKS_AT_FIRST = (1, 2, 4)
MOST_TASKS = 32
"""Tasks of one execution of the dataset. While Ray holds back a dataset whose consumer is slower, its executor
spins and takes half a core from the training beside it. So each execution is short and runs to its end, and the
next one begins when its turn comes near. The first are short, so that training starts; later ones grow when
training had to wait, up to what keeps a GPU fed."""

MOST_BYTES = 256 * 2**20
"""of decoded images, by the set's mean width, in one execution; three are in the object store at a time"""

BATCHES_AHEAD = 4
"""Batches that wait as tensors in the worker."""


# --- rows

SAMPLES = pa.schema(
    {
        "row": pa.int64(),
        "path": pa.string(),
        "csv": pa.string(),
        "line": pa.int32(),
        "codes": pa.list_(pa.int32()),
        "width": pa.int32(),
    }
)
"""`row` numbers all rows of all CSVs, so that one left out does not shift the others' augmentation; `width` is
the fitted image's in pixels."""

ROWS_PER_MEASURING_TASK = 20_000
"""Opening an image's header takes some 0.1 ms: larger sets are measured by several tasks."""


@dataclass(frozen=True)
class SampleSet:
    """The usable rows of one or more CSVs, in the object store. Small itself, and safe to send anywhere."""

    table: ray.ObjectRef
    rows: int
    usable: int
    """rows less those rejected at once"""
    mean_width: float
    """of the fitted images in pixels"""
    rejections: tuple[Rejection, ...]
    """rows that the label or the image's header rules out"""
    warnings: tuple[str, ...]


def read_labels(csvs: Sequence[str], settings: config.Data) -> list[samples.CsvFile]:
    """Read CSVs that must have rows and labels. Raises `UsageError`."""
    files = [samples.read_csv(path, settings.csv_delimiter, settings.encoding) for path in csvs]
    for file in files:
        if not file.rows:
            raise UsageError(f"{file.path}: the CSV holds no rows; a row is path{settings.csv_delimiter}label")
        if all(row.label is None for row in file.rows):
            raise UsageError(
                f"{file.path}: no row has a label: a row is path{settings.csv_delimiter}label "
                "(data.csv_delimiter sets what stands between them)"
            )
    return files


def alphabet_of(files: Sequence[samples.CsvFile], settings: config.Data) -> Alphabet:
    """The configured alphabet, or the one of the labels. Raises `UsageError`."""
    if settings.lookup_alphabet_file is not None:
        return Alphabet.load(settings.lookup_alphabet_file, settings.unicode_form)
    labels = [
        samples.split_label(row.label, settings.string_split_delimiter, settings.unicode_form)
        for file in files
        for row in file.rows
        if row.label
    ]
    if not any(labels):
        names = ", ".join(file.path for file in files)
        raise UsageError(f"{names}: all labels are empty; a row is path{settings.csv_delimiter}label")
    return Alphabet.from_labels(labels)


def put_samples(
    files: Sequence[samples.CsvFile], alphabet: Alphabet, settings: config.Configuration, training: bool
) -> SampleSet:
    """Encode the labels, measure the images and put the rows into the object store.

    In training a row without a usable label is rejected. In evaluation only a malformed row is; unknown units
    are kept as `samples.UNKNOWN` and cost errors. Images are opened as far as their header.
    """
    shape = settings.image.input_shape
    pairs = [(file, row) for file in files for row in file.rows]
    widths = _measure_all([file.resolve(row.path) for file, row in pairs], shape)
    rows, rejections = [], []
    for number, ((file, row), width) in enumerate(zip(pairs, widths, strict=True)):
        try:
            codes = _codes(row, alphabet, settings.data, training)
            if isinstance(width, Rejected):
                raise width
            if training:
                _check_frames(codes, width)
            rows.append((number, file.resolve(row.path), file.path, row.line, codes, width))
        except Rejected as rejected:
            rejections.append(Rejection(file.path, row.line, row.path, rejected.reason, rejected.detail))
    split_delimiter = settings.data.string_split_delimiter
    warnings = [
        f"{file.path}: some labels begin with {split_delimiter!r} and are sequences of units, others "
        "are plain text: is that meant?"
        for file in files
        if samples.mixes_label_forms(file.rows, split_delimiter)
    ]
    columns = list(zip(*rows, strict=True)) or [[]] * len(SAMPLES)
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, SAMPLES, strict=True)], SAMPLES)
    return SampleSet(
        table=ray.put(table),
        rows=len(pairs),
        usable=len(table),
        mean_width=pc.mean(table["width"]).as_py() or 0.0,
        rejections=tuple(rejections),
        warnings=tuple(warnings),
    )


def _codes(row: samples.Row, alphabet: Alphabet, settings: config.Data, training: bool) -> list[int]:
    if row.problem:
        raise Rejected("malformed row", row.problem)
    units = samples.split_label(row.label or "", settings.string_split_delimiter, settings.unicode_form)
    if not training:
        return [alphabet.encode([unit])[0] if unit in alphabet else UNKNOWN for unit in units]
    if not units:
        raise Rejected("empty label", "no units")
    try:
        return alphabet.encode(units)
    except ValueError as error:
        raise Rejected("unknown unit", str(error)) from None


def _measure_all(paths: Sequence[str], shape: tuple[int, int]) -> list[int | Rejected]:
    """Fitted width of each image in pixels, or why there is none."""
    if len(paths) <= ROWS_PER_MEASURING_TASK:
        return [_measure(path, shape) for path in paths]
    starts = range(0, len(paths), ROWS_PER_MEASURING_TASK)
    chunks = [_measure_chunk.remote(paths[start : start + ROWS_PER_MEASURING_TASK], shape) for start in starts]
    return [width for chunk in chunks for width in ray.get(chunk)]


@ray.remote
def _measure_chunk(paths: Sequence[str], shape: tuple[int, int]) -> list[int | Rejected]:
    return [_measure(path, shape) for path in paths]


def _measure(path: str, shape: tuple[int, int]) -> int | Rejected:
    if "://" in path:
        # A request for each image before the first step would cost more than padding does: all count as alike.
        return shape[1]
    try:
        return image.measure(path, shape)
    except Rejected as rejected:
        return rejected


def _check_frames(codes: Sequence[int], width: int) -> None:
    needed, available = samples.least_frames(codes), image.frames(width)
    if needed > available:
        detail = f"{len(codes)} units need {needed} frames, {width} pixels give {available}"
        raise Rejected("label too long", detail)


def check_rejections(name: str, rejections: Sequence[Rejection], rows: int, settings: config.Data) -> None:
    """Raises `RaycrnnError` with the table of reasons if more than `data.max_rejected` of a set cannot be used."""
    if len(rejections) <= settings.max_rejected * rows and len(rejections) < rows:
        return
    raise RaycrnnError(
        f"{name} set: {len(rejections):,} of {rows:,} samples cannot be used, more than data.max_rejected="
        f"{settings.max_rejected:g} allows:\n{rejection_table(rejections)}"
    )


def rejection_table(rejections: Sequence[Rejection]) -> str:
    """Reasons with their counts, an example of each and the remedy."""
    lines = []
    for reason in dict.fromkeys(rejection.reason for rejection in rejections):
        of_reason = [rejection for rejection in rejections if rejection.reason == reason]
        example = of_reason[0]
        lines.append(f"  {len(of_reason):>7,}  {reason}: {samples.REMEDIES[reason]}")
        lines.append(f"           such as {example.csv}, line {example.line}: {example.path}: {example.detail}")
    return "\n".join(lines)


# --- decoding, in Ray's workers


@dataclass(frozen=True)
class Recipe:
    """All that a decoding task needs to make any batch of a run."""

    table: ray.ObjectRef
    usable: int
    mean_width: float
    image: config.Image
    batch_size: int
    """global: over all workers"""
    seed: int
    augmenter: Augmenter | None
    """None: evaluation, one pass in the order of width"""
    rank: int
    world_size: int

    @property
    def batches_per_epoch(self) -> int:
        return order.batch_count(self.usable, self.batch_size)


class BatchSource(Datasource):
    """A Ray datasource whose rows are whole batches, numbered over all epochs."""

    def __init__(self, recipe: Recipe, first: int, stop: int):
        super().__init__()
        self.recipe, self.first, self.stop = recipe, first, stop

    def estimate_inmemory_data_size(self) -> int:
        return len(task_ranges(self.recipe, self.first, self.stop)) * bytes_per_task(self.recipe)

    def get_read_tasks(self, parallelism, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        tasks = []
        for start, stop in task_ranges(self.recipe, self.first, self.stop):
            metadata = BlockMetadata(num_rows=stop - start, size_bytes=None, exec_stats=None, input_files=None)
            tasks.append(ReadTask(_Read(self.recipe, start, stop), metadata))
        return tasks


@dataclass(frozen=True)
class _Read:
    recipe: Recipe
    start: int
    stop: int

    def __call__(self) -> Iterable[pa.Table]:
        _yield_to_training()
        yield pa.Table.from_pylist([make_batch(self.recipe, index) for index in range(self.start, self.stop)], BLOCK)


DECODE_NICENESS = 5
"""A quarter of a core beside a training thread. A training step runs at the pace of its slowest thread, so a decoder
that takes half of one core halves them all; at 19 decoding is starved (8 % data wait on two cores, measured)."""


def _yield_to_training() -> None:
    """Lower this process's priority, for where decoding shares its cores with training."""
    if hasattr(os, "nice"):
        os.nice(max(0, DECODE_NICENESS - os.nice(0)))


BLOCK = pa.schema(
    {
        "images": pa.large_binary(),
        "shape": pa.list_(pa.int64()),
        "widths": pa.list_(pa.int64()),
        "codes": pa.list_(pa.int64()),
        "lengths": pa.list_(pa.int64()),
        "rows": pa.list_(pa.int64()),
        "rejected": pa.string(),
    }
)
"""One row a batch. `rejected` is a JSON list of `Rejection` fields, each with its row number first."""


def batches_per_task(recipe: Recipe) -> int:
    """So many that they hold about `IMAGES_PER_TASK` images."""
    return max(1, IMAGES_PER_TASK // max(1, recipe.batch_size // recipe.world_size))


def bytes_per_task(recipe: Recipe) -> int:
    """Size of a task's images, by their mean width."""
    samples_each = max(1, recipe.batch_size // recipe.world_size)
    pixels = int(recipe.image.input_shape[0] * recipe.mean_width) * recipe.image.input_channels
    return max(1, batches_per_task(recipe) * samples_each * pixels)


def task_ranges(recipe: Recipe, first: int, stop: int) -> list[tuple[int, int]]:
    """Ranges of batch numbers, each a task."""
    step = batches_per_task(recipe)
    return [(start, min(start + step, stop)) for start in range(first, stop, step)]


def make_batch(recipe: Recipe, index: int) -> dict:
    """Decode one worker's share of a batch: a row of `BLOCK`. What cannot be used is left out and listed."""
    table = ray.get(recipe.table)
    epoch, position = divmod(index, recipe.batches_per_epoch)
    training = recipe.augmenter is not None
    epoch_order = _epoch_order(recipe.table, recipe.batch_size, recipe.seed, epoch, training)
    rows = epoch_order[position * recipe.batch_size : (position + 1) * recipe.batch_size]
    images, codes, row_numbers, rejected = [], [], [], []
    for sample in table.take(order.worker_share(rows, recipe.rank, recipe.world_size)).to_pylist():
        try:
            images.append(_load(recipe, sample, epoch))
            codes.append(sample["codes"])
            row_numbers.append(sample["row"])
        except Rejected as error:
            place = (sample["csv"], sample["line"], sample["path"])
            rejected.append([sample["row"], *place, error.reason, error.detail])
    height, channels = recipe.image.input_shape[0], recipe.image.input_channels
    blank = np.zeros((height, image.LEAST_WIDTH, channels), np.uint8)
    images_BCHW, widths_B = image.collate(images or [blank])
    return {
        "images": images_BCHW.tobytes(),
        "shape": list(images_BCHW.shape),
        "widths": widths_B.tolist(),
        "codes": [code for label in codes for code in label],
        "lengths": [len(label) for label in codes],
        "rows": row_numbers,
        "rejected": json.dumps(rejected),
    }


@lru_cache(maxsize=2)
def _epoch_order(table: ray.ObjectRef, batch_size: int, seed: int, epoch: int, training: bool) -> np.ndarray:
    widths = ray.get(table)["width"].to_numpy()
    return order.train_order(widths, batch_size, seed, epoch) if training else order.eval_order(widths)


def _load(recipe: Recipe, sample: dict, epoch: int) -> np.ndarray:
    data = image.read_bytes(sample["path"])
    shape, channels = recipe.image.input_shape, recipe.image.input_channels
    if recipe.augmenter is None:
        return image.prepare(data, shape, channels)
    array = image.prepare(data, shape, channels, recipe.augmenter.of(epoch, sample["row"]))
    if samples.least_frames(sample["codes"]) > image.frames(array.shape[1]):
        # Augmentation may narrow an image; a sample that is good without it stays.
        array = image.prepare(data, shape, channels)
        _check_frames(sample["codes"], array.shape[1])
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
    waited: float = 0.0
    """seconds that the consumer waited for batches"""
    rejected: dict[int, Rejection] = field(default_factory=dict)
    """what was left out so far, by row number"""
    _tasks: int = TASKS_AT_FIRST[-1]

    def __iter__(self) -> "Iterator[Batch]":
        ahead = Ahead(self._read, BATCHES_AHEAD)
        try:
            for batch, rejected in ahead:
                self.waited += ahead.waited
                self.rejected.update(rejected)
                yield batch
        finally:
            ahead.close()

    def _read(self) -> "Iterator[tuple[Batch, dict[int, Rejection]]]":
        executions = Ahead(self._executions, depth=1)
        try:
            for number, blocks in enumerate(executions):
                if number >= len(TASKS_AT_FIRST) and executions.waited > 0.05:
                    self._tasks = min(2 * self._tasks, MOST_TASKS)
                for block in blocks:
                    table = ray.get(block)
                    for row in range(len(table)):
                        yield _to_batch(table, row, self.pin_memory)
        finally:
            executions.close()

    def _executions(self) -> Iterator[list[ray.ObjectRef]]:
        """Blocks of whole batches, execution by execution."""
        first, at_first = self.first, iter(TASKS_AT_FIRST)
        while first < self.stop:
            tasks = min(next(at_first, self._tasks), max(1, MOST_BYTES // bytes_per_task(self.recipe)))
            stop = min(first + tasks * batches_per_task(self.recipe), self.stop)
            yield self._execute(first, stop)
            first = stop

    def _execute(self, first: int, stop: int) -> list[ray.ObjectRef]:
        dataset = ray.data.read_datasource(
            BatchSource(self.recipe, first, stop),
            concurrency=self.plan.decode_tasks,
            num_cpus=self.plan.cpus_per_decode_task,
            override_num_blocks=len(task_ranges(self.recipe, first, stop)),
        )
        dataset.context.enable_progress_bars = False
        dataset.context.execution_options.preserve_order = True
        return dataset.to_arrow_refs()


def _to_batch(block: pa.Table, row: int, pin_memory: bool) -> "tuple[Batch, dict[int, Rejection]]":
    # Imported here: the decoding tasks share this module and do without torch's memory and seconds.
    import torch

    from raycrnn.learning import Batch

    # A copy, because the object store's memory is read-only and given back when the block goes.
    images = np.frombuffer(block["images"][row].as_buffer(), np.uint8).copy()
    images_BCHW = torch.from_numpy(images).view(block["shape"][row].as_py())
    columns = ("widths", "codes", "lengths", "rows")
    numbers = [torch.tensor(block[name][row].as_py(), dtype=torch.int64) for name in columns]
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
        start = time.perf_counter()
        item, error = self._items.get()
        self.waited = time.perf_counter() - start
        if error is not None:
            self._items.put((None, error))
            raise error
        return item

    def close(self) -> None:
        self._closed.set()
        # It may be waiting for Ray; as a daemon it ends with the process.
        self._thread.join(timeout=2)


def train_recipe(settings: config.Configuration, table: SampleSet, rank: int, world_size: int) -> Recipe:
    """The recipe of a worker's share of the training set."""
    augmenter = Augmenter(settings.augmentation, settings.image.input_channels, settings.training.seed)
    return Recipe(
        table=table.table,
        usable=table.usable,
        mean_width=table.mean_width,
        image=settings.image,
        batch_size=settings.training.train_batch_size,
        seed=settings.training.seed,
        augmenter=augmenter,
        rank=rank,
        world_size=world_size,
    )


def eval_recipe(settings: config.Configuration, table: SampleSet, rank: int, world_size: int) -> Recipe:
    """The recipe of a worker's share of the evaluation set: not augmented, by width."""
    recipe = train_recipe(settings, table, rank, world_size)
    return replace(recipe, augmenter=None, batch_size=settings.training.eval_batch_size)
