"""The Ray Data stages of a prediction run: decode images, transcribe them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
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
        "alternatives": pa.list_(pa.struct({**formats.ALTERNATIVE, "codes": pa.list_(pa.int32())})),
        "units": pa.list_(pa.struct({**formats.UNIT, "code": pa.int32()})),
        "size": pa.list_(pa.int32()),
        "is_blank": pa.bool_(),
        "rejected": pa.list_(pa.string()),
    }
)
"""Columns of a table with one row per image: `Transcription.to_json`, the upright width and height of the image and
whether all its pixels are equal; or the reason and the detail of a rejection."""


@dataclass(frozen=True)
class Decode:
    """The stage from paths to prepared images, a table of `DECODED`. An image that cannot be read is a rejection.

    An image may crash its decoder, and with it the task. Ray then repeats the task, which decodes each image in a task
    of its own.
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
        from ray import exceptions

        crashes = (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError)
        # Not 0 CPUs, or the tasks would run on a cluster's head node. This task's CPUs are free while it waits.
        decode = ray.remote(num_cpus=0.001, max_retries=0)(_decode_alone)
        for path in paths:
            for _ in range(TRIES_ALONE):
                with suppress(*crashes):
                    yield ray.get(decode.remote(path, self.settings))
                    break
            else:
                yield {"rejected": ["damaged image", "its decoder died"]}


TRIES_ALONE = 2
"""Tries for an image alone: the process may have been killed for another reason."""


def _decode_alone(path: str, settings: Image) -> dict:
    return _decode(lambda: image_files.read_bytes(path), settings)


def _decode(read: Callable[[], bytes], settings: Image) -> dict:
    """Read and decode an image; return a row of `DECODED`."""
    try:
        prepared = image.prepare_image(read(), settings.input_shape, settings.input_channels)
    except rejections.Rejected as rejected:
        return {"rejected": [rejected.reason, rejected.detail]}
    pixels = prepared.pixels
    return {
        "pixels": pixels.tobytes(),
        "width": pixels.shape[1],
        "size": [prepared.original_width, prepared.original_height],
    }


def _malformed(problem: str) -> dict:
    return {"rejected": ["malformed row", problem]}


DECODED = pa.schema(
    {
        "pixels": pa.large_binary(),
        "width": pa.int32(),
        "size": pa.list_(pa.int32()),
        "rejected": pa.list_(pa.string()),
    }
)
"""Columns of a table with one row per image: uint8 [H, W, C] as bytes and its upright width and height
before it was fitted, or the reason and the detail of a rejection."""

MAX_DEATHS = 8
"""How many times the process of a task or a replica may die. Ray would retry without limit."""


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
    """The stage from `DECODED` to `RESULTS`: a replica of the model."""

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

        _check_deaths("a replica of the model", "it may need more memory than its machine has: set fewer --replicas")
        torch.set_num_threads(threads)
        runtime.keep_freed_memory()
        runtime.keep_kernels()
        self.recognizer = Recognizer.load(model, "auto", overrides)
        # Not before loading, when the model could still be replaced.
        if expected is not None and model_dir.file_digests(model) != expected:
            raise RaycrnnError(f"{model}: the model was replaced after the command started; run it again")
        self.spans = spans

    def __call__(self, table: pa.Table) -> pa.Table:
        rejected = table["rejected"].to_pylist()
        indices = [index for index, reason in enumerate(rejected) if reason is None]
        images = [self._image(table, index) for index in indices]
        transcriptions = self.recognizer.transcribe(images, spans=self.spans)
        rows: list[dict] = [{"rejected": reason} for reason in rejected]
        for index, prepared, transcription in zip(indices, images, transcriptions, strict=True):
            size = [prepared.original_width, prepared.original_height]
            is_blank = bool((prepared.pixels == prepared.pixels[0, 0]).all())
            rows[index] = {**transcription.to_json(), "size": size, "is_blank": is_blank}
        return pa.Table.from_pylist(rows, RESULTS)

    def _image(self, table: pa.Table, index: int) -> image.PreparedImage:
        import numpy as np

        settings = self.recognizer.configuration.image
        pixels = np.frombuffer(table["pixels"][index].as_buffer(), np.uint8)
        shape = settings.input_shape[0], table["width"][index].as_py(), settings.input_channels
        width, height = table["size"][index].as_py()
        return image.PreparedImage(pixels.reshape(shape), width, original_height=height)
