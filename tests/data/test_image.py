"""Files are read, measured by their headers, and fitted to the input of a network."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from raycrnn.data import image, image_files
from raycrnn.data.rejections import Rejected
from tests.data.image_samples import COLOURS_HWC, TURNED, WHOLE, encoded, png, rejection

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
