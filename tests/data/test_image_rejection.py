"""Files that are corrupt, or would take long to decode, are rejected with a reason."""

import struct
import zlib
from contextlib import suppress
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin

from raycrnn.data import image
from raycrnn.data.rejections import Rejected
from tests.data.image_samples import GRADIENT_HW, WHOLE, encoded, png, rejection


def test_a_png_from_its_parts_is_decoded():
    assert np.array_equal(image.decode(png(3, 2, b"\0\x01\x02\x03\0\x04\x05\x06")), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    "size", [(30_000, 30_000), (8001, 8000), (64_000_001, 1), (1, 64_000_001), (2**31 - 1, 2**31 - 1)]
)
def test_an_image_with_too_many_pixels_is_rejected_by_its_header(size, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were loaded"))
    assert rejection(png(*size, b"")).reason == "too many pixels"


def test_a_gif_with_too_many_pixels_is_rejected_by_its_header():
    data = encoded(Image.new("P", (4, 4)), "GIF")
    assert rejection(data[:6] + b"\xff\xff\xff\xff" + data[10:]).reason == "too many pixels"


def with_segments(data: bytes, segments: bytes) -> bytes:
    """Return a JPEG with additional segments after its first two bytes."""
    return data[:2] + segments + data[2:]


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def with_scans(count: int) -> bytes:
    """Return a progressive JPEG with additional scans."""
    data = encoded(Image.new("L", (64, 48), 128), "JPEG", progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 1)
    # It is followed by the tables of the third scan.
    scan = data[second : data.index(b"\xff\xc4", second)]
    return data[:second] + scan * (count + 1) + b"\xff\xd9"


EXIF = segment(0xE1, b"Exif\x00\x00" + b"x" * 10)
COMMENT = segment(0xFE, b"")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (with_scans(2000), "more than 100 scans"),
        (with_segments(encoded(Image.fromarray(GRADIENT_HW), "JPEG"), EXIF * 17), "16 segments of Exif data"),
        # Pillow ignores an end-of-image marker that comes too early.
        (with_segments(encoded(Image.fromarray(GRADIENT_HW), "JPEG"), b"\xff\xd9" + EXIF * 17), "Exif"),
        (with_segments(encoded(Image.fromarray(GRADIENT_HW), "JPEG"), COMMENT * 11_000), "10,000 segments"),
        (with_segments(encoded(Image.fromarray(GRADIENT_HW), "JPEG"), b"\xff" * 70_000), "65,536 bytes of padding"),
        (with_segments(encoded(Image.fromarray(GRADIENT_HW), "JPEG"), b"\xff\xd0" * 70_000), "bytes of padding"),
        (b"\xff\xd8" + b"\xff" * 70_000, "bytes of padding"),
    ],
    ids=["scans", "exif", "exif behind an end", "segments", "padding", "restarts", "nothing else"],
)
def test_a_jpeg_that_would_take_long_to_decode_is_rejected_before(data, expected, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    found = rejection(data)
    assert found.reason == "damaged image"
    assert expected in found.detail


@pytest.mark.parametrize(
    "data",
    [
        with_scans(90),
        with_segments(encoded(Image.fromarray(GRADIENT_HW), "JPEG"), EXIF * 10),
        with_segments(encoded(Image.fromarray(GRADIENT_HW), "JPEG"), segment(0xFE, b"\xff\xda" * 1000)),
        # After the image, as in files with several images.
        encoded(Image.fromarray(GRADIENT_HW), "JPEG") + EXIF * 50,
        encoded(Image.effect_noise((500, 500), 100), "JPEG", quality=98, restart_marker_blocks=1),
    ],
    ids=["scans", "exif", "a comment", "behind", "restarts"],
)
def test_a_jpeg_with_many_segments_is_decoded(data):
    assert image.decode(data).width


def tiled(width: int, height: int, *more: tuple[int, int]) -> bytes:
    """Return a TIFF of 40 × 32 pixels in one compressed tile, with additional tags."""
    pixels = zlib.compress(bytes(1024 * 1024))
    tags = {256: 40, 257: 32, 258: 8, 259: 8, 262: 1, 277: 1}
    tags = [*tags.items(), (322, width), (323, height), *more, (324, 0), (325, len(pixels))]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 324 else value) for tag, value in tags)
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


@pytest.mark.parametrize(
    ("data", "reason", "expected"),
    [
        (tiled(20_000, 20_000), "too many pixels", "tiles of 20000 × 20000"),
        (tiled(16, 16, (322, 20_000), (323, 20_000)), "damaged image", "ambiguous tile sizes"),
    ],
)
def test_a_tiff_with_too_large_tiles_is_rejected_by_its_header(data, reason, expected, monkeypatch):
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", None)
    found = rejection(data)
    assert found.reason == reason
    assert expected in found.detail


def test_a_tiff_with_a_tile_larger_than_the_image_is_decoded():
    assert image.decode(tiled(1024, 1024)).size == (40, 32)


def test_an_image_with_exactly_max_pixels_is_decoded():
    assert image.decode(png(10, 10, b"\0" * 110), max_pixels=100).size == (10, 10)
    with pytest.raises(Rejected) as error:
        image.decode(png(10, 11, b"\0" * 121), max_pixels=100)
    assert error.value.reason == "too many pixels"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"a", "not an image"),
        (b"path;label\nimage.png;text\n", "not an image"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not an image"),
        (b"\0" * 1000, "not an image"),
        (b"\x89PNG\r\n\x1a\n", "damaged image"),
        (b"\xff\xd8\xff\xe0", "damaged image"),
        (b"II*\0\x08\0\0\0", "damaged image"),
        (png(3, 3, b""), "damaged image"),
        (png(0, 3, b""), "damaged image"),
        (png(3, 3, b"\x09" * 12), "damaged image"),
        (png(3, 3, b"\0" * 12).replace(b"IDAT", b"IDAX"), "damaged image"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_images_are_distinguished_from_other_files(data, reason):
    assert rejection(data).reason == reason


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.filterwarnings("ignore")
def test_a_truncated_image_is_rejected_unless_all_pixels_are_there(name):
    data = WHOLE[name]
    picture = np.asarray(image.decode(data, 3))
    whole = 0
    for length in [*range(18, len(data), max(1, len(data) // 150)), *range(len(data) - 30, len(data))]:
        try:
            found = np.asarray(image.decode(data[:length], 3))
        except Rejected as error:
            assert error.reason == "damaged image", length
        else:
            assert np.array_equal(found, picture), length
            whole += 1
    assert whole <= 50


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 277, 278, 279, 284])
@pytest.mark.filterwarnings("ignore")
def test_a_tiff_with_any_type_of_tag_is_decoded_or_rejected(tag):
    data = WHOLE["TIFF"]
    directory = struct.unpack_from("<I", data, 4)[0]
    entries = range(directory + 2, directory + 2 + 12 * struct.unpack_from("<H", data, directory)[0], 12)
    entry = next(place for place in entries if struct.unpack_from("<H", data, place)[0] == tag)
    for kind in range(15):
        for count in (0, 1, 2, 7):
            broken = bytearray(data)
            struct.pack_into("<HI", broken, entry + 2, kind, count)
            read_or_refused(bytes(broken))


def read_or_refused(data: bytes) -> None:
    with suppress(Rejected), NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert 8 <= image.fitted_width(image.measure(file.name), (32, 256)) <= 256
    try:
        # A lower limit keeps the test fast: a corrupt header can state a large size.
        array = image.prepare_image(data, (32, 256), 3, max_pixels=1_000_000).pixels
    except Rejected as error:
        assert error.reason in ("not an image", "unsupported image", "damaged image", "too many pixels")
        assert error.detail
    else:
        assert array.dtype == np.uint8
        assert array.shape[0] == 32
        assert 8 <= array.shape[1] <= 256
        assert array.shape[2] == 3


STARTS = st.sampled_from([b"", *image.SIGNATURES, b"BM", b"P5 ", b"P1 ", b"RIFF\0\0\0\0WEBP"])


@given(st.binary(max_size=200), STARTS)
@pytest.mark.filterwarnings("ignore")
def test_random_bytes_are_decoded_or_rejected(data, start):
    read_or_refused(start + data)


EDIT = st.tuples(st.integers(0, 2**16), st.sampled_from([-4, -1, 0, 1]), st.binary(min_size=1, max_size=4))
EDITS = st.lists(EDIT, min_size=1, max_size=6)
CUT = st.none() | st.integers(0, 4000)


def with_true_checksums(data: bytes) -> bytes:
    """Return a PNG with correct checksums, so that its corrupt chunks are read."""
    fixed, place = bytearray(data), 8
    while place + 12 <= len(fixed):
        end = place + 8 + struct.unpack_from(">I", fixed, place)[0]
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[place + 4 : end]))
        place = end + 4
    return bytes(fixed)


@given(st.sampled_from(sorted(WHOLE)), EDITS, CUT)
@pytest.mark.filterwarnings("ignore")
def test_a_corrupt_image_is_decoded_or_rejected(name, edits, cut):
    data = bytearray(WHOLE[name])
    for place, longer, content in edits:
        # Most edits are at the front, where headers are, and at the end, where a TIFF's can be.
        place = place % 128 if place % 4 < 2 else -1 - place % 200 if place % 4 == 2 else place % len(data)
        place %= len(data)
        data[place : place + max(0, len(content) - longer)] = content
    data = bytes(data[:cut])
    read_or_refused(with_true_checksums(data) if name.startswith("PNG") else data)
