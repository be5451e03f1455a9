"""Augmentation: one function an effect, one table of them.

An effect takes an image (mode L or RGB), its strength and a random generator and returns an image of the same
mode. Strength 0 means that it is not applied at all. To add one: write the function, put it into `EFFECTS`, and
give it a block in `config.Augmentation`.
"""

import math
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from raycrnn.config import Augmentation

MOST_LOST = 0.25
"""Rotation is limited to the angle at which the crop takes this share of the height or width: of a long line,
even a small angle would else leave nothing but a strip."""


def rotate(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Rotate by up to `strength` radians and crop the borders that come into view."""
    width, height = image.size
    # What is left of the shorter side, as a share of it, is cos(angle) − aspect × sin(angle).
    aspect = max(width, height) / min(width, height)
    most = min(strength, math.acos((1 - MOST_LOST) / math.hypot(1, aspect)) - math.atan(aspect))
    angle = random.uniform(-most, most)
    sine, cosine = abs(math.sin(angle)), math.cos(angle)
    # This centred rectangle lies inside the rotated one for every angle below 45 degrees.
    inner_width = max(1, math.floor(width * cosine - height * sine))
    inner_height = max(1, math.floor(height * cosine - width * sine))
    rotated = image.rotate(math.degrees(angle), Image.Resampling.BILINEAR, fillcolor=_background(image))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return rotated.crop((left, top, left + inner_width, top + inner_height))


def pad(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Add a border of up to `strength` × height pixels on each side, in the colour of the image's border."""
    left, top, right, bottom = random.integers(0, round(strength * image.height), size=4, endpoint=True)
    return ImageOps.expand(image, (int(left), int(top), int(right), int(bottom)), fill=_background(image))


def _background(image: Image.Image) -> int | tuple[int, ...]:
    """The median of the outermost pixels, by channel."""
    array = np.asarray(image)
    border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    # numpy sorts bytes by counting, which is several times faster than its median.
    median = np.sort(border, axis=0)[len(border) // 2]
    return tuple(map(int, median)) if median.ndim else int(median)


def brightness(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Shift all values by up to `strength` of the range."""
    shift = random.uniform(-strength, strength) * 255
    table = np.clip(np.arange(256) + shift, 0, 255).round().astype(int).tolist()
    return image.point(table * len(image.getbands()))


def contrast(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Multiply the distance from the mean grey by 1 ± `strength`."""
    return ImageEnhance.Contrast(image).enhance(random.uniform(1 - strength, 1 + strength))


def hue(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Turn the hue by up to `strength` of the colour circle."""
    hue_band, saturation_band, value_band = image.convert("HSV").split()
    turn = round(random.uniform(-strength, strength) * 256)
    hue_band = hue_band.point([(value + turn) % 256 for value in range(256)])
    return Image.merge("HSV", (hue_band, saturation_band, value_band)).convert("RGB")


def saturation(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Multiply the saturation by 1 ± `strength`."""
    return ImageEnhance.Color(image).enhance(random.uniform(1 - strength, 1 + strength))


EFFECTS = {
    "rotation": rotate,
    "padding": pad,
    "brightness": brightness,
    "contrast": contrast,
    "hue": hue,
    "saturation": saturation,
}
"""In the order in which they are applied."""

COLOUR_ONLY = {"hue", "saturation"}


class Augmenter:
    """The effects of a configuration that are switched on. Cheap to make, picklable, without state."""

    def __init__(self, settings: Augmentation, channels: int, seed: int):
        strengths = {name: getattr(settings, name).strength for name in EFFECTS if name != "rotation"}
        strengths["rotation"] = settings.data_augmentation_max_rotation
        self.seed = seed
        self.strengths = {
            name: strengths[name]
            for name in EFFECTS
            if settings.data_augmentation and strengths[name] > 0 and (channels == 3 or name not in COLOUR_ONLY)
        }

    def apply(self, image: Image.Image, epoch: int, row: int) -> Image.Image:
        """The image as (seed, epoch, row) alone decide."""
        random = np.random.default_rng([self.seed, epoch, row])
        for name, strength in self.strengths.items():
            image = EFFECTS[name](image, strength, random)
        return image

    def for_sample(self, epoch: int, row: int) -> partial | None:
        """`apply` for one row, None if every effect is off."""
        return partial(self.apply, epoch=epoch, row=row) if self.strengths else None
