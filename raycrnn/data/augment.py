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

MAX_GROWTH = 0.125
"""Greatest growth of the height or width through a rotation, as a fraction of it. Images are scaled back afterwards, so
the text becomes lower or narrower by a ninth at most. With more, the text of an image that is not augmented, as in
evaluation, would be larger than nearly all text in training."""


def rotate(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Rotate by up to ±`strength` radians, on a canvas that holds the whole rotated image.

    The corners get the median colour of the image's border. Cropping them instead would cut off the ascenders and
    descenders of a long line.

    The canvas is higher than the image by the width times the sine of the angle, so scaling it to the network's height
    would leave little of the text's height on a long line. `MAX_GROWTH` therefore limits the slope of the baseline. It
    does not limit the lean of the strokes, which only adds a part of the height to the width. A long line is thus
    sheared: its strokes lean by the whole angle, and its baseline slopes less. For an image that is higher than wide,
    the lean is limited instead.
    """
    width, height = image.size
    share = random.uniform(-1, 1)
    slope = share * min(strength, math.asin(min(1.0, MAX_GROWTH * height / width)))
    lean = share * min(strength, math.asin(min(1.0, MAX_GROWTH * width / height)))
    new_width = math.ceil(width * math.cos(slope) + height * abs(math.sin(lean)))
    new_height = math.ceil(width * abs(math.sin(slope)) + height * math.cos(lean))
    # The inverse of the matrix whose columns are the new directions of the baseline and of the strokes.
    inverse = np.array([[math.cos(lean), math.sin(lean)], [-math.sin(slope), math.cos(slope)]]) / math.cos(slope - lean)
    background = _background(image)
    # Pillow does not interpolate between the outermost pixels and the fill colour, so a line of one pixel could vanish.
    framed = ImageOps.expand(image, 1, background)
    shift = np.array(framed.size) / 2 - inverse @ (new_width / 2, new_height / 2)
    coefficients = np.column_stack([inverse, shift]).ravel().tolist()
    return framed.transform(
        (new_width, new_height),
        Image.Transform.AFFINE,
        coefficients,
        Image.Resampling.BILINEAR,
        fillcolor=background,
    )


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
