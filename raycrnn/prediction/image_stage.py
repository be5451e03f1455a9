"""The first stage of a prediction run: from paths to decoded images."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from raycrnn.config import Image
from raycrnn.data import image, image_files, rejections
from raycrnn.data.orientation import LineOrientation
from raycrnn.ingest.decoder_process import DecoderProcess
from raycrnn.prediction.tables import DECODED

ImageDecoder = Callable[[Sequence[str]], Iterator[dict]]
"""Decodes the images at paths; yields a row of `DECODED` for each."""


def decode_table(table: pa.Table, decode: ImageDecoder) -> pa.Table:
    """Return a table of `DECODED` for a table with the columns `path` and `problem` of `inputs.INPUTS`."""
    problems = table["problem"].to_pylist()
    paths = [os.fsdecode(path) for path in table["path"].filter(pc.is_null(table["problem"])).to_pylist()]
    rows = decode(paths)
    return pa.Table.from_pylist(
        [next(rows) if problem is None else _malformed(problem) for problem in problems], DECODED
    )


def decode_block(table: pa.Table, settings: Image, orientation: LineOrientation) -> pa.Table:
    """Return a table of `DECODED` for a table with the columns `path` and `problem` of `inputs.INPUTS`."""
    return decode_table(table, lambda paths: decode_images(paths, settings, orientation))


def start_decoder(settings: Image, orientation: LineOrientation) -> DecoderProcess:
    """Start a process that decodes blocks of images as `decode_block` does."""
    decode = partial(decode_block, settings=settings, orientation=orientation)
    return DecoderProcess(decode, pa.Table.from_pylist([DECODER_DIED], DECODED))


def decode_images(paths: Sequence[str], settings: Image, orientation: LineOrientation = "horizontal") -> Iterator[dict]:
    """Yield a row of `DECODED` for each image. One that cannot be read is a rejection."""
    return (decode_image(read, settings, orientation) for _, read in image_files.iter_readers(paths))


def decode_image(read: Callable[[], bytes], settings: Image, orientation: LineOrientation) -> dict:
    """Read and decode an image; return a row of `DECODED`."""
    shape, channels = settings.input_shape, settings.input_channels
    try:
        prepared = image.prepare_image(read(), shape, channels, orientation=orientation)
    except rejections.Rejected as rejected:
        return {"rejected": [rejected.reason, rejected.detail]}
    pixels = prepared.pixels
    return {
        "pixels": pixels.tobytes(),
        "width": pixels.shape[1],
        "size": prepared.original_size,
    }


DECODER_DIED = {"rejected": list(rejections.DECODER_DIED)}
"""The row of an image that ends the process that decodes it."""


def _malformed(problem: str) -> dict:
    return {"rejected": ["malformed row", problem]}
