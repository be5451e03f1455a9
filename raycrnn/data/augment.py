"""Random augmentation of training images.

An effect is a function that takes an image (mode L or RGB), a strength and a random generator, and returns an image of
the same mode. An effect of strength 0 is not applied. To add an effect, write the function, add it to `EFFECTS`, and
add a group for it to `config.Augmentation`.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from raycrnn.config import Augmentation

EffectFunction = Callable[[Image.Image, float, np.random.Generator], Image.Image]

MAX_CROP = 0.25
"""Share of the height or width that the crop after a rotation may remove. The angle is limited accordingly: without
the limit, even a small rotation would leave only a strip of a long line."""


def rotate(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Rotate by up to ±`strength` radians and crop the corners that the rotation exposes."""
    width, height = image.size
    # The crop leaves cos(angle) − aspect × sin(angle) of the shorter side.
    aspect = max(width, height) / min(width, height)
    max_angle = min(strength, math.acos((1 - MAX_CROP) / math.hypot(1, aspect)) - math.atan(aspect))
    angle = random.uniform(-max_angle, max_angle)
    sine, cosine = abs(math.sin(angle)), math.cos(angle)
    # For angles below 45 degrees, this centred rectangle lies inside the rotated image.
    inner_width = max(1, math.floor(width * cosine - height * sine))
    inner_height = max(1, math.floor(height * cosine - width * sine))
    rotated = image.rotate(math.degrees(angle), Image.Resampling.BILINEAR, fillcolor=_background(image))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return rotated.crop((left, top, left + inner_width, top + inner_height))


def pad(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Add up to `strength` × height pixels on each side, in the median colour of the image's border."""
    left, top, right, bottom = random.integers(0, round(strength * image.height), size=4, endpoint=True)
    return ImageOps.expand(image, (int(left), int(top), int(right), int(bottom)), fill=_background(image))


def _background(image: Image.Image) -> int | tuple[int, ...]:
    """Return the median of the outermost pixels of each channel."""
    array = np.asarray(image)
    border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    # Sorting bytes is several times faster than np.median.
    median = np.sort(border, axis=0)[len(border) // 2]
    return tuple(map(int, median)) if median.ndim else int(median)


def brightness(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Shift all values by up to ±`strength` × 255."""
    shift = random.uniform(-strength, strength) * 255
    table = np.clip(np.arange(256) + shift, 0, 255).round().astype(int).tolist()
    return image.point(table * len(image.getbands()))


def contrast(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Scale the difference from the mean grey by a factor in 1 ± `strength`."""
    return ImageEnhance.Contrast(image).enhance(random.uniform(1 - strength, 1 + strength))


def hue(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Shift the hue by up to ±`strength` of the colour circle."""
    hue_band, saturation_band, value_band = image.convert("HSV").split()
    shift = round(random.uniform(-strength, strength) * 256)
    hue_band = hue_band.point([(value + shift) % 256 for value in range(256)])
    return Image.merge("HSV", (hue_band, saturation_band, value_band)).convert("RGB")


def saturation(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Scale the saturation by a factor in 1 ± `strength`."""
    return ImageEnhance.Color(image).enhance(random.uniform(1 - strength, 1 + strength))


EFFECTS: dict[str, EffectFunction] = {
    "rotation": rotate,
    "padding": pad,
    "brightness": brightness,
    "contrast": contrast,
    "hue": hue,
    "saturation": saturation,
}
"""The effects by name, in the order in which they are applied."""

COLOUR_ONLY = {"hue", "saturation"}
"""Effects that do not apply to grey images."""


class Augmenter:
    """Apply the effects that a configuration enables.

    An augmenter has no state: the result depends only on the image, the seed, the epoch and the row.

    Args:
        settings: The strengths of the effects.
        channels: Channels of the images, 1 (grey) or 3 (RGB).
        seed: Seed of the random generators.
    """

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
        """Return the augmented image of a row (its number in the data set) in an epoch."""
        random = np.random.default_rng([self.seed, epoch, row])
        for name, strength in self.strengths.items():
            image = EFFECTS[name](image, strength, random)
        return image

    def for_sample(self, epoch: int, row: int) -> Callable[[Image.Image], Image.Image] | None:
        """Return a picklable function that augments one sample, or None if no effect is enabled."""
        return partial(self.apply, epoch=epoch, row=row) if self.strengths else None
