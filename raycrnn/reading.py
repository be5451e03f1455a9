"""Reading images through Ray Data: decoding tasks, and replicas of the model."""

import hashlib
import os
import queue
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycrnn import image, samples, storage, writers
from raycrnn.command import Interrupt, say
from raycrnn.config import Cluster, Image
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.inputs import printable, to_table
from raycrnn.progress import Progress
from raycrnn.recognizer import Recognizer
from raycrnn.transcription import Transcription


@dataclass(frozen=True)
class Result:
    """What became of one image: a transcription or an error."""

    transcription: Transcription | None
    rejected: samples.Rejected | None


@dataclass(frozen=True)
class Job:
    """What to read images with."""

    model: str
    image: Image
    """the model's"""
    overrides: tuple[str, ...] = ()
    """as `Recognizer.load` takes them"""
    spans: bool = False
    """whether to tell of each unit where it stands, and how sure it is"""
    replicas: int | None = None
    """of the model; None: as many as there is room for"""
    digests: Mapping[str, str] | None = None
    """of the model's files, which must be the same wherever replicas load it; None: any will do"""


def digests(model: str) -> dict[str, str]:
    """SHA-256 of each of a model's files that says what it reads."""
    found = {}
    for name in ("model.safetensors", "config.json", "alphabet.json", "calibration.json"):
        with suppress(FileNotFoundError, NotADirectoryError):
            found[name] = hashlib.sha256(storage.read(storage.join(model, name))).hexdigest()
    return found


def transcribe(job: Job, paths: Sequence[str]) -> Iterator[Result]:
    """Transcribe the images at paths through Ray Data; the results come in their order. See `read_blocks`."""
    inputs = to_table((printable(path), path, None) for path in paths)
    progress, blocks = Progress(len(inputs)), _pulses(job, inputs)
    try:
        for block in blocks:
            progress.add(len(block))
            yield from map(_to_result, block.to_pylist())
    finally:
        progress.close()
        blocks.close()


def _to_result(row: dict) -> Result:
    if row["rejected"]:
        return Result(None, samples.Rejected(*row["rejected"]))
    return Result(Transcription.from_json(row), None)


PULSE_SECONDS = 0.5
"""So often Ctrl-C is looked for, and progress shown, while no images are done."""


def transcribe_into(sink: Any, job: Job, inputs: pa.Table, progress: Progress, interrupt: Interrupt) -> bool:
    """Read images and write the rows, as `writers.ROWS`, into a sink; False if Ctrl-C was pressed meanwhile."""
    done, blocks = 0, _pulses(job, inputs)
    try:
        while done < len(inputs) and not interrupt.pressed:
            block = next(blocks)
            sink.write(_rows(inputs["shown"].slice(done, len(block)), block))
            done += len(block)
            progress.add(len(block))
    finally:
        progress.close()
        blocks.close()
    return done == len(inputs)


def _pulses(job: Job, inputs: pa.Table) -> Generator[pa.Table, None, None]:
    """`read_blocks`, and tables without rows while none come."""
    from raycrnn.ingest import Ahead

    done, blocks = 0, Ahead(lambda: read_blocks(job, inputs), depth=1)
    try:
        while done < len(inputs):
            try:
                block = blocks.within(PULSE_SECONDS)
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
        [columns[name].cast(kind) for name, kind in zip(writers.ROWS.names, writers.ROWS.types, strict=True)],
        writers.ROWS,
    )


RESULTS = pa.schema(
    {
        "text": pa.string(),
        "codes": pa.list_(pa.int32()),
        "confidence": pa.float64(),
        "log_prob": pa.float64(),
        "score": pa.float64(),
        "alternatives": pa.list_(pa.struct({**writers.READING, "codes": pa.list_(pa.int32())})),
        "units": pa.list_(pa.struct({**writers.UNIT, "code": pa.int32()})),
        "rejected": pa.list_(pa.string()),
    }
)
"""A row an image: `Transcription.to_json`, or reason and detail of its rejection."""


def read_blocks(job: Job, inputs: pa.Table) -> Iterator[pa.Table]:
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
    cluster.grow(Cluster(), say)
    plan = plan_replicas(len(inputs), job)
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


MOST_DEATHS = 8
"""of a worker at the same images, or of a replica in all: Ray would begin anew for ever."""


def _check_deaths(who: str, remedy: str) -> int:
    """How often this task, or this actor, was lost with its process before. Raises `RaycrnnError` if too often."""
    # Ray tells it nowhere else, and its own limits (max_retries, max_restarts) Ray Data will not take from 2.64 on.
    from ray._private.worker import global_worker

    deaths = global_worker.core_worker.get_current_task_attempt_number()
    if deaths > MOST_DEATHS:
        raise RaycrnnError(f"{who} died {deaths} times; {remedy}")
    return deaths


MOST_IMAGES_PER_BLOCK = 1024
"""The more images are sorted by width together, the less padding; a kill costs the blocks that are being read."""

LEAST_IMAGES_PER_BLOCK = 64

MOST_BYTES_PER_BLOCK = 64 * 2**20
"""if all images have the greatest width"""

BLOCKS_A_REPLICA = 4
"""of a small set: so many at least, that all replicas end at about the same time"""

DECODE_CPUS = 0.25
"""of a CPU for a decoding task: reading a line on a CPU takes the network far longer than decoding its image"""


@dataclass(frozen=True)
class Plan:
    """What a reading takes of the cluster."""

    count: int
    """replicas of the model"""
    cpus: float
    """of each"""
    gpus: float
    """of each"""
    threads: int
    """of each"""
    decode_cpus: float
    """of a decoding task"""
    images_per_block: int


def plan_replicas(images: int, job: Job) -> Plan:
    """Replicas as asked for, else one a GPU, without GPUs one a CPU; fewer for few images.

    Raises `UsageError` if more are asked for than there are CPUs.
    """
    from raycrnn import cluster

    nodes = cluster.nodes()
    cpus, gpus = (int(sum(column)) for column in zip(*nodes, strict=True))
    if job.replicas is not None and job.replicas > max(1, cpus):
        raise UsageError(f"--replicas={job.replicas}, but Ray has {cpus} CPUs: set --replicas={max(1, cpus)} or less")
    most = job.replicas or gpus or max(1, cpus)
    per_block = _images_per_block(images, most, job.image)
    count = min(most, -(-images // per_block))
    if gpus:
        return _plan_on_gpus(count, nodes, per_block)
    share = cluster.even_share([each for each, _ in nodes], count)
    return Plan(count, (1 - DECODE_CPUS) * share, 0, max(1, int(share)), DECODE_CPUS, per_block)


def _plan_on_gpus(count: int, nodes: Sequence[tuple[float, float]], per_block: int) -> Plan:
    """A GPU is fed by all CPUs that the replicas leave, a decoding task each."""
    a_gpu = -(-count // int(sum(gpus for _, gpus in nodes)))
    share = min(cpus / (gpus * a_gpu) for cpus, gpus in nodes if gpus)
    cpus_each = min(0.5, (1 - DECODE_CPUS) * share)
    free = max(cpus - gpus * a_gpu * cpus_each for cpus, gpus in nodes)
    return Plan(count, cpus_each, 1 / a_gpu, 1, min(1.0, free), per_block)


def _images_per_block(images: int, replicas: int, settings: Image) -> int:
    height, width = settings.input_shape
    most = min(MOST_IMAGES_PER_BLOCK, MOST_BYTES_PER_BLOCK // (height * width * settings.input_channels))
    even = -(-images // (BLOCKS_A_REPLICA * replicas))
    return max(1, min(max(even, LEAST_IMAGES_PER_BLOCK), most))


@dataclass(frozen=True)
class Decode:
    """Paths -> prepared images, as bytes beside their widths; what cannot be read becomes an error.

    An image may kill its decoder, and so the task. Where that was tried before, each is decoded in a task of its own.
    """

    settings: Image

    def __call__(self, table: pa.Table) -> pa.Table:
        deaths = _check_deaths("a worker that decodes images", "it may need more memory than its machine has")
        problems = table["problem"].to_pylist()
        paths = [os.fsdecode(path) for path in table["path"].filter(pc.is_null(table["problem"])).to_pylist()]
        rows = self._alone(paths) if deaths else self._together(paths)
        decoded = [next(rows) if problem is None else _malformed(problem) for problem in problems]
        return pa.Table.from_pylist(decoded, DECODED)

    def _together(self, paths: Sequence[str]) -> Iterator[dict]:
        return (_decode(read, self.settings) for _, read in image.readers(paths))

    def _alone(self, paths: Sequence[str]) -> Iterator[dict]:
        import ray

        # Not 0 CPUs, or they would go to a cluster's head. Those of this task are free while it waits.
        decode = ray.remote(num_cpus=0.001, max_retries=0)(_decode_alone)
        for path in paths:
            yield self._try(lambda path=path: ray.get(decode.remote(path, self.settings)))

    def _try(self, decode: Callable[[], dict]) -> dict:
        from ray import exceptions

        for _ in range(TRIES_ALONE):
            try:
                return decode()
            except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError):
                continue
        return {"rejected": ["damaged image", "its decoder died"]}


TRIES_ALONE = 2
"""It may have been somebody else who killed the process."""


def _decode_alone(path: str, settings: Image) -> dict:
    return _decode(lambda: image.read_bytes(path), settings)


def _decode(read: Callable[[], bytes], settings: Image) -> dict:
    """A row of `DECODED`."""
    try:
        line = image.to_line(read(), settings.input_shape, settings.input_channels)
    except samples.Rejected as rejected:
        return {"rejected": [rejected.reason, rejected.detail]}
    pixels = line.pixels
    return {"pixels": pixels.tobytes(), "width": pixels.shape[1], "original_width": line.width}


def _malformed(problem: str) -> dict:
    return {"rejected": ["malformed row", problem]}


DECODED = pa.schema(
    {
        "pixels": pa.large_binary(),
        "width": pa.int32(),
        "original_width": pa.int32(),
        "rejected": pa.list_(pa.string()),
    }
)


class Transcriber:
    """A replica of the model: `DECODED` -> `RESULTS`."""

    def __init__(
        self,
        model: str,
        overrides: tuple[str, ...],
        threads: int,
        spans: bool,
        expected: Mapping[str, str] | None = None,
    ):
        import torch

        from raycrnn import learning

        _check_deaths("a replica of the model", "it may need more memory than there is: --replicas sets fewer")
        torch.set_num_threads(threads)
        learning.keep_freed_memory()
        learning.keep_kernels()
        self.recognizer = Recognizer.load(model, "auto", overrides)
        # Not before, when it could still be replaced.
        if expected is not None and digests(model) != expected:
            raise RaycrnnError(f"{model}: is another model than when the command began: it was replaced meanwhile")
        self.spans = spans

    def __call__(self, table: pa.Table) -> pa.Table:
        rejected = table["rejected"].to_pylist()
        places = [place for place, why in enumerate(rejected) if why is None]
        transcriptions = self.recognizer.transcribe([self._line(table, place) for place in places], spans=self.spans)
        rows: list[dict] = [{"rejected": why} for why in rejected]
        for place, transcription in zip(places, transcriptions, strict=True):
            rows[place] = transcription.to_json()
        return pa.Table.from_pylist(rows, RESULTS)

    def _line(self, table: pa.Table, place: int) -> image.Line:
        import numpy as np

        settings = self.recognizer.configuration.image
        pixels = np.frombuffer(table["pixels"][place].as_buffer(), np.uint8)
        shape = settings.input_shape[0], table["width"][place].as_py(), settings.input_channels
        return image.Line(pixels.reshape(shape), table["original_width"][place].as_py())
