"""Decode image files and fit them to the network's input: uint8 [height, width, channels].

Training, evaluation, prediction and serving all use this preprocessing. Shape suffixes: B batch, C channels, H height,
W width.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from raycrnn import storage
from raycrnn.data import file_kinds, image_files, image_guards, image_modes, tiff_layouts
from raycrnn.data.orientation import LineOrientation, make_horizontal
from raycrnn.data.rejections import Rejected

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
"""Pillow's decoders that are used. Others are not, because some of them start external programs."""

JPEG_SIGNATURE, TIFF_SIGNATURES = b"\xff\xd8\xff", (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

SIGNATURES = (image_guards.PNG_SIGNATURE, JPEG_SIGNATURE, *TIFF_SIGNATURES, b"GIF87a", b"GIF89a")
"""A file that starts with one of these is an image, even if the rest of its header is missing."""

UNSUPPORTED = re.compile("unsupported|not (yet )?supported|cannot handle|unknown pixel mode", re.IGNORECASE)
"""What Pillow's errors say about a whole file in a variant of its format that Pillow cannot decode."""

PNG_ORIENTATION = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}
"""The metadata of a PNG in which Pillow looks for its orientation."""

MAX_PIXELS = 64_000_000
"""Larger images are rejected by their header, before memory is allocated: as RGB, 64 million pixels take 192 MB."""

MIN_WIDTH = 8
"""The smallest width in pixels for which the network has a frame."""

WIDTH_STEP = 16
"""Batches are padded to a multiple of this width, so that kernels are compiled for few different shapes."""

REDUCING_GAP = 3.0
"""Pillow's reducing_gap: larger images are first reduced by an integer factor to at least this multiple of their final
size, which is faster."""

Augment = Callable[[Image.Image], Image.Image]

ImageInput = str | Path | bytes | Image.Image | np.ndarray
"""An image: a path or URI, the bytes of an image file, a Pillow image, or an array uint8 [H, W], [H, W, 1] (grey),
[H, W, 3] (RGB) or [H, W, 4] (RGBA)."""


@dataclass(frozen=True)
class PreparedImage:
    """An image as the network reads it."""

    pixels: np.ndarray
    """uint8 [H, W, C], fitted to the network's input."""
    original_size: tuple[int, int]
    """Width and height in pixels of the image that was given, after rotation by its EXIF orientation."""
    name: str | None = None
    """The path or URI, if the image was given as one."""


# --- frames


def frames(width: int) -> int:
    """Return the frames of a width in pixels: two poolings halve it, and the last convolution removes one column."""
    return width // 4 - 1


# --- decoding


def decode(data: bytes, channels: int = 1, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file to mode L (1 channel) or RGB (3), upright and on an opaque background.

    Only the first page of a file is decoded.

    Raises:
        Rejected: The data are not an image, are damaged, or have more than `max_pixels` pixels.
    """
    return upright(_open_bytes(data, max_pixels), channels, max_pixels)


def upright(image: Image.Image, channels: int = 1, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Convert an image to mode L (1 channel) or RGB (3), rotated by its EXIF orientation and on an opaque background.

    The background is white, or black if on white nothing could be seen. The given image is not changed.

    Raises:
        Rejected: The pixels cannot be decoded, or there are more than `max_pixels`.
    """
    _check_size(image, max_pixels)
    try:
        image.load()
        converted = image_modes.convert(image, "L" if channels == 1 else "RGB")
        turn = image_modes.TURNS.get(image_modes.orientation(image))
        return converted if turn is None else converted.transpose(turn)
    except Exception as error:
        raise _rejected(error) from None


def _rejected(error: Exception) -> Rejected:
    """Return the rejection of a file that Pillow cannot decode."""
    if UNSUPPORTED.search(str(error)):
        return Rejected("unsupported image", f"Pillow cannot decode this variant of the format: {error}")
    return Rejected("damaged image", f"{type(error).__name__}: {error}")


def measure(path: str) -> tuple[int, int]:
    """Return the upright width and height in pixels of a local image, reading only its header.

    Raises:
        Rejected: The file cannot be read, or its header is not that of a usable image.
    """
    if not image_files.is_whole_file(path):
        return size_of(io.BytesIO(image_files.read_bytes(path)))
    try:
        image_files.check_no_pipe(path)
        with open(path, "rb") as file:
            return size_of(file)
    except FileNotFoundError:
        return measure(image_files.in_other_form(path))
    except (OSError, ValueError) as error:
        reason = storage.describe(error) if isinstance(error, OSError) else str(error)
        raise Rejected("cannot be read", f"{path}: {reason}") from None


def size_of(file: IO[bytes]) -> tuple[int, int]:
    """Return the upright width and height in pixels of an open image file. See `measure`."""
    try:
        image = _open(file)
    except Rejected:
        file.seek(0)
        if not file.read(8).startswith((JPEG_SIGNATURE, image_guards.PNG_SIGNATURE)):
            raise
        # Its metadata may be the reason.
        file.seek(0)
        image = _open_bytes(file.read())
    return image.size[::-1] if _is_rotated(image) else image.size


def _is_rotated(image: Image.Image) -> bool:
    """Return whether the orientation in the EXIF or XMP data swaps width and height."""
    # Pillow has already swapped them for a TIFF whose own tag says so.
    if isinstance(image, TiffImagePlugin.TiffImageFile) and ExifTags.Base.Orientation in image.tag_v2:
        return False
    # In a PNG without such data before its pixels, Pillow would decode them all to look for data after them.
    if image.format == "PNG" and not PNG_ORIENTATION & image.info.keys():
        return False
    return image_modes.orientation(image) in (5, 6, 7, 8)


def _open_bytes(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Check an image file and read its header. Raises `Rejected`, as `_open` does."""
    if data.startswith(JPEG_SIGNATURE):
        data = image_guards.checked_jpeg(data)
    elif data.startswith(image_guards.PNG_SIGNATURE):
        data = image_guards.without_png_metadata(data)
    return _open(io.BytesIO(data), max_pixels)


def _open(file: IO[bytes], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image's header. Raises `Rejected` if it is not that of a usable image."""
    try:
        image: Image.Image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        image = _open_unidentified(file)
    except Image.DecompressionBombError:
        raise Rejected("too many pixels", f"far more than {max_pixels:,}") from None
    except Exception as error:  # A corrupt file can make a decoder raise any exception.
        file.seek(0)
        changed = file_kinds.mangling(file.read(file_kinds.HEAD_BYTES))
        raise (Rejected("damaged image", changed) if changed else _rejected(error)) from None
    _check_size(image, max_pixels)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        image_guards.check_raw_photo(image)
        image_guards.check_tiles(image, max_pixels)
    return image


def _open_unidentified(file: IO[bytes]) -> Image.Image:
    """Read the header of an image that no decoder of Pillow accepts. Raises `Rejected` if that is not possible."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(file_kinds.HEAD_BYTES)
    if not head.startswith(SIGNATURES):
        raise file_kinds.describe(head, size)
    try:
        if head.startswith(TIFF_SIGNATURES):
            return tiff_layouts.open_grey(file)
        if head.startswith(JPEG_SIGNATURE):
            # Image.open hides the reason.
            file.seek(0)
            return JpegImagePlugin.JpegImageFile(file)
    except Rejected:
        raise
    except Exception as error:
        rejected = _rejected(error)
        if rejected.reason == "unsupported image":
            raise rejected from None
    raise Rejected("damaged image", f"{size} bytes with an incomplete header")


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if not image.width * image.height:
        raise Rejected("not an image", f"{image.width} × {image.height}: no pixels")
    if image.width * image.height > max_pixels:
        raise Rejected("too many pixels", f"{image.width} × {image.height}, more than {max_pixels:,}")


def from_array(array: np.ndarray) -> Image.Image:
    """Return the Pillow image of an array uint8 [H, W], [H, W, 1] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA).

    Raises:
        Rejected: The array has another type or shape.
    """
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise Rejected(
            "not an image",
            f"an array of {array.dtype} {list(array.shape)}: give uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]",
        )
    return Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array)


def to_array(image: Image.Image) -> np.ndarray:
    """Return an image in mode L or RGB as uint8 [H, W, C]."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


# --- fitting


def limit_height(image: Image.Image, max_height: int) -> Image.Image:
    """Scale an image that is higher than `max_height` down to it, keeping the aspect ratio."""
    if image.height <= max_height:
        return image
    width = max(1, round(image.width * max_height / image.height))
    return image.resize((width, max_height), Image.Resampling.BILINEAR, reducing_gap=REDUCING_GAP)


def fit(image: Image.Image, height: int, max_width: int) -> Image.Image:
    """Scale an image to a height, keeping the aspect ratio.

    Only an image that would be wider than `max_width` or narrower than `MIN_WIDTH` is compressed or stretched to that
    width.
    """
    return _resize(image, (fitted_width(image.size, (height, max_width)), height))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=REDUCING_GAP)


def stretch(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Return an image, uint8 [H, W, C], with its width multiplied by a factor, but at least `MIN_WIDTH`."""
    height, width, _ = pixels.shape
    image = from_array(pixels).resize((max(MIN_WIDTH, round(width * factor)), height), Image.Resampling.BICUBIC)
    return to_array(image)


def fitted_width(size: tuple[int, int], input_shape: tuple[int, int]) -> int:
    """Return the width in pixels that `fit` gives an image of a size (width, height)."""
    height, max_width = input_shape
    return min(max(round(size[0] * height / size[1]), MIN_WIDTH), max_width)


# --- preparing


def prepare_image(
    source: ImageInput,
    input_shape: tuple[int, int],
    channels: int,
    max_pixels: int = MAX_PIXELS,
    orientation: LineOrientation = "horizontal",
) -> PreparedImage:
    """Prepare an image for the network, without augmentation.

    Args:
        source: The image; it is not changed.
        input_shape: Height and greatest width in pixels.
        channels: 1 (grey) or 3 (RGB).
        max_pixels: Larger images are rejected.
        orientation: How the line runs in the upright image; it is turned to be horizontal.

    Raises:
        Rejected: The image cannot be used.
        StorageError: Object storage fails, which says nothing about the image.
    """
    name = None
    if isinstance(source, np.ndarray):
        image = upright(from_array(source), channels, max_pixels)
    elif isinstance(source, Image.Image):
        image = upright(source, channels, max_pixels)
    elif isinstance(source, bytes):
        image = decode(source, channels, max_pixels)
    elif isinstance(source, str | Path):
        name = str(source)
        image = decode(image_files.read_bytes(name), channels, max_pixels)
    else:
        raise Rejected(
            "not an image", f"an object of type {type(source).__name__}: give a path, bytes, a PIL image or an array"
        )
    return PreparedImage(to_array(fit(make_horizontal(image, orientation), *input_shape)), image.size, name)


def prepare(
    data: bytes,
    input_shape: tuple[int, int],
    channels: int,
    augment: Augment | None = None,
    orientation: LineOrientation = "horizontal",
) -> np.ndarray:
    """Prepare the bytes of an image file for the network, with augmentation if `augment` is given.

    Returns:
        uint8 [H, W, C], where H is the height of `input_shape` and W at most its width.

    Raises:
        Rejected: The image cannot be used.
    """
    decoded = decode_and_limit(data, input_shape, channels, augment is not None, orientation)
    return augment_and_fit(decoded, input_shape, augment)


def decode_and_limit(
    data: bytes,
    input_shape: tuple[int, int],
    channels: int,
    augmented: bool,
    orientation: LineOrientation = "horizontal",
) -> np.ndarray:
    """Run the part of `prepare` that is the same in every epoch, and whose result can be cached.

    Returns:
        uint8 [h, w, C]: fitted, or, if it is to be augmented, at most twice as high as `input_shape`.

    Raises:
        Rejected: The image cannot be used.
    """
    image = make_horizontal(decode(data, channels), orientation)
    # Twice the height keeps strokes sharp through rotation, at a fraction of the cost of the full image.
    return to_array(limit_height(image, 2 * input_shape[0]) if augmented else fit(image, *input_shape))


def augment_and_fit(decoded: np.ndarray, input_shape: tuple[int, int], augment: Augment | None) -> np.ndarray:
    """Run the part of `prepare` that is random.

    An augmented image is scaled to the width that it has without augmentation, because batches are made by width.
    Through rounding, it may be one pixel narrower.

    Args:
        decoded: The result of `decode_and_limit`, uint8 [h, w, C].
        input_shape: Height and greatest width in pixels.
        augment: The augmentation of this sample and epoch, or None.

    Returns:
        uint8 [H, W, C].
    """
    if augment is None:
        return decoded
    image = Image.fromarray(decoded.squeeze(2) if decoded.shape[2] == 1 else decoded)
    return to_array(_resize(augment(image), (fitted_width(image.size, input_shape), input_shape[0])))


def decoded_pixels(size: tuple[int, int], input_shape: tuple[int, int], augmented: bool) -> int:
    """Return the number of pixels that `decode_and_limit` makes of an image with a horizontal line."""
    if not augmented:
        return fitted_width(size, input_shape) * input_shape[0]
    width, height = size
    scale = min(1.0, 2 * input_shape[0] / height)
    return round(width * scale) * round(height * scale)


def collate(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack images of one height into a batch.

    Args:
        images: Arrays uint8 [H, w, C].

    Returns:
        images_BCHW (uint8), padded with zeros on the right to a multiple of `WIDTH_STEP`, and widths_B (int64).
    """
    widths_B = np.array([image.shape[1] for image in images], dtype=np.int64)
    height, _, channels = images[0].shape
    padded_width = -(-int(widths_B.max()) // WIDTH_STEP) * WIDTH_STEP
    images_BHWC = np.zeros((len(images), height, padded_width, channels), dtype=np.uint8)
    for row, image in zip(images_BHWC, images, strict=True):
        row[:, : image.shape[1]] = image
    return np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2)), widths_B
