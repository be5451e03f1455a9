"""From the bytes of an image file to what the network reads: uint8 [height, width, channels].

The one preprocessing of training, evaluation, prediction and serving. Shape suffixes: B batch, C channels,
H height, W width.
"""

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from raycrnn.samples import Rejected

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
"""Decoders in use. Pillow has more; some of them start other programs."""

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"GIF87a", b"GIF89a")
"""What begins so was an image, even where the rest of its header is missing: a TIFF's may stand at its end."""

MAX_PIXELS = 64_000_000
"""Larger images are refused by their header, before any memory is taken: 64 million pixels as RGB are 192 MB."""

WIDTH_STEP = 16
"""Batches are padded to a multiple of this, so that the kernels see few different shapes."""


Augment = Callable[[Image.Image], Image.Image]


def frames(width: int) -> int:
    """Frames that the network makes of a width in pixels: two poolings halve it, the last convolution takes one."""
    return width // 4 - 1


LEAST_WIDTH = 8
"""The narrowest image that gives a frame."""


def read_bytes(path: str) -> bytes:
    """The bytes at a path or at a URI that pyarrow's filesystems read. Raises `Rejected`."""
    try:
        if "://" not in path:
            return Path(path).read_bytes()
        from pyarrow import fs

        filesystem, name = fs.FileSystem.from_uri(path)
        with filesystem.open_input_stream(name) as stream:
            return stream.read()
    except FileNotFoundError:
        raise Rejected("no such file", path) from None
    except (OSError, ValueError) as error:
        raise Rejected("cannot be read", f"{path}: {error}") from None


def decode(data: bytes, channels: int = 1) -> Image.Image:
    """Decode an image file to mode L (1 channel) or RGB (3), upright, transparency on white.

    Of a file with several pages the first is taken.

    Raises:
        Rejected: not an image, a damaged one, or one of more than `MAX_PIXELS`.
    """
    image = _open(io.BytesIO(data))
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


def _open(file: IO[bytes]) -> Image.Image:
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
        raise Rejected("too many pixels", f"far more than {MAX_PIXELS:,}") from None
    except Exception as error:  # Decoders let through whatever a broken file makes them stumble over.
        raise Rejected("damaged image", f"{type(error).__name__}: {error}") from None
    if image.width * image.height > MAX_PIXELS:
        raise Rejected("too many pixels", f"{image.width} × {image.height}, more than {MAX_PIXELS:,}")
    return image


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
    return image.resize((width, most), Image.Resampling.BILINEAR, reducing_gap=3.0)


def fit(image: Image.Image, height: int, greatest_width: int) -> Image.Image:
    """Scale to an exact height, aspect kept.

    What gets wider than the greatest width is shrunk to it, what gets narrower than one frame needs is
    stretched to that.
    """
    return _scale(image, (fitted_width(image.size, (height, greatest_width)), height))


def _scale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def fitted_width(size: tuple[int, int], input_shape: tuple[int, int]) -> int:
    """Width in pixels that an image of a size (width, height) has when fitted."""
    height, greatest_width = input_shape
    return min(max(round(size[0] * height / size[1]), LEAST_WIDTH), greatest_width)


def prepare(data: bytes, input_shape: tuple[int, int], channels: int, augment: Augment | None = None) -> np.ndarray:
    """From a file's bytes to the network's uint8 [H, W, C], H exact and W at most `input_shape`'s.

    Raises `Rejected`.
    """
    return finish(begin(data, input_shape, channels, augment is not None), input_shape, augment)


def begin(data: bytes, input_shape: tuple[int, int], channels: int, augmented: bool) -> np.ndarray:
    """The part of `prepare` that is the same in every epoch; uint8 [h, w, C]. Raises `Rejected`."""
    image = decode(data, channels)
    # Twice the height keeps the strokes sharp through rotation and crop, at a fraction of a scan's cost.
    return to_array(limit_height(image, 2 * input_shape[0]) if augmented else fit(image, *input_shape))


def finish(begun: np.ndarray, input_shape: tuple[int, int], augment: Augment | None) -> np.ndarray:
    """The other part of `prepare`. An augmented image gets the width that it has without: batches are made by it."""
    if augment is None:
        return begun
    image = Image.fromarray(begun.squeeze(2) if begun.shape[2] == 1 else begun)
    return to_array(_scale(augment(image), (fitted_width(image.size, input_shape), input_shape[0])))


def begun_pixels(size: tuple[int, int], input_shape: tuple[int, int], augmented: bool) -> int:
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
