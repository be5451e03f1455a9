"""From ink and paper to a grey image with the defects of old print and of scans."""

import random

import numpy as np
from PIL import Image, ImageFilter

from raycrnn.data.synthetic.paper import blot, make_paper
from raycrnn.data.synthetic.recipe import Recipe, Stains
from raycrnn.data.textures import clouds, crop, grain

LEVELS = np.arange(256) / 255
"""The grey levels of an image, from 0 to 1."""


def render(
    ink: Image.Image, verso: Image.Image | None, thickness: int, recipe: Recipe, random: random.Random
) -> Image.Image:
    """Return the image, mode L, of a line.

    Args:
        ink: Ink of the line, mode L, from 0 for none to 255.
        verso: Ink of the other side of the page, or None.
        thickness: Height of the line's image in pixels, or width of a vertical one: the measure of defects.
        recipe: The ranges to choose from.
        random: The random generator.
    """
    shape = ink.height, ink.width
    sheet = make_paper(shape, recipe.paper, random)
    black = random.uniform(*recipe.ink.grey)
    opacity = _opacity(ink, thickness, recipe, random)
    if verso is not None:
        strength = random.uniform(*recipe.bleed_through.strength)
        sheet += (strength / 255 * _through_paper(verso)) * (black - sheet)
    sheet += opacity * (black - sheet)
    if random.random() < recipe.stains.share:
        _add_stains(sheet, recipe.stains, random)
    if random.random() < recipe.ink.inverted:
        sheet = 255 - sheet
    if random.random() < recipe.noise.share:
        sheet += 255 * random.uniform(*recipe.noise.strength) * crop(grain(), shape, random.randrange)
    return Image.fromarray(np.clip(sheet, 0, 255, out=sheet).astype(np.uint8))


def _opacity(ink: Image.Image, thickness: int, recipe: Recipe, random: random.Random) -> np.ndarray:
    """Return how much of the paper the ink covers, float32 [height, width] from 0 to 1."""
    exponent = 2.0 ** (-1.5 * random.uniform(*recipe.ink.weight))
    ink = ink.point(np.rint(255 * LEVELS**exponent).tolist())
    if random.random() < recipe.blur.share:
        # Ink and not the whole image, whose other parts are smooth anyway: it is still an image of Pillow.
        ink = ink.filter(ImageFilter.GaussianBlur(random.uniform(*recipe.blur.radius) * thickness))
    opacity = np.asarray(ink, np.float32) / 255
    if fading := random.uniform(*recipe.ink.fading):
        opacity *= 1 - fading / 2 - fading / 2 * crop(clouds(), opacity.shape, random.randrange)
    return opacity


def _through_paper(verso: Image.Image) -> np.ndarray:
    """Return the ink of the other side as this one shows it: mirrored and blurred."""
    image = verso.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image.reduce(2).resize(image.size, Image.Resampling.BILINEAR), np.float32)


def _add_stains(sheet: np.ndarray, settings: Stains, random: random.Random) -> None:
    height, width = sheet.shape
    for _ in range(random.randint(*settings.count)):
        across, down = (max(2, round(random.uniform(0.3, 2) * min(height, width))) for _ in range(2))
        left, top = (
            round(random.uniform(-size / 2, length - size / 2)) for size, length in ((across, width), (down, height))
        )
        opacity = np.asarray(Image.fromarray(blot()).resize((across, down), Image.Resampling.BILINEAR))
        visible = opacity[max(0, -top) : height - top, max(0, -left) : width - left]
        part = sheet[max(0, top) : max(0, top) + visible.shape[0], max(0, left) : max(0, left) + visible.shape[1]]
        part *= 1 - random.uniform(*settings.strength) * visible
