"""The first stage of a prediction run: from paths to decoded images."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from raycrnn.data import image, image_files, rejections
from raycrnn.ingest.decoder_process import DecoderProcess
from raycrnn.prediction.job import ImageSettings
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


def decode_block(table: pa.Table, settings: Sequence[ImageSettings]) -> pa.Table:
    """Return a table of `DECODED` for a table with the columns `path` and `problem` of `inputs.INPUTS`."""
    return decode_table(table, lambda paths: decode_images(paths, settings))


def start_decoder(settings: Sequence[ImageSettings]) -> DecoderProcess:
    """Start a process that decodes blocks of images as `decode_block` does."""
    decode = partial(decode_block, settings=tuple(settings))
    return DecoderProcess(decode, pa.Table.from_pylist([DECODER_DIED], DECODED))


def decode_images(paths: Sequence[str], settings: Sequence[ImageSettings]) -> Iterator[dict]:
    """Yield a row of `DECODED` for each image. One that cannot be read is a rejection."""
    return (decode_image(read, settings) for _, read in image_files.iter_readers(paths))


def decode_image(read: Callable[[], bytes], settings: Sequence[ImageSettings]) -> dict:
    """Read and decode an image; return a row of `DECODED`.

    Args:
        read: Returns the content of the file.
        settings: The different image settings of the models.
    """
    try:
        data = read()
        first, *others = (
            image.prepare_image(data, own.input_shape, own.input_channels, orientation=orientation)
            for own, orientation in settings
        )
    except rejections.Rejected as rejected:
        return {"rejected": [rejected.reason, rejected.detail]}
    return {**_columns(first), "size": first.original_size, "others": list(map(_columns, others))}


def _columns(prepared: image.PreparedImage) -> dict:
    return {"pixels": prepared.pixels.tobytes(), "width": prepared.pixels.shape[1]}


DECODER_DIED = {"rejected": list(rejections.DECODER_DIED)}
"""The row of an image that ends the process that decodes it."""


def _malformed(problem: str) -> dict:
    return {"rejected": ["malformed row", problem]}
