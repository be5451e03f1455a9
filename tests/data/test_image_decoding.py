"""Every format, mode and orientation is decoded to the right pixels."""

import warnings

import numpy as np
import pytest
from PIL import Image

from raycrnn.data import image
from tests.data.image_samples import COLOURS_HWC, GRADIENT_HW, TURNED, cmyk, encoded, grey_of

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
