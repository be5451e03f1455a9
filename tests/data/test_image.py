"""Decoding of every format and mode, rejection of corrupt files, measuring and fitting."""

import io
import os
import struct
import warnings
import zlib
from contextlib import suppress
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin

from raycrnn.data import image, image_files
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


# --- formats

LOSSLESS = [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("PPM", {})]
LOSSLESS += [("WEBP", {"lossless": True}), ("JPEG2000", {}), ("TIFF", {"compression": "tiff_adobe_deflate"})]


@pytest.mark.parametrize(("file_format", "options"), LOSSLESS)
def test_lossless_formats_are_decoded_exactly(file_format, options):
    data = encoded(Image.fromarray(COLOURS_HWC), file_format, **options)
    assert np.array_equal(image.decode(data, 3), COLOURS_HWC)
    assert np.abs(np.asarray(image.decode(data, 1)) - grey_of(COLOURS_HWC)).max() <= 1


@pytest.mark.parametrize("options", [{}, {"interlace": 1}])
def test_a_grey_gif_is_decoded_exactly(options):
    data = encoded(Image.fromarray(GRADIENT_HW), "GIF", **options)
    assert np.array_equal(image.decode(data), GRADIENT_HW)


@pytest.mark.parametrize("options", [{"quality": 95}, {"quality": 95, "progressive": True}])
def test_a_jpeg_is_decoded_approximately(options):
    ramp_HWC = np.dstack([np.add.outer(np.arange(20), np.arange(40) * k) for k in (1, 2, 3)]).astype(np.uint8)
    data = encoded(Image.fromarray(ramp_HWC), "JPEG", subsampling=0, **options)
    assert np.abs(np.asarray(image.decode(data, 3)).astype(int) - ramp_HWC).max() <= 8
    assert np.abs(np.asarray(image.decode(data, 1)) - grey_of(ramp_HWC)).max() <= 5


@pytest.mark.parametrize("file_format", ["TIFF", "GIF", "WEBP"])
def test_only_the_first_page_is_decoded(file_format):
    pages = [Image.new("L", (12, 8), level) for level in (200, 20, 90)]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(pages[0], file_format, save_all=True, append_images=pages[1:], **options)
    assert set(np.asarray(image.decode(data)).ravel()) == {200}


# --- modes


@pytest.mark.parametrize("channels", [1, 3])
def test_black_and_white_becomes_0_and_255(channels):
    bits_HW = np.indices((9, 13)).sum(0) % 2 == 0
    array = np.asarray(image.decode(encoded(Image.fromarray(bits_HW), "PNG"), channels))
    expected = bits_HW * np.uint8(255)
    assert np.array_equal(array, expected if channels == 1 else np.stack([expected] * 3, axis=2))


def test_grey_becomes_three_equal_channels():
    array = np.asarray(image.decode(encoded(Image.fromarray(GRADIENT_HW), "PNG"), 3))
    assert np.array_equal(array, np.stack([GRADIENT_HW] * 3, axis=2))


def test_grey_with_alpha_is_blended_with_white():
    grey_HW, alpha_HW = np.meshgrid(np.arange(0, 256, 5, np.uint8), np.arange(0, 256, 15, np.uint8))
    data = encoded(Image.merge("LA", [Image.fromarray(grey_HW), Image.fromarray(alpha_HW)]), "PNG")
    expected = grey_HW * (alpha_HW / 255) + 255 * (1 - alpha_HW / 255)
    assert np.abs(np.asarray(image.decode(data)) - expected).max() <= 1


def test_colour_with_alpha_is_blended_with_white():
    alpha_HW = np.tile(np.arange(40, dtype=np.uint8) * 6, (20, 1))
    data = encoded(Image.fromarray(np.dstack([COLOURS_HWC, alpha_HW])), "PNG")
    share = alpha_HW[:, :, None] / 255
    expected = COLOURS_HWC * share + 255 * (1 - share)
    assert np.abs(np.asarray(image.decode(data, 3)) - expected).max() <= 1
    assert np.abs(np.asarray(image.decode(data, 1)) - grey_of(expected)).max() <= 2


def test_palettes_are_applied_and_their_transparent_entry_is_white():
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    picture.putdata([0, 1, 2])
    expected = [[10, 20, 30], [200, 100, 50]]
    for file_format in ("PNG", "GIF"):
        opaque = np.asarray(image.decode(encoded(picture, file_format), 3))
        assert opaque[0].tolist() == [*expected, [0, 0, 0]]
        transparent = np.asarray(image.decode(encoded(picture, file_format, transparency=2), 3))
        assert transparent[0].tolist() == [*expected, [255, 255, 255]]
    halves = np.asarray(image.decode(encoded(picture, "PNG", transparency=bytes([255, 0, 51])), 3))
    assert halves[0].tolist() == [expected[0], [255, 255, 255], [204, 204, 204]]


@pytest.mark.parametrize(("mode", "ink"), [("L", 7), ("RGB", (7, 8, 9)), ("1", 0)])
def test_a_colour_declared_transparent_is_white(mode, ink):
    data = encoded(Image.new(mode, (8, 8), ink), "PNG", transparency=ink)
    for channels in (1, 3):
        assert np.asarray(image.decode(data, channels)).min() == 255


def test_cmyk_is_converted_to_rgb():
    inks_HWC = np.dstack([COLOURS_HWC, GRADIENT_HW // 2])
    data = encoded(cmyk(inks_HWC), "TIFF")
    expected = (255 - inks_HWC[:, :, :3].astype(float)) * (255 - inks_HWC[:, :, 3:].astype(float)) / 255
    assert np.abs(np.asarray(image.decode(data, 3)) - expected).max() <= 2
    assert np.abs(np.asarray(image.decode(data, 1)) - grey_of(expected)).max() <= 3


DEEP_HW = np.linspace(0, 65535, 20 * 40).reshape(20, 40).astype(np.uint16)


def pgm(deep_HW: np.ndarray) -> bytes:
    height, width = deep_HW.shape
    return b"P5 %d %d 65535\n" % (width, height) + deep_HW.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "data",
    [encoded(Image.fromarray(DEEP_HW), "PNG"), encoded(Image.fromarray(DEEP_HW), "TIFF"), pgm(DEEP_HW)],
    ids=["PNG", "TIFF", "PGM"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_scaled_not_clipped(data, channels):
    array = np.asarray(image.decode(data, channels)).reshape(20, 40, -1)
    assert np.abs(array - (DEEP_HW / 257)[:, :, None]).max() <= 1


def test_dark_16_bit_grey_stays_dark_in_every_format():
    dark_HW = DEEP_HW // 4
    picture = Image.fromarray(dark_HW)
    for data in (encoded(picture, "PNG"), encoded(picture, "TIFF"), pgm(dark_HW)):
        assert np.abs(np.asarray(image.decode(data)) - dark_HW / 257).max() <= 1


def test_floats_are_scaled_and_nan_is_black():
    floats_HW = np.linspace(0, 1000, 800, dtype=np.float32).reshape(20, 40)
    expected_HW = floats_HW * (255 / 1000)
    floats_HW[3, 4], floats_HW[5, 6] = np.nan, -np.inf
    expected_HW[3, 4] = expected_HW[5, 6] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = np.asarray(image.decode(encoded(Image.fromarray(floats_HW), "TIFF")))
    assert np.abs(array - expected_HW).max() <= 1


# --- orientation

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


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_an_image_is_rotated_by_its_exif_orientation(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(Image.fromarray(COLOURS_HWC), file_format, exif=exif, **lossless)
    assert np.array_equal(image.decode(data, 3), TURNED[orientation](COLOURS_HWC))


def test_a_jpeg_is_rotated_by_its_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    left_dark_HW = np.repeat([[0] * 16 + [255] * 16], 16, axis=0).astype(np.uint8)
    turned = np.asarray(image.decode(encoded(Image.fromarray(left_dark_HW), "JPEG", exif=exif)))
    assert turned.shape == (32, 16)
    assert turned[:14].max() < 10
    assert turned[18:].min() > 245


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0garbage", b"Exif\0\0", b"II*\0\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore")
def test_an_image_with_corrupt_exif_data_is_decoded(file_format, exif):
    picture = Image.fromarray(COLOURS_HWC)
    plain = image.decode(encoded(picture, file_format), 3)
    assert np.array_equal(image.decode(encoded(picture, file_format, exif=exif), 3), plain)


# --- rejection


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG of 8-bit grey, whose rows need not match its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


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


# --- files


def test_files_are_read_by_path_and_by_uri(tmp_path):
    path = tmp_path / "á b.png"
    path.write_bytes(b"content")
    assert image_files.read_bytes(str(path)) == b"content"
    assert image_files.read_bytes(path.as_uri()) == b"content"


def test_the_rejection_of_a_missing_file_names_it(tmp_path):
    for path in (f"{tmp_path}/nowhere.png", f"file://{tmp_path}/nowhere.png"):
        with pytest.raises(Rejected) as caught:
            image_files.read_bytes(path)
        assert caught.value.reason == "no such file"
        assert "nowhere.png" in caught.value.detail


def test_the_rejection_of_an_unreadable_file_names_it(tmp_path):
    for path in (str(tmp_path), f"file://{tmp_path}", "a\0b.png", "gopher://host/a.png", "x" * 5000):
        with pytest.raises(Rejected) as caught:
            image_files.read_bytes(path)
        assert caught.value.reason == "cannot be read"
        assert caught.value.detail.startswith(path)


@pytest.mark.parametrize("read", [image_files.read_bytes, image.measure])
def test_a_named_pipe_is_rejected(tmp_path, read):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(Rejected) as caught:
        read(str(tmp_path / "a.png"))
    assert caught.value.reason == "cannot be read"


def test_an_empty_file_and_a_text_file_are_not_images(tmp_path):
    for content in (b"", b"This is a text.\n"):
        (tmp_path / "a.png").write_bytes(content)
        assert rejection(image_files.read_bytes(str(tmp_path / "a.png"))).reason == "not an image"


# --- measuring


@pytest.mark.parametrize("name", WHOLE)
def test_measuring_the_header_gives_the_width_of_the_fitted_image(tmp_path, name, monkeypatch):
    (tmp_path / "whole").write_bytes(WHOLE[name])
    expected = [image.prepare(WHOLE[name], shape, 3).shape[1] for shape in ((32, 1024), (48, 50))]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were loaded"))
    size = image.measure(str(tmp_path / "whole"))
    assert [image.fitted_width(size, shape) for shape in ((32, 1024), (48, 50))] == expected


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_rotated_image_is_measured_upright(tmp_path, orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(COLOURS_HWC), file_format, exif=exif)
    (tmp_path / "turned").write_bytes(data)
    assert image.fitted_width(image.measure(str(tmp_path / "turned")), (32, 1024)) == (64 if orientation < 5 else 16)
    assert image.prepare(data, (32, 1024), 3).shape[1] == (64 if orientation < 5 else 16)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0garbage", b"Exif\0\0", b"II*\0\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore")
def test_an_image_with_corrupt_exif_data_is_measured(tmp_path, file_format, exif):
    # Without a resolution, Pillow would look for it in a JPEG's EXIF data.
    data = encoded(Image.fromarray(COLOURS_HWC), file_format, exif=exif, dpi=(72, 72))
    (tmp_path / "broken").write_bytes(data)
    assert image.fitted_width(image.measure(str(tmp_path / "broken")), (32, 1024)) == 64


def measured(path: str) -> str:
    """Return the reason of the rejection."""
    with pytest.raises(Rejected) as caught:
        image.fitted_width(image.measure(path), (32, 1024))
    return caught.value.reason


@pytest.mark.filterwarnings("ignore")
def test_measuring_rejects_files_for_the_same_reasons_as_decoding(tmp_path):
    assert measured(f"{tmp_path}/nowhere.png") == "no such file"
    for path in (str(tmp_path), "a\0b.png", "x" * 5000):
        assert measured(path) == "cannot be read"
    for content, reason in [
        (b"", "not an image"),
        (b"text", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "damaged image"),
        (WHOLE["TIFF"][:100], "damaged image"),
        (png(30_000, 30_000, b""), "too many pixels"),
        (png(8001, 8000, b""), "too many pixels"),
    ]:
        (tmp_path / "a.png").write_bytes(content)
        assert measured(str(tmp_path / "a.png")) == reason


# --- fitting

SIZES = st.tuples(st.integers(1, 400), st.integers(1, 120))


@given(SIZES, st.sampled_from([32, 48, 64]), st.integers(8, 300))
def test_fitting_keeps_the_aspect_ratio_within_the_greatest_width(size, height, greatest_width):
    fitted = image.fit(Image.new("L", size), height, greatest_width)
    scaled = size[0] * height / size[1]
    assert fitted.height == height
    assert 8 <= fitted.width <= greatest_width
    if 8 <= scaled <= greatest_width:
        assert abs(fitted.width - scaled) <= 0.5
    else:
        assert fitted.width == (8 if scaled < 8 else greatest_width)


def test_an_image_of_the_right_height_is_not_changed():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 100), dtype=np.uint8))
    assert np.array_equal(image.fit(picture, 32, 1024), picture)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_fitting_keeps_mode_and_positions(mode):
    picture = Image.new(mode, (200, 100))
    picture.paste(Image.new(mode, (100, 100), "white"), (100, 0))
    fitted = np.asarray(image.fit(picture, 32, 1024)).reshape(32, 64, -1)
    assert fitted.shape[2] == len(mode)
    assert fitted[:, :30].max() == 0
    assert fitted[:, 34:].min() == 255


@given(SIZES, st.integers(1, 100))
def test_limit_height_only_shrinks_and_keeps_the_aspect_ratio(size, most):
    picture = Image.new("L", size)
    limited = image.limit_height(picture, most)
    if size[1] <= most:
        assert limited is picture
    else:
        assert limited.height == most
        assert limited.width == 1 or abs(limited.width - size[0] * most / size[1]) <= 0.5


def test_min_width_is_the_smallest_width_with_a_frame():
    assert min(width for width in range(1, 100) if image.frames(width) >= 1) == image.MIN_WIDTH


@given(st.integers(8, 5000))
def test_frames_follow_from_two_poolings_and_one_convolution(width):
    after_pools = len(range(0, len(range(0, width - 1, 2)) - 1, 2))
    assert image.frames(width) == len(range(after_pools - 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_prepared_to_the_shape_the_network_reads(channels):
    data = encoded(Image.fromarray(COLOURS_HWC), "PNG")
    array = image.prepare(data, (32, 1024), channels)
    assert array.shape == (32, 64, channels)
    assert array.dtype == np.uint8
    assert image.prepare(data, (32, 50), channels).shape == (32, 50, channels)
    expected = image.fit(image.decode(data, channels), 32, 1024)
    assert np.array_equal(array, np.asarray(expected).reshape(32, 64, channels))


def test_augmented_images_are_at_most_twice_as_high_as_the_input():
    seen = []

    def augment(picture):
        seen.append((picture.mode, picture.size))
        return Image.new("RGB", (32, 32), "white")

    for size in [(400, 200), (100, 20)]:
        array = image.prepare(encoded(Image.new("L", size), "PNG"), (32, 1024), 3, augment)
        assert array.shape == (32, 64 if size[1] == 200 else 160, 3)
        assert array.min() == 255
    assert seen == [("RGB", (128, 64)), ("RGB", (100, 20))]


@given(st.lists(st.integers(8, 100), min_size=1, max_size=6), st.sampled_from([1, 3]))
def test_a_batch_is_padded_with_zeros_to_a_multiple_of_16(widths, channels):
    random = np.random.default_rng(0)
    images = [random.integers(1, 256, (32, width, channels), dtype=np.uint8) for width in widths]
    images_BCHW, widths_B = image.collate(images)
    assert widths_B.tolist() == widths
    assert widths_B.dtype == np.int64
    batch, padded_channels, height, padded_width = images_BCHW.shape
    assert (batch, padded_channels, height) == (len(widths), channels, 32)
    assert padded_width % 16 == 0
    assert 0 <= padded_width - max(widths) < 16
    assert images_BCHW.dtype == np.uint8
    assert images_BCHW.flags.c_contiguous
    for i, (single_HWC, width) in enumerate(zip(images, widths, strict=True)):
        for channel in range(channels):
            assert np.array_equal(images_BCHW[i, channel, :, :width], single_HWC[:, :, channel])
        assert not images_BCHW[i, :, :, width:].any()
