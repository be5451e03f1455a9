"""Read and decode every image once, and note what the checks need of it."""

import hashlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from PIL import Image

from raycrnn.data import image, image_files, rejections
from raycrnn.data.rejections import Rejected
from raycrnn.errors import StorageError
from raycrnn.ingest.decoder_process import DecoderProcess

DIGEST_BYTES = 16

SCANNED = pa.schema(
    {
        "digest": pa.binary(DIGEST_BYTES),
        "header_size": pa.list_(pa.int32(), 2),
        "header_rejected": pa.list_(pa.string(), 2),
        "size": pa.list_(pa.int32(), 2),
        "rejected": pa.list_(pa.string(), 2),
        "is_blank": pa.bool_(),
        "problem": pa.string(),
    }
)
"""Schema of the notes, with one row per image. `digest` is that of the file. `header_size` is the upright width and
height by the file's header, as `image.measure` returns it before training; `header_rejected` is the reason and the
detail of why there is none. `size` is that of the decoded image; `rejected` says why it cannot be decoded. `problem`
says why object storage does not deliver the images; it is then the only row. It is not raised as an error, of which
Ray would pass on only the traceback."""


def start_decoder(channels: int) -> DecoderProcess:
    """Start a process that returns the notes on blocks of images, tables with a column `path`."""
    died = pa.Table.from_pylist([{"header_rejected": rejections.DECODER_DIED}], SCANNED)
    return DecoderProcess(partial(scan_block, channels=channels), died)


def scan_block(table: pa.Table, channels: int) -> pa.Table:
    """Return the notes on the images of a block, a table with a column `path`."""
    return scan_images(table["path"].to_pylist(), channels)


def scan_images(paths: Sequence[str], channels: int) -> pa.Table:
    """Return the notes on images at paths or URIs, a table with the schema `SCANNED`.

    Args:
        channels: 1 to decode them to grey, 3 to RGB.
    """
    try:
        rows = [scan_image(read, channels) for _, read in image_files.iter_readers(paths)]
    except StorageError as error:
        rows = [{"problem": str(error)}]
    return pa.Table.from_pylist(rows, SCANNED)


def scan_image(read: Callable[[], bytes], channels: int) -> dict[str, Any]:
    """Return the notes on one image, a row of `SCANNED`. `read` returns its bytes. Raises `StorageError`."""
    try:
        data = read()
    except Rejected as rejected:
        return {"header_rejected": rejected.args}
    row: dict[str, Any] = {"digest": hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()}
    try:
        row["header_size"] = image.size_of(io.BytesIO(data))
    except Rejected as rejected:
        return {**row, "header_rejected": rejected.args}
    try:
        decoded = image.decode(data, channels)
    except Rejected as rejected:
        return {**row, "rejected": rejected.args}
    return {**row, "size": decoded.size, "is_blank": _is_blank(decoded)}


def _is_blank(picture: Image.Image) -> bool:
    """Return whether all pixels of an image in mode L or RGB are equal."""
    return all(least == most for least, most in (picture.getchannel(band).getextrema() for band in picture.getbands()))
