"""Checks of image files before they are decoded.

A small file can be constructed so that decoding it takes minutes or gigabytes. The checks find the files for which the
number of pixels does not predict this.
"""

import re
import struct
from collections.abc import Iterator

from PIL import TiffImagePlugin

from raycrnn.data.rejections import Rejected

JPEG_LIMITS = {"scans": 100, "segments of Exif data": 16, "segments": 10_000, "bytes of padding": 2**16}
"""Limits of a JPEG file. Decoding takes time in proportion to scans × pixels and to the square of Exif segments, and
padding is read byte by byte: without limits, a file of 1 MB can take minutes. A progressive JPEG has about ten scans;
libtiff also allows 100."""

JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""The marker at the start of a segment. Not matched are padding bytes and, within a scan, an escaped 255 and restart
markers."""

JPEG_MARKERS_WITH_LENGTH = {*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xF0), 0xFE}

START_OF_SCAN, END_OF_IMAGE, APP1 = 0xDA, 0xD9, 0xE1

TILE_SIDES = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)


def check_jpeg(data: bytes) -> None:
    """Check that a JPEG file does not take much longer to decode than its size in pixels suggests.

    Raises:
        Rejected: The file exceeds one of `JPEG_LIMITS`.
    """
    counts = dict.fromkeys(JPEG_LIMITS, 0)
    for marker, padding, position in _jpeg_segments(data):
        counts["segments"] += 1
        counts["segments of Exif data"] += marker == APP1 and data.startswith(b"Exif\x00\x00", position + 2)
        # After the start of the first scan, the bytes between segments are image data.
        counts["bytes of padding"] += 0 if counts["scans"] else padding
        counts["scans"] += marker == START_OF_SCAN
        for what, limit in JPEG_LIMITS.items():
            if counts[what] > limit:
                raise Rejected("damaged image", f"a JPEG with more than {limit:,} {what}")
        # Pillow ignores an end-of-image marker before the first scan.
        if marker == END_OF_IMAGE and counts["scans"]:
            return


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, the number of bytes between it and the segment before, and the marker's end.

    The last item has marker 0 and stands for the end of the file.
    """
    end = len(b"\xff\xd8")
    while match := JPEG_MARKER.search(data, end):
        marker, position = match[1][0], match.end()
        yield marker, match.start() - end, position
        has_length = marker in JPEG_MARKERS_WITH_LENGTH
        end = position + (max(2, int.from_bytes(data[position : position + 2], "big")) if has_length else 0)
    yield 0, len(data) - end, len(data)


def check_tiles(image: TiffImagePlugin.TiffImageFile, max_pixels: int) -> None:
    """Check the tiles of a TIFF file, each of which is decoded completely, even where the image is smaller.

    Raises:
        Rejected: A tile has more than `max_pixels` pixels, or its size is ambiguous.
    """
    sides = [image.tag_v2.get(tag) for tag in TILE_SIDES if tag in image.tag_v2]
    # Where a tag is repeated, libtiff may use another value than Pillow.
    if sorted(tag for tag in _first_page_tags(image) if tag in TILE_SIDES) != list(TILE_SIDES[: len(sides)]):
        raise Rejected("damaged image", "a TIFF with ambiguous tile sizes")
    pixels = 1
    for side in sides:
        if not isinstance(side, int):
            raise Rejected("damaged image", f"a TIFF with tiles of {' × '.join(map(str, sides))}")
        pixels *= side
    if len(sides) == 2 and pixels > max_pixels:
        raise Rejected("too many pixels", f"tiles of {sides[0]} × {sides[1]}, more than {max_pixels:,}")


def _first_page_tags(image: TiffImagePlugin.TiffImageFile) -> list[int]:
    """Return the tags of a TIFF's first page in the order of the file, including repeated ones."""
    file = image.fp
    assert file is not None
    file.seek(0)
    head = file.read(4)
    order, is_big = "<" if head.startswith(b"II") else ">", head[2] == 43
    count, entry = (8, f"{order}HHQQ") if is_big else (2, f"{order}HHLL")
    file.seek(image.tag_v2.offset)
    stated = int.from_bytes(file.read(count), "little" if order == "<" else "big")
    data = file.read(min(stated, 0xFFFF) * struct.calcsize(entry))
    complete = len(data) - len(data) % struct.calcsize(entry)
    return [tag for tag, *_ in struct.iter_unpack(entry, data[:complete])]
