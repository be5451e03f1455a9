"""Images that the tests of decoding share, and how they are encoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from raycrnn.data import image
from raycrnn.data.rejections import Rejected

GRADIENT_HW = np.add.outer(np.arange(20) * 3, np.arange(40) * 5).astype(np.uint8)
COLOURS_HWC = np.stack([GRADIENT_HW, GRADIENT_HW.T.reshape(20, 40), 255 - GRADIENT_HW], axis=2)


def encoded(picture: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def cmyk(inks_HWC: np.ndarray) -> Image.Image:
    return Image.merge("CMYK", [Image.fromarray(inks_HWC[:, :, ink].copy()) for ink in range(4)])


def grey_of(colours_HWC: np.ndarray) -> np.ndarray:
    """Return the luma of ITU-R BT.601."""
    return colours_HWC @ np.array([0.299, 0.587, 0.114])


def rejection(data: bytes, channels: int = 1) -> Rejected:
    with pytest.raises(Rejected) as caught:
        image.decode(data, channels)
    assert caught.value.detail
    return caught.value


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG of 8-bit grey, whose rows need not match its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""The rotation or reflection for each EXIF orientation."""

WHOLE = {
    "PNG": encoded(Image.fromarray(COLOURS_HWC), "PNG"),
    "PNG palette": encoded(Image.fromarray(COLOURS_HWC).convert("P"), "PNG", transparency=3),
    "JPEG": encoded(Image.fromarray(COLOURS_HWC), "JPEG"),
    "JPEG progressive": encoded(Image.fromarray(GRADIENT_HW), "JPEG", progressive=True),
    "JPEG CMYK": encoded(cmyk(np.dstack([COLOURS_HWC, GRADIENT_HW])), "JPEG"),
    "TIFF": encoded(Image.fromarray(COLOURS_HWC), "TIFF"),
    "TIFF LZW": encoded(Image.fromarray(GRADIENT_HW), "TIFF", compression="tiff_lzw"),
    "TIFF deflate": encoded(Image.fromarray(COLOURS_HWC), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF fax": encoded(Image.fromarray(GRADIENT_HW > 90), "TIFF", compression="group4"),
    "TIFF JPEG": encoded(Image.fromarray(COLOURS_HWC), "TIFF", compression="jpeg"),
    "GIF": encoded(Image.fromarray(GRADIENT_HW), "GIF"),
    "BMP": encoded(Image.fromarray(COLOURS_HWC), "BMP"),
    "PPM": encoded(Image.fromarray(COLOURS_HWC), "PPM"),
    "WEBP": encoded(Image.fromarray(COLOURS_HWC), "WEBP"),
}
