"""Convert images of any mode to 8 bits, grey or RGB, on an opaque background, and tell how to turn them upright."""

from contextlib import suppress

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from raycrnn.data.tiff_layouts import GreyTiff, white_is_zero

MIN_CONTRAST = 16
"""Grey levels of 256. If a transparent image on white has fewer between its darkest and its brightest pixel, nothing
can be seen."""

ONLY_TO = {"LAB": "RGB", "La": "LA"}
"""Modes that Pillow converts to one other mode only."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""

SAMPLE_MAXIMA = (341, 281)
"""The TIFF tags SMaxSampleValue and MaxSampleValue."""

USUAL_BITS = (8, 10, 12)
"""Bits per pixel that programs store in 16 bits without scaling them."""


def convert(image: Image.Image, mode: str) -> Image.Image:
    """Return a loaded image in mode L or RGB. The given image is not changed."""
    if isinstance(image, GreyTiff) and image.has_alpha:
        image = _grey_alpha(image)
    elif image.mode[0] in "IF":
        # Grey of 16 or 32 bits, or floats, which Pillow would clip at 255 instead of scaling.
        deep_HW = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
        image = Image.fromarray(_to_8_bits(deep_HW, _white_level(image, deep_HW), white_is_zero(image)))
    elif image.mode in ONLY_TO:
        image = image.convert(ONLY_TO[image.mode])
    if image.has_transparency_data:
        image = _on_background(image.convert("RGBA"))
    return image.convert(mode)


def orientation(image: Image.Image) -> int:
    """Return an image's EXIF orientation; 1, which is upright, if it has none."""
    with suppress(Exception):  # An image with corrupt EXIF data can still be read.
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def _to_8_bits(deep_HW: np.ndarray, white_level: float, inverted: bool) -> np.ndarray:
    grey_HW = np.clip(deep_HW * (255 / white_level), 0, 255).astype(np.uint8)
    return 255 - grey_HW if inverted else grey_HW


def _white_level(image: Image.Image, deep_HW: np.ndarray) -> float:
    """Return the value of white (of black, where white is zero)."""
    highest = deep_HW.max()
    if (image.mode, image.format) == ("I", "PPM"):
        return 65535
    if not image.mode.startswith("I;16"):
        return max(highest, 1)
    # Only in these formats is the number of bits that are in use unknown.
    return 2 ** _bits_in_use(image, int(highest)) - 1 if image.format in ("TIFF", "PNG") else 65535


def _bits_in_use(image: Image.Image, highest: int) -> int:
    """Return how many of a pixel's 16 bits are in use.

    Cameras and scanners store 12 bits in 16 without scaling. A TIFF may state its number of bits or its highest value.
    If an image states neither, a highest value of at most 12 bits decides, because a picture in 16 bits that is so dark
    (6 % of white) would not be readable anyway.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        if bits < 16:
            return bits
        for tag in SAMPLE_MAXIMA:
            stated = image.tag_v2.get(tag)
            stated = stated[0] if isinstance(stated, tuple) and stated else stated
            if isinstance(stated, int | float) and max(highest, 255) <= stated <= 65535:
                return int(stated).bit_length()
    return next((bits for bits in USUAL_BITS if highest < 2**bits), 16)


def _grey_alpha(image: GreyTiff) -> Image.Image:
    """Return a TIFF of 16-bit grey and alpha in mode LA, or L if the second sample is not an alpha channel."""
    deep_HW, alpha_HW = image.samples()
    levels = [2 ** _bits_in_use(image, int(band_HW.max())) - 1 for band_HW in (deep_HW, alpha_HW)]
    grey = Image.fromarray(_to_8_bits(deep_HW, levels[0], white_is_zero(image)))
    if not image.is_transparent:
        return grey
    return Image.merge("LA", [grey, Image.fromarray(_to_8_bits(alpha_HW, levels[1], False))])


def _on_background(image: Image.Image) -> Image.Image:
    """Return an image in mode RGBA on white, or on black if on white nothing can be seen and on black something can."""
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    contrast = _contrast(on_white)
    if contrast >= MIN_CONTRAST:
        return on_white
    on_black = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return on_black if _contrast(on_black) >= MIN_CONTRAST else on_white


def _contrast(image: Image.Image) -> int:
    return int(np.ptp(np.asarray(image.convert("L"))))
