"""Checks of image files before they are decoded, and removal of their metadata.

A small file can be constructed so that decoding it takes minutes or gigabytes. The checks find the files for which the
number of pixels does not predict this. Metadata is removed because Pillow refuses a whole picture where its metadata is
large or malformed; of the metadata, only the orientation counts.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Sequence

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

JPEG_METADATA = {0xE0: 16, **dict.fromkeys(range(0xE2, 0xEE), 2**16), 0xEE: 14, 0xEF: 2**16, 0xFE: 2**16}
"""Markers of the segments that are removed if they are shorter than this. JFIF (0xE0) and Adobe (0xEE) segments state
the colour space, and APP1 the orientation; libjpeg ignores shorter ones, Pillow fails."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

PNG_CHUNK_HEAD = struct.Struct(">I4s")

PNG_KEPT = {b"tRNS", b"eXIf"}
"""The ancillary chunks that change what is decoded: transparency and orientation."""

PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}

PNG_ORIENTATION_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Beginnings of the texts that can contain the orientation."""

MAX_PNG_TEXT = 2**20
"""Bytes of a text that is searched for the orientation, decompressed; Pillow refuses a picture with a longer one."""

RAW_PHOTO_TAGS = (50706, 33421)
"""The TIFF tags DNGVersion and CFARepeatPatternDim, of files that contain the data of a camera's sensor."""

NEW_SUBFILE_TYPE, SUB_IFDS = 254, 330

TILE_SIDES = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)


def checked_jpeg(data: bytes) -> bytes:
    """Return a JPEG file without metadata, if it does not take much longer to decode than its pixels suggest.

    Raises:
        Rejected: The file exceeds one of `JPEG_LIMITS`.
    """
    counts, metadata = dict.fromkeys(JPEG_LIMITS, 0), []
    for marker, padding, position in _jpeg_segments(data):
        end = position + max(2, int.from_bytes(data[position : position + 2], "big"))
        if end - position < JPEG_METADATA.get(marker, 0) and end < len(data):
            metadata.append((position - 2, end))
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
            break
    return _without(data, metadata)


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


def without_png_metadata(data: bytes) -> bytes:
    """Return a PNG file with only the chunks that change what is decoded.

    Of an animation, only the default image stays. Texts stay if they can contain the orientation, up to `MAX_PNG_TEXT`.
    """
    metadata, position = [], len(PNG_SIGNATURE)
    while position + PNG_CHUNK_HEAD.size <= len(data):
        length, kind = PNG_CHUNK_HEAD.unpack_from(data, position)
        end = position + PNG_CHUNK_HEAD.size + length + 4
        # The case of the first letter tells whether a decoder may ignore a chunk (PNG, section 5.4).
        if kind[:1].islower() and kind not in PNG_KEPT and not _states_orientation(data, kind, position, end):
            metadata.append((position, end))
        position = end
        if kind == b"IEND":
            break
    return _without(data, metadata)


def _states_orientation(data: bytes, kind: bytes, position: int, end: int) -> bool:
    """Return whether a chunk is a text that Pillow would search for the orientation, and can read."""
    start = position + PNG_CHUNK_HEAD.size
    keyword = next((text for text in PNG_ORIENTATION_TEXTS if data.startswith(text, start)), None)
    if kind not in PNG_TEXTS or keyword is None or zlib.crc32(data[position + 4 : end - 4]) != _integer(data, end - 4):
        return False
    text = data[start + len(keyword) : end - 4]
    if kind == b"iTXt":
        flags, _, text = text[:2], *text[2:].partition(b"\0")[1:]
        is_compressed, text = flags == b"\1\0", text.partition(b"\0")[2]
    else:
        is_compressed, text = kind == b"zTXt" and text[:1] == b"\0", text[kind == b"zTXt" :]
    if not is_compressed:
        return len(text) <= MAX_PNG_TEXT
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(text, MAX_PNG_TEXT)
    except zlib.error:
        return False
    return not decompressor.unconsumed_tail


def _integer(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "big")


def _without(data: bytes, ranges: Sequence[tuple[int, int]]) -> bytes:
    """Return data without some ranges, which are in order."""
    if not ranges:
        return data
    starts = [0, *(end for _, end in ranges)]
    ends = [*(start for start, _ in ranges), len(data)]
    return b"".join(memoryview(data)[start:end] for start, end in zip(starts, ends, strict=True))


def check_raw_photo(image: TiffImagePlugin.TiffImageFile) -> None:
    """Check that a TIFF is not a camera's raw photo, of which Pillow would decode the thumbnail.

    Raises:
        Rejected: It is one.
    """
    tags = image.tag_v2
    is_reduced = isinstance(kind := tags.get(NEW_SUBFILE_TYPE), int) and kind & 1
    if any(tag in tags for tag in RAW_PHOTO_TAGS) or (is_reduced and SUB_IFDS in tags):
        raise Rejected("unsupported image", "a raw photo of a camera (such as DNG or NEF): develop it to JPEG or TIFF")


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
