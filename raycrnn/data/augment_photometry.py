"""Effects that change the values of an image's pixels, and keep its size."""

import io
import math
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from raycrnn.data.augment_geometry import background
from raycrnn.data.textures import crop, grain

MAX_THICKENING = 0.015
MAX_PATCH = 0.3
MAX_GAMMA = 2.0
MAX_BLUR = 0.03
MAX_NOISE = 0.5
MAX_QUALITY_LOSS = 90
"""What the effects do at strength 1: see their functions."""

GRAINS = 32
"""Number of grains of noise in the height of an image."""

GRAIN_DEVIATION = 32
"""Standard deviation of the noise in bytes, before it is scaled. Pillow scales bytes much faster than floats."""


def thicken(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Make strokes thicker or thinner by up to `strength` × `MAX_THICKENING` × height pixels on each side.

    Dark parts are dilated or eroded with a square. Light ink gets thinner where dark ink gets thicker; as both are
    equally likely, it need not be known which of them is the ink. Parts of a pixel are a mean of the results of whole
    ones.
    """
    pixels = random.uniform(-strength, strength) * MAX_THICKENING * image.height
    array = np.asarray(image)
    extreme = np.minimum if pixels > 0 else np.maximum
    rest = abs(pixels)
    while rest > 0:
        spread = _spread(array, extreme)
        if rest < 1:
            return Image.blend(Image.fromarray(array), Image.fromarray(spread), rest)
        array, rest = spread, rest - 1
    return Image.fromarray(array)


def _spread(array: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Return the minimum or maximum of each pixel [H, W] or [H, W, C] and its eight neighbours."""
    padded = np.pad(array, ((1, 1), (1, 1)) + ((0, 0),) * (array.ndim - 2), mode="edge")
    rows = extreme(extreme(padded[:-2], padded[1:-1]), padded[2:])
    return extreme(extreme(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def occlude(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Cover rectangles with background, with sides of up to `strength` × `MAX_PATCH` × height pixels.

    There is one for each length of twice the height, and at least one.
    """
    image = image.copy()
    width, height = image.size
    fill = background(image)
    for x, y, *sides in random.random((max(1, round(width / height / 2)), 4)).tolist():
        across, down = (round(side * strength * MAX_PATCH * height) for side in sides)
        left, top = round(x * width - across / 2), round(y * height - down / 2)
        image.paste(fill, (left, top, left + across, top + down))
    return image


def shift_brightness(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Shift all values by up to ±`strength` × 255."""
    return _map_values(image, np.arange(256) + random.uniform(-strength, strength) * 255)


def change_gamma(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Raise values from 0 to 1 to a power between `MAX_GAMMA` to the power of −`strength` and of `strength`."""
    exponent = MAX_GAMMA ** random.uniform(-strength, strength)
    return _map_values(image, 255 * (np.arange(256) / 255) ** exponent)


def _map_values(image: Image.Image, values: np.ndarray) -> Image.Image:
    """Replace each value of all channels by another, float [256], which is rounded and clipped to 0 to 255."""
    table = np.clip(values, 0, 255).round().astype(int).tolist()
    return image.point(table * len(image.getbands()))


def change_contrast(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Scale the difference from the mean grey by a factor in 1 ± `strength`."""
    return ImageEnhance.Contrast(image).enhance(random.uniform(1 - strength, 1 + strength))


def shift_hue(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Shift the hue by up to ±`strength` of the colour circle."""
    hue_band, saturation_band, value_band = image.convert("HSV").split()
    shift = round(random.uniform(-strength, strength) * 256)
    hue_band = hue_band.point([(value + shift) % 256 for value in range(256)])
    return Image.merge("HSV", (hue_band, saturation_band, value_band)).convert("RGB")


def change_saturation(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Scale the saturation by a factor in 1 ± `strength`."""
    return ImageEnhance.Color(image).enhance(random.uniform(1 - strength, 1 + strength))


def invert(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Invert all values with a probability of `strength`."""
    return ImageOps.invert(image) if random.random() < strength else image


def blur(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Blur with a Gaussian whose standard deviation is up to `strength` × `MAX_BLUR` × height pixels."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0, strength) * MAX_BLUR * image.height))


def add_noise(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Add grey Gaussian noise with a standard deviation of up to `strength` × `MAX_NOISE` × that of the image.

    The network standardises images, so noise beyond the contrast of the text would hide it, as on a dark photograph. A
    grain is 1 / `GRAINS` of the height: noise of single pixels would nearly vanish when a high image is scaled down.
    """
    rows = min(GRAINS, image.height)
    columns = max(1, round(image.width * rows / image.height))
    grains = Image.fromarray(crop(_grain_bytes(), (rows, columns), random.integers))
    factor = random.uniform(0, strength) * MAX_NOISE * _deviation(image) / GRAIN_DEVIATION
    table = np.clip((np.arange(256) - 128) * factor + 128, 0, 255).round().astype(int).tolist()
    noise = grains.resize(image.size, Image.Resampling.BILINEAR).point(table)
    return ImageChops.add(image, Image.merge(image.mode, [noise] * len(image.mode)), offset=-128)


@cache
def _grain_bytes() -> np.ndarray:
    """Return noise around 128 with a standard deviation of `GRAIN_DEVIATION`, uint8 [H, W]."""
    return np.clip(grain() * GRAIN_DEVIATION + 128, 0, 255).astype(np.uint8)


def _deviation(image: Image.Image) -> float:
    """Return the standard deviation of all values; from the histogram, which is faster than from the pixels."""
    counts = np.array(image.histogram()).reshape(-1, 256).sum(axis=0)
    values = np.arange(256)
    mean = np.average(values, weights=counts)
    return math.sqrt(np.average((values - mean) ** 2, weights=counts))


def compress(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Compress as a JPEG file with a quality between 100 and 100 − `strength` × `MAX_QUALITY_LOSS`."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=round(100 - random.uniform(0, strength) * MAX_QUALITY_LOSS))
    with Image.open(file, formats=["JPEG"]) as compressed:
        compressed.load()
        return compressed
