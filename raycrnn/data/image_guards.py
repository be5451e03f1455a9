"""Checks on an image file before its pixels are decoded."""

import re
import struct
from collections.abc import Iterator

from PIL import TiffImagePlugin

from raycrnn.data.rejections import Rejected

MOST_IN_A_JPEG = {"scans": 100, "segments of Exif data": 16, "segments": 10_000, "bytes of padding": 2**16}
"""Each scan goes over all pixels, Exif data are joined in a time quadratic in their segments, and padding is read byte
after byte: what is a megabyte could take minutes. Progressive JPEGs have some ten scans; libtiff's limit is 100 too."""


JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""… of a segment: neither padding nor, in the midst of a scan, an escaped 255 or a point to restart at."""

JPEG_MARKERS_WITH_LENGTH = {*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xF0), 0xFE}

START_OF_SCAN, END_OF_IMAGE, APP1 = 0xDA, 0xD9, 0xE1


def check_jpeg(data: bytes) -> None:
    """Raises `Rejected` for a JPEG that would take far longer to decode than its pixels do."""
    counts = dict.fromkeys(MOST_IN_A_JPEG, 0)
    for marker, padding, position in _jpeg_segments(data):
        counts["segments"] += 1
        counts["segments of Exif data"] += marker == APP1 and data.startswith(b"Exif\x00\x00", position + 2)
        # Behind the first scan is not padding, but the picture.
        counts["bytes of padding"] += 0 if counts["scans"] else padding
        counts["scans"] += marker == START_OF_SCAN
        for what, most in MOST_IN_A_JPEG.items():
            if counts[what] > most:
                raise Rejected("damaged image", f"a JPEG of more than {most:,} {what}")
        # Before the first scan Pillow reads on.
        if marker == END_OF_IMAGE and counts["scans"]:
            return


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Of each segment the marker, how many bytes before it belong to none, and where its length stands; at last 0."""
    end = len(b"\xff\xd8")
    while found := JPEG_MARKER.search(data, end):
        marker, position = found[1][0], found.end()
        yield marker, found.start() - end, position
        with_length = marker in JPEG_MARKERS_WITH_LENGTH
        end = position + (max(2, int.from_bytes(data[position : position + 2], "big")) if with_length else 0)
    yield 0, len(data) - end, len(data)


TILE_SIDES = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)


def check_tiles(image: TiffImagePlugin.TiffImageFile, max_pixels: int) -> None:
    """Raises `Rejected` for tiles of more pixels than an image may have: each is decoded whole, whatever is shown."""
    sides = [image.tag_v2.get(tag) for tag in TILE_SIDES if tag in image.tag_v2]
    # What Pillow passes over, as a tag that stands there twice, libtiff may not.
    if sorted(tag for tag in _tags(image) if tag in TILE_SIDES) != list(TILE_SIDES[: len(sides)]):
        raise Rejected("damaged image", "a TIFF that does not tell plainly how large its tiles are")
    if not all(isinstance(side, int) for side in sides):
        raise Rejected("damaged image", f"a TIFF with tiles of {' × '.join(map(str, sides))}")
    if len(sides) == 2 and sides[0] * sides[1] > max_pixels:
        raise Rejected("too many pixels", f"tiles of {sides[0]} × {sides[1]}, more than {max_pixels:,}")


def _tags(image: TiffImagePlugin.TiffImageFile) -> list[int]:
    """The tags of a TIFF's first page, as they stand in the file."""
    file = image.fp
    file.seek(0)
    head = file.read(4)
    order, is_big = "<" if head.startswith(b"II") else ">", head[2] == 43
    count, entry = (8, f"{order}HHQQ") if is_big else (2, f"{order}HHLL")
    file.seek(image.tag_v2.offset)
    stated = int.from_bytes(file.read(count), "little" if order == "<" else "big")
    data = file.read(min(stated, 0xFFFF) * struct.calcsize(entry))
    whole = len(data) - len(data) % struct.calcsize(entry)
    return [tag for tag, *_ in struct.iter_unpack(entry, data[:whole])]
