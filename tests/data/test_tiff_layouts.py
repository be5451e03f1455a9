"""TIFF layouts as archives have them: 16-bit grey with alpha, white is zero, 12 bits, CIELab, unsupported ones."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from raycrnn.data import image
from raycrnn.data.rejections import Rejected
from tests.data.image_samples import encoded

HEIGHT, WIDTH = 20, 40
DEEP_HW = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
ALPHA_HW = np.repeat(np.array([0, 32768, 65535, 65535], np.uint16), 10)[None].repeat(HEIGHT, axis=0)
BLENDED_HW = DEEP_HW / 257 * (ALPHA_HW / 65535) + 255 * (1 - ALPHA_HW / 65535)

SHORT, LONG = 3, 4
WIDTH_TAG, HEIGHT_TAG, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, SAMPLES = 256, 257, 258, 259, 262, 273, 277
ROWS_PER_STRIP, STRIP_BYTES, MAX_VALUE, PREDICTOR, EXTRA_SAMPLES, S_MAX_VALUE = 278, 279, 281, 317, 338, 341


def tiff(pixels: bytes, tags: dict[int, tuple[int, ...]], order: str = "<") -> bytes:
    """Return a TIFF of one strip: PhotometricInterpretation 1 and no compression, unless the tags say otherwise."""
    values = {WIDTH_TAG: (WIDTH,), HEIGHT_TAG: (HEIGHT,), COMPRESSION: (1,), PHOTOMETRIC: (1,), SAMPLES: (1,)}
    values |= {ROWS_PER_STRIP: (HEIGHT,), OFFSETS: (0,), STRIP_BYTES: (len(pixels),), **tags}
    start = 8 + 2 + 12 * len(values) + 4
    entries, elsewhere = b"", b""
    longer = sum(2 * len(value) for tag, value in values.items() if len(value) > 2)
    for tag, value in sorted(values.items()):
        kind = LONG if tag in (OFFSETS, STRIP_BYTES) else SHORT
        if tag == OFFSETS:
            value = (start + longer,)
        content = struct.pack(f"{order}{len(value)}{'H' if kind == SHORT else 'I'}", *value)
        if len(content) > 4:
            elsewhere, content = elsewhere + content, struct.pack(f"{order}I", start + len(elsewhere))
        entries += struct.pack(f"{order}HHI", tag, kind, len(value)) + content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(values))
    return head + entries + bytes(4) + elsewhere + pixels


def assert_decoded(data: bytes, expected_HW: np.ndarray) -> None:
    for channels in (1, 3):
        array_HWC = np.asarray(image.decode(data, channels)).reshape(HEIGHT, WIDTH, channels)
        assert np.abs(array_HWC - expected_HW[:, :, None]).max() <= 1.5


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extra", [0, 1, 2], ids=["unspecified", "associated", "unassociated"])
@pytest.mark.parametrize("compression", ["none", "deflate", "predictor"])
def test_16_bit_grey_with_alpha_is_decoded(order, extra, compression):
    grey_HW = (DEEP_HW * (ALPHA_HW / 65535)).astype(np.uint16) if extra == 1 else DEEP_HW
    pairs_HW2 = np.dstack([grey_HW, ALPHA_HW])
    tags = {BITS: (16, 16), SAMPLES: (2,), EXTRA_SAMPLES: (extra,)}
    if compression == "predictor":
        pairs_HW2[:, 1:] -= pairs_HW2[:, :-1].copy()
        tags[PREDICTOR] = (2,)
    pixels = pairs_HW2.astype(f"{order}u2").tobytes()
    if compression != "none":
        pixels = zlib.compress(pixels)
        tags[COMPRESSION] = (8,)
    assert_decoded(tiff(pixels, tags, order), BLENDED_HW if extra else DEEP_HW / 257)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_16_bit_grey_where_white_is_zero_is_not_a_negative(order, compressed):
    pixels = (65535 - DEEP_HW).astype(f"{order}u2").tobytes()
    tags = {BITS: (16,), PHOTOMETRIC: (0,), COMPRESSION: (8 if compressed else 1,)}
    data = tiff(zlib.compress(pixels) if compressed else pixels, tags, order)
    assert_decoded(data, DEEP_HW / 257)


def test_16_bit_grey_with_alpha_where_white_is_zero_is_not_a_negative():
    pixels = np.dstack([65535 - DEEP_HW, ALPHA_HW]).astype("<u2").tobytes()
    tags = {BITS: (16, 16), SAMPLES: (2,), EXTRA_SAMPLES: (2,), PHOTOMETRIC: (0,)}
    assert_decoded(tiff(pixels, tags), BLENDED_HW)


def test_a_white_is_zero_image_that_pillow_opened_is_not_a_negative(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff((65535 - DEEP_HW).tobytes(), {BITS: (16,), PHOTOMETRIC: (0,)}))
    with Image.open(tmp_path / "a.tif") as opened:
        pixels = image.prepare_image(opened, (HEIGHT, WIDTH), 1).pixels
    assert np.abs(pixels[:, :, 0] - DEEP_HW / 257).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_fewer_bits_in_16_become_all_grey_levels(bits, white_is_zero):
    shallow_HW = DEEP_HW >> (16 - bits)
    stored_HW = 2**bits - 1 - shallow_HW if white_is_zero else shallow_HW
    assert_decoded(tiff(stored_HW.tobytes(), {BITS: (16,), PHOTOMETRIC: (int(not white_is_zero),)}), DEEP_HW / 257)
    if not white_is_zero:
        assert_decoded(encoded(Image.fromarray(shallow_HW), "PNG"), DEEP_HW / 257)


@pytest.mark.parametrize("tag", [MAX_VALUE, S_MAX_VALUE])
def test_the_stated_highest_value_decides_which_bits_are_in_use(tag):
    assert_decoded(tiff((DEEP_HW >> 2).tobytes(), {BITS: (16,), tag: (16383,)}), DEEP_HW / 257)
    assert_decoded(tiff((DEEP_HW >> 6).tobytes(), {BITS: (16,), tag: (4095,)}), DEEP_HW / 257 / 4)


def test_12_bit_grey_becomes_all_grey_levels():
    pairs = (DEEP_HW >> 4).reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    assert_decoded(tiff(packed.astype(np.uint8).tobytes(), {BITS: (12,)}), DEEP_HW / 257)


@pytest.mark.parametrize("extra", [1, 2])
def test_8_bit_grey_with_alpha_is_blended(extra):
    grey_HW, alpha_HW = (DEEP_HW >> 8).astype(np.uint8), (ALPHA_HW >> 8).astype(np.uint8)
    if extra == 1:
        grey_HW = (grey_HW * (alpha_HW / 255)).astype(np.uint8)
    tags = {BITS: (8, 8), SAMPLES: (2,), EXTRA_SAMPLES: (extra,)}
    for channels in (1, 3):
        array = np.asarray(image.decode(tiff(np.dstack([grey_HW, alpha_HW]).tobytes(), tags), channels))
        assert np.abs(array.reshape(HEIGHT, WIDTH, -1) - BLENDED_HW[:, :, None]).max() <= 3


def test_cielab_is_decoded_in_grey_and_colour():
    lab_HWC = np.dstack([DEEP_HW >> 8, np.zeros((HEIGHT, WIDTH, 2), np.uint16)]).astype(np.uint8)
    data = tiff(lab_HWC.tobytes(), {BITS: (8, 8, 8), SAMPLES: (3,), PHOTOMETRIC: (8,)})
    colour_HWC = np.asarray(image.decode(data, 3)).astype(int)
    assert np.ptp(colour_HWC, axis=2).max() <= 2
    assert colour_HWC[0, 0].max() <= 2
    assert colour_HWC[-1, -1].min() >= 253
    assert np.abs(np.asarray(image.decode(data, 1)) - colour_HWC.mean(2)).max() <= 2


@pytest.mark.parametrize(
    ("tags", "detail"),
    [
        ({BITS: (16, 16, 16), SAMPLES: (3,), PHOTOMETRIC: (8,)}, "PhotometricInterpretation 8"),
        ({BITS: (8,), COMPRESSION: (34712,)}, "Compression 34712"),
        ({BITS: (64,)}, "BitsPerSample (64,)"),
    ],
)
def test_a_layout_that_cannot_be_decoded_is_unsupported_and_not_damaged(tmp_path, tags, detail):
    data = tiff(bytes(6 * HEIGHT * WIDTH), tags)
    with pytest.raises(Rejected) as caught:
        image.decode(data)
    assert caught.value.reason == "unsupported image"
    assert detail in caught.value.detail
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(Rejected) as caught:
        image.measure(str(tmp_path / "a.tif"))
    assert caught.value.reason == "unsupported image"


def test_a_jpeg_of_12_bits_is_unsupported_and_not_damaged():
    data = encoded(Image.new("L", (40, 20)), "JPEG")
    frame = data.index(b"\xff\xc0")
    with pytest.raises(Rejected) as caught:
        image.decode(data[: frame + 4] + b"\x0c" + data[frame + 5 :])
    assert caught.value.reason == "unsupported image"
    assert "12-bit" in caught.value.detail
