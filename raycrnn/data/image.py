"""From the bytes of an image file to what the network reads: uint8 [height, width, channels].

The one preprocessing of training, evaluation, prediction and serving. Shape suffixes: B batch, C channels,
H height, W width.
"""

import io
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from raycrnn.data import image_files, image_guards
from raycrnn.data.rejections import Rejected

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
"""Decoders in use. Pillow has more; some of them start other programs."""

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"GIF87a", b"GIF89a")
"""What begins so was an image, even where the rest of its header is missing: a TIFF's may stand at its end."""

MAX_PIXELS = 64_000_000
"""Larger images are refused by their header, before any memory is taken: 64 million pixels as RGB are 192 MB."""

WIDTH_STEP = 16
"""Batches are padded to a multiple of this, so that the kernels see few different shapes."""

REDUCING_GAP = 3.0
"""Large images are first shrunk by whole factors to at least so many times their new size (Pillow), which is faster."""


Augment = Callable[[Image.Image], Image.Image]


def frames(width: int) -> int:
    """Frames that the network makes of a width in pixels: two poolings halve it, the last convolution takes one."""
    return width // 4 - 1


def frame_centre(frame: float) -> float:
    """The column in the middle of what a frame sees: two times four columns."""
    return 4 * (frame + 1)


def spans(ranges: Sequence[tuple[int, int]], shape: Sequence[int], width: int) -> list[tuple[int, int]]:
    """The columns of each unit, [left, right), in the pixels of the image as it was given.

    CTC says little more than where a unit's middle is: neighbours meet halfway between their frames. What the first
    and the last have no neighbour for is as wide as on their other side, and a lone unit as wide as the line is high.

    Args:
        ranges: the frames of each unit, [first, after the last).
        shape: of the prepared image, (height, width, …).
        width: of the image as it was given.
    """
    if not ranges:
        return []
    height, prepared_width = shape[:2]
    middles = [(frame_centre(first), frame_centre(end - 1)) for first, end in ranges]
    edges = [(before[1] + after[0]) / 2 for before, after in itertools.pairwise(middles)]
    first, last = middles[0], middles[-1]
    left = first[0] - (edges[0] - first[1] if edges else height / 2)
    right = last[1] + (last[0] - edges[-1] if edges else height / 2)
    scale = width / prepared_width
    columns = [round(min(max(edge, 0), prepared_width) * scale) for edge in (left, *edges, right)]
    return list(itertools.pairwise(columns))


MIN_WIDTH = 8
"""The narrowest image that gives a frame."""


def decode(data: bytes, channels: int = 1, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file to mode L (1 channel) or RGB (3), upright, transparency on white.

    Of a file with several pages the first is taken.

    Raises:
        Rejected: not an image, a damaged one, or one of more pixels than `max_pixels`.
    """
    if data.startswith(b"\xff\xd8\xff"):
        image_guards.check_jpeg(data)
    return upright(_open(io.BytesIO(data), max_pixels), channels, max_pixels)


def upright(image: Image.Image, channels: int = 1, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image in mode L (1 channel) or RGB (3), turned as its EXIF data say, transparency on white.

    The one that is given may be turned in place. Raises `Rejected` if its pixels cannot be decoded, or are too many.
    """
    _check_size(image, max_pixels)
    try:
        image.load()
        with suppress(Exception):  # Of a whole picture beside broken EXIF data, the picture counts.
            ImageOps.exif_transpose(image, in_place=True)
        return _to_mode(image, "L" if channels == 1 else "RGB")
    except Exception as error:
        raise Rejected("damaged image", f"{type(error).__name__}: {error}") from None


def measure(path: str) -> tuple[int, int]:
    """Upright width and height in pixels of a local image, by its header alone. Raises `Rejected`."""
    try:
        with open(path, "rb") as file:
            image = _open(file)
            return image.size[::-1] if _lies_on_its_side(image) else image.size
    except FileNotFoundError:
        raise Rejected("no such file", path) from None
    except (OSError, ValueError) as error:
        raise Rejected("cannot be read", f"{path}: {error}") from None


def _lies_on_its_side(image: Image.Image) -> bool:
    """Whether an opened image's EXIF data say that width and height are to be swapped; broken ones do not."""
    # Of a TIFF, Pillow swaps them itself. Without EXIF data in front of a PNG's pixels it would decode the whole
    # file, to look for them behind.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False
    with suppress(Exception):
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return False


def _open(file: IO[bytes], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image's header. Raises `Rejected`."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        data = file.read()
        if data.startswith(SIGNATURES):
            raise Rejected("damaged image", f"{len(data)} bytes without a whole header") from None
        raise Rejected("not an image", f"{len(data)} bytes that are no image") from None
    except Image.DecompressionBombError:
        raise Rejected("too many pixels", f"far more than {max_pixels:,}") from None
    except Exception as error:  # Decoders let through whatever a broken file makes them stumble over.
        raise Rejected("damaged image", f"{type(error).__name__}: {error}") from None
    _check_size(image, max_pixels)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        image_guards.check_tiles(image, max_pixels)
    return image


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if not image.width * image.height:
        raise Rejected("not an image", f"{image.width} × {image.height}: it has no pixels")
    if image.width * image.height > max_pixels:
        raise Rejected("too many pixels", f"{image.width} × {image.height}, more than {max_pixels:,}")


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode[0] in "IF":
        # Deep grey (16 or 32 bits, or floats): Pillow would cut it off at 255 instead of scaling it.
        deep = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
        sixteen_bits = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
        most = 65535 if sixteen_bits else max(deep.max(), 1)
        image = Image.fromarray(np.clip(deep * (255 / most), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def limit_height(image: Image.Image, most: int) -> Image.Image:
    """Scale down to at most so many rows, aspect kept; lower images stay as they are."""
    if image.height <= most:
        return image
    width = max(1, round(image.width * most / image.height))
    return image.resize((width, most), Image.Resampling.BILINEAR, reducing_gap=REDUCING_GAP)


def fit(image: Image.Image, height: int, greatest_width: int) -> Image.Image:
    """Scale to an exact height, aspect kept.

    What gets wider than the greatest width is shrunk to it, what gets narrower than one frame needs is
    stretched to that.
    """
    return _scale(image, (fitted_width(image.size, (height, greatest_width)), height))


def _scale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=REDUCING_GAP)


def fitted_width(size: tuple[int, int], input_shape: tuple[int, int]) -> int:
    """Width in pixels that an image of a size (width, height) has when fitted."""
    height, greatest_width = input_shape
    return min(max(round(size[0] * height / size[1]), MIN_WIDTH), greatest_width)


def prepare(data: bytes, input_shape: tuple[int, int], channels: int, augment: Augment | None = None) -> np.ndarray:
    """From a file's bytes to the network's uint8 [H, W, C], H exact and W at most `input_shape`'s.

    Raises `Rejected`.
    """
    return augment_and_fit(decode_and_limit(data, input_shape, channels, augment is not None), input_shape, augment)


@dataclass(frozen=True)
class PreparedImage:
    """An image as the network reads it, and what it was."""

    pixels: np.ndarray
    """uint8 [H, W, C], as `prepare` gives it"""
    original_width: int
    """in pixels, of the image as it was given"""
    name: str | None = None
    """the path, for an image that was given as one"""


ImageInput = str | Path | bytes | Image.Image | np.ndarray
"""An image: a path or URI, the bytes of a file, Pillow's, or uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]."""


def prepare_image(
    given: ImageInput, input_shape: tuple[int, int], channels: int, max_pixels: int = MAX_PIXELS
) -> PreparedImage:
    """Prepare an image, however it is given. Raises `Rejected`."""
    name = str(given) if isinstance(given, str | Path) else None
    if isinstance(given, np.ndarray):
        image = upright(from_array(given), channels, max_pixels)
    elif isinstance(given, Image.Image):
        image = upright(given.copy(), channels, max_pixels)
    elif isinstance(given, bytes | str | Path):
        image = decode(given if isinstance(given, bytes) else image_files.read_bytes(name), channels, max_pixels)
    else:
        raise Rejected("not an image", f"a {type(given).__name__}: give a path, bytes, a PIL image or a NumPy array")
    return PreparedImage(to_array(fit(image, *input_shape)), image.width, name)


def from_array(array: np.ndarray) -> Image.Image:
    """An image of uint8 [H, W], [H, W, 1] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA). Raises `Rejected`."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise Rejected(
            "not an image", f"an array {array.dtype} {list(array.shape)}: give uint8 [H, W], or [H, W, 1, 3 or 4]"
        )
    return Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array)


def decode_and_limit(data: bytes, input_shape: tuple[int, int], channels: int, augmented: bool) -> np.ndarray:
    """The part of `prepare` that is the same in every epoch; uint8 [h, w, C]. Raises `Rejected`."""
    image = decode(data, channels)
    # Twice the height keeps the strokes sharp through rotation and crop, at a fraction of a scan's cost.
    return to_array(limit_height(image, 2 * input_shape[0]) if augmented else fit(image, *input_shape))


def augment_and_fit(begun: np.ndarray, input_shape: tuple[int, int], augment: Augment | None) -> np.ndarray:
    """The other part of `prepare`. An augmented image gets the width that it has without: batches are made by it."""
    if augment is None:
        return begun
    image = Image.fromarray(begun.squeeze(2) if begun.shape[2] == 1 else begun)
    return to_array(_scale(augment(image), (fitted_width(image.size, input_shape), input_shape[0])))


def decoded_pixels(size: tuple[int, int], input_shape: tuple[int, int], augmented: bool) -> int:
    """Pixels that `begin` makes of an image of a size (width, height)."""
    if not augmented:
        return fitted_width(size, input_shape) * input_shape[0]
    width, height = size
    scale = min(1.0, 2 * input_shape[0] / height)
    return round(width * scale) * round(height * scale)


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, C] of an image in mode L or RGB."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def collate(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack images [H, w, C] of one height into images_BCHW (uint8, zeros on the right) and widths_B (int64)."""
    widths_B = np.array([image.shape[1] for image in images], dtype=np.int64)
    height, _, channels = images[0].shape
    padded_width = -(-int(widths_B.max()) // WIDTH_STEP) * WIDTH_STEP
    images_BHWC = np.zeros((len(images), height, padded_width, channels), dtype=np.uint8)
    for row, image in zip(images_BHWC, images, strict=True):
        row[:, : image.shape[1]] = image
    return np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2)), widths_B
