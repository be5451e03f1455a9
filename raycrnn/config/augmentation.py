"""The keys of the augmentation: a block for each effect."""

from typing import Annotated

from pydantic import Field

from raycrnn.config.group import Group, Integer, Share


class Effect(Group):
    """One augmentation effect, off at strength 0."""

    strength: Annotated[float, Field(ge=0)]
    share: Share = 1.0
    """Fraction of the images that get the effect. The others are not changed by it."""


class OccasionalEffect(Effect):
    """An effect that only some images get by default."""

    strength: Share
    share: Share = 0.3
    """Fraction of the images that get the effect. The others are not changed by it."""


class Slant(OccasionalEffect):
    strength: Share = 0.5
    """Slant of the strokes: at 1, by up to 0.5 radians to either side, less for images that are not much wider than
    high. 0: off."""


class Stretch(OccasionalEffect):
    strength: Share = 0.5
    """Change of the proportions of letters: at 1, down to 3/4 of the width with the same height, or down to 3/4 of the
    height with the same width. 0: off."""


class Shift(OccasionalEffect):
    strength: Share = 0.0
    """Shift of the text to one side, with background added at the other: at 1, by up to a quarter of the height. 0:
    off."""


class Perspective(OccasionalEffect):
    strength: Share = 0.3
    """Perspective, as if the camera were held at an angle: at 1, one end is up to a third higher than the other. 0:
    off."""


class GridDistortion(OccasionalEffect):
    strength: Share = 0.5
    """Stretching of parts of the text and compression of others: at 1, one part by up to three times as much
    as another. 0: off."""


class ElasticDistortion(OccasionalEffect):
    strength: Share = 0.5
    """Bending of the strokes by random shifts of points half a height apart: at 1, by up to 0.08 of the height in each
    direction. 0: off."""


class Padding(Effect):
    strength: Annotated[float, Field(ge=0, le=0.5)] = 0.08
    """Maximum width of the border added on each side, as a fraction of the height. 0: off."""


class Thickness(OccasionalEffect):
    strength: Share = 0.5
    """Thinner or thicker strokes, of dark ink and of light: at 1, by up to 0.015 of the height on each side of a
    stroke. 0: off."""


class Occlusion(OccasionalEffect):
    strength: Share = 0.0
    """Small rectangles of background over the text, one for each length of twice the height: at 1, with sides of up to
    0.3 of the height. 0: off."""


class Brightness(Effect):
    strength: Share = 0.1
    """Maximum shift of the brightness, as a fraction of its range. 0: off."""


class Contrast(Effect):
    strength: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Maximum change of the contrast: its factor is between 1 − strength and 1 + strength. 0: off."""


class Gamma(OccasionalEffect):
    strength: Share = 0.5
    """Lighter or darker mid-tones: at 1, a gamma between 1/2 and 2. 0: off."""


class Hue(Effect):
    strength: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Maximum shift of the hue, as a fraction of the colour wheel; RGB only. 0: off."""


class Saturation(Effect):
    strength: Share = 0.3
    """Maximum change of the saturation: its factor is between 1 − strength and 1 + strength; RGB only. 0: off."""


class Inversion(Effect):
    strength: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Probability that an image is inverted, so that dark text on a light background becomes light text on a dark
    one. At most 0.5: half of the images stay as they are. 0: off."""


class BlurEffect(OccasionalEffect):
    strength: Share = 0.5
    """Gaussian blur: at 1, with a standard deviation of up to 0.03 of the height. 0: off."""


class NoiseEffect(OccasionalEffect):
    strength: Share = 0.5
    """Gaussian noise with a grain of 1/32 of the height: at 1, with a standard deviation of up to half of the image's
    own. 0: off."""


class JpegCompression(OccasionalEffect):
    strength: Share = 0.5
    """JPEG compression: at 1, with a quality between 100 and 10. 0: off."""


class Augmentation(Group):
    """Random changes to the training images. Evaluation and prediction use the images unchanged."""

    data_augmentation: bool = True
    """Whether to augment the training images at all."""
    share: Share = 0.9
    """Fraction of the training images to which the effects apply. The others are used as in evaluation, unchanged."""
    stronger_after_passes: Annotated[Integer, Field(ge=0)] | None = 15
    """How often an image has been trained on before slant, stretch, grid_distortion, elastic_distortion and thickness
    have twice their strength, at most 1, and twice their share: otherwise, it is learnt by heart. It does not apply to
    lines of recipes, which look different each time. null: never."""
    data_augmentation_max_rotation: Annotated[float, Field(ge=0, le=0.785)] = 0.02
    """Maximum rotation in radians. The image is enlarged with its background so that no text is cut off; on long lines
    the strokes lean by the whole angle, and the baseline slopes less. 0: off."""
    slant: Slant = Slant()
    stretch: Stretch = Stretch()
    shift: Shift = Shift()
    perspective: Perspective = Perspective()
    grid_distortion: GridDistortion = GridDistortion()
    elastic_distortion: ElasticDistortion = ElasticDistortion()
    padding: Padding = Padding()
    thickness: Thickness = Thickness()
    occlusion: Occlusion = Occlusion()
    brightness: Brightness = Brightness()
    contrast: Contrast = Contrast()
    gamma: Gamma = Gamma()
    hue: Hue = Hue()
    saturation: Saturation = Saturation()
    inversion: Inversion = Inversion()
    blur: BlurEffect = BlurEffect()
    noise: NoiseEffect = NoiseEffect()
    jpeg: JpegCompression = JpegCompression()
