"""The Ray Data stages of a prediction run: decode images, transcribe them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raycrnn.cluster.ray_internals import attempt_number
from raycrnn.config import Image
from raycrnn.data import image, image_files, rejections
from raycrnn.errors import RaycrnnError
from raycrnn.model import model_dir
from raycrnn.model.recognizer import Recognizer
from raycrnn.prediction import formats

RESULTS = pa.schema(
    {
        "text": pa.string(),
        "codes": pa.list_(pa.int32()),
        "confidence": pa.float64(),
        "log_prob": pa.float64(),
        "score": pa.float64(),
        "alternatives": pa.list_(pa.struct({**formats.READING, "codes": pa.list_(pa.int32())})),
        "units": pa.list_(pa.struct({**formats.UNIT, "code": pa.int32()})),
        "rejected": pa.list_(pa.string()),
    }
)
"""A row an image: `Transcription.to_json`, or reason and detail of its rejection."""


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
        return (_decode(read, self.settings) for _, read in image_files.iter_readers(paths))

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
    return _decode(lambda: image_files.read_bytes(path), settings)


def _decode(read: Callable[[], bytes], settings: Image) -> dict:
    """A row of `DECODED`."""
    try:
        line = image.prepare_image(read(), settings.input_shape, settings.input_channels)
    except rejections.Rejected as rejected:
        return {"rejected": [rejected.reason, rejected.detail]}
    pixels = line.pixels
    return {"pixels": pixels.tobytes(), "width": pixels.shape[1], "original_width": line.original_width}


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


MAX_DEATHS = 8
"""How often a task may be lost with its process at the same images, or a replica in all. Ray would retry forever."""


def _check_deaths(who: str, remedy: str) -> int:
    """Return how many times the process of this task or this replica died before.

    Ray's own limits (`max_retries`, `max_restarts`) are not accepted by Ray Data from Ray 2.64 on.

    Raises:
        RaycrnnError: It died more than `MAX_DEATHS` times.
    """
    deaths = attempt_number()
    if deaths > MAX_DEATHS:
        raise RaycrnnError(f"{who} died {deaths} times; {remedy}")
    return deaths


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

        from raycrnn.model import runtime

        _check_deaths("a replica of the model", "it may need more memory than there is: --replicas sets fewer")
        torch.set_num_threads(threads)
        runtime.keep_freed_memory()
        runtime.keep_kernels()
        self.recognizer = Recognizer.load(model, "auto", overrides)
        # Not before, when it could still be replaced.
        if expected is not None and model_dir.file_digests(model) != expected:
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

    def _line(self, table: pa.Table, place: int) -> image.PreparedImage:
        import numpy as np

        settings = self.recognizer.configuration.image
        pixels = np.frombuffer(table["pixels"][place].as_buffer(), np.uint8)
        shape = settings.input_shape[0], table["width"][place].as_py(), settings.input_channels
        return image.PreparedImage(pixels.reshape(shape), table["original_width"][place].as_py())
