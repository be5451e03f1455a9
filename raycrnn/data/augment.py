"""Random augmentation of training images.

An effect is a function that takes an image (mode L or RGB), a strength and a random generator, and returns an image of
the same mode. An effect of strength 0 is not applied. To add an effect, write the function in `augment_photometry`, or
in `augment_geometry` if it moves pixels, add it to `EFFECTS`, and add a group for it to `config.Augmentation`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageOps

from raycrnn.config import Augmentation
from raycrnn.data import augment_geometry as geometry
from raycrnn.data import augment_photometry as photometry
from raycrnn.data.augment_geometry import GeometricEffect, Geometry

EffectFunction = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def pad(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Add up to `strength` × height pixels on each side, in the median colour of the image's border."""
    left, top, right, bottom = random.integers(0, round(strength * image.height), size=4, endpoint=True)
    return ImageOps.expand(image, (int(left), int(top), int(right), int(bottom)), fill=geometry.background(image))


EFFECTS: dict[str, EffectFunction] = {
    "rotation": GeometricEffect(geometry.rotate),
    "slant": GeometricEffect(geometry.slant),
    "stretch": GeometricEffect(geometry.stretch),
    "shift": GeometricEffect(geometry.shift),
    "perspective": GeometricEffect(geometry.change_perspective),
    "grid_distortion": GeometricEffect(geometry.distort_grid),
    "elastic_distortion": GeometricEffect(geometry.bend),
    "padding": pad,
    "thickness": photometry.thicken,
    "occlusion": photometry.occlude,
    "brightness": photometry.shift_brightness,
    "contrast": photometry.change_contrast,
    "gamma": photometry.change_gamma,
    "hue": photometry.shift_hue,
    "saturation": photometry.change_saturation,
    "inversion": photometry.invert,
    "blur": photometry.blur,
    "noise": photometry.add_noise,
    "jpeg": photometry.compress,
}
"""The effects by name, in the order in which they are applied."""

COLOUR_ONLY = {"hue", "saturation"}
"""Effects that do not apply to grey images."""


STRONGER_LATER = {"slant", "stretch", "grid_distortion", "elastic_distortion", "thickness"}
"""Effects that are stronger after `augmentation.stronger_after_passes`: they change the shapes of letters, which a
network learns by heart if it sees the same ones often."""


class Augmenter:
    """Apply the effects that a configuration enables.

    An augmenter has no state: the result depends only on the image, the seed, the row, and how often it was trained on.

    Each effect draws its amount from a range that includes zero, so that training also has images like those of
    evaluation, which are not augmented.

    Args:
        settings: The strengths and shares of the effects.
        channels: Channels of the images, 1 (grey) or 3 (RGB).
        seed: Seed of the random generators.
    """

    def __init__(self, settings: Augmentation, channels: int, seed: int):
        blocks = {name: getattr(settings, name) for name in EFFECTS if name != "rotation"}
        strengths = {"rotation": settings.data_augmentation_max_rotation}
        strengths |= {name: block.strength for name, block in blocks.items() if block.share > 0}
        self.seed, self.share = seed, settings.share
        self.strengths = {
            name: strengths[name]
            for name in EFFECTS
            if settings.data_augmentation
            and settings.share > 0
            and strengths.get(name, 0) > 0
            and (channels == 3 or name not in COLOUR_ONLY)
        }
        self.shares = {name: block.share for name, block in blocks.items()}
        self._stronger_after = settings.stronger_after_passes

    def apply(self, image: Image.Image, times: int, row: int, is_new: bool = False) -> Image.Image:
        """Return the augmented image of a row.

        Args:
            image: The image, mode L or RGB.
            times: How often the row was trained on before: the number of epochs, unless its CSV has a weight.
            row: The number of the row in the data set.
            is_new: Whether it had another image each time.
        """
        random = np.random.default_rng([self.seed, times, row])
        # A share of 1 needs no random number.
        if self.share < 1 and random.random() >= self.share:
            return image
        pending: Geometry | None = None
        is_stronger = self._stronger_after is not None and times >= self._stronger_after and not is_new
        for name, strength in self.strengths.items():
            share = self.shares.get(name, 1)
            if is_stronger and name in STRONGER_LATER:
                strength, share = min(1, 2 * strength), min(1, 2 * share)
            if share < 1 and random.random() >= share:
                continue
            effect = EFFECTS[name]
            if isinstance(effect, GeometricEffect):
                pending = pending or Geometry(image.size)
                effect.change(pending, strength, random)
                continue
            if pending:
                image, pending = pending.apply(image), None
            image = effect(image, strength, random)
        return pending.apply(image) if pending else image

    def for_sample(self, times: int, row: int, is_new: bool = False) -> Callable[[Image.Image], Image.Image] | None:
        """Return a picklable function that augments one sample as `apply` does, or None if no effect is enabled."""
        return partial(self.apply, times=times, row=row, is_new=is_new) if self.strengths else None
