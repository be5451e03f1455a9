"""Draw the ink of a line: its glyphs, those of the lines around it, waves and strokes.

Ink is uint8 [height, width], from 0 for none to 255 for full ink.
"""

import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from raycrnn.data.synthetic.layout import OVERSAMPLING, Box, Layout, TypesetText
from raycrnn.data.synthetic.recipe import Strokes

Placed = tuple[TypesetText, float, float]
"""A text, and how far it is moved to the right and down, in typeset coordinates."""


def draw_ink(layout: Layout, texts: Sequence[Placed]) -> np.ndarray:
    """Draw texts with the transformation of a line's layout."""
    inverse = layout.transformation.inverse()
    area = inverse.box(Box(0, 0, *layout.size))
    # With a border, because Pillow does not interpolate beyond the outermost pixels.
    left, top = math.floor(area.left) - 2, math.floor(area.top) - 2
    canvas = np.zeros((math.ceil(area.bottom) + 2 - top, math.ceil(area.right) + 2 - left), np.uint8)
    for text, dx, dy in texts:
        _put_glyphs(canvas, text, round(dx) - left, round(dy) - top)
    image = Image.fromarray(canvas)
    # Text that had to be made small: interpolation between two pixels would skip others.
    factor = max(1, math.floor(math.sqrt(inverse.determinant) / OVERSAMPLING))
    if factor > 1:
        image = image.reduce(factor)
    coefficients = inverse.moved(-left, -top).scaled(1 / factor)
    drawn = image.transform(layout.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(drawn)


def _put_glyphs(canvas: np.ndarray, text: TypesetText, dx: int, dy: int) -> None:
    """Draw the parts of a text's glyphs that lie on a canvas."""
    height, width = canvas.shape
    for glyph, x, y in text.glyphs:
        left, top, right, bottom = x + dx + glyph.left, y + dy + glyph.top, x + dx + glyph.right, y + dy + glyph.bottom
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            continue
        pixels = glyph.pixels
        if left < 0 or top < 0 or right > width or bottom > height:
            pixels = pixels[max(0, -top) : height - top, max(0, -left) : width - left]
            left, top = max(0, left), max(0, top)
        part = canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        np.maximum(part, pixels, out=part)


def warp(ink: np.ndarray, amplitude: float, thickness: int, random: random.Random) -> np.ndarray:
    """Move columns up and down and rows to the left and right, in waves.

    Args:
        ink: The ink.
        amplitude: Greatest shift in pixels.
        thickness: Height of the line in pixels, about which the waves' length is chosen.
        random: The random generator.
    """
    for _ in range(2):
        length = random.uniform(1.5, 4) * thickness
        phase = random.uniform(0, 2 * math.pi)
        shifts = amplitude * np.sin(2 * math.pi / length * np.arange(ink.shape[1]) + phase)
        ink = _shift_columns(ink, shifts).T
    return ink


def _shift_columns(ink: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Move each column down by a number of pixels, float64 [width], with interpolation."""
    places = np.arange(ink.shape[0])[:, None] - shifts
    above = np.floor(places).astype(np.intp)
    share = (places - above).astype(np.float32)
    padded = np.pad(ink, ((1, 1), (0, 0)))
    last = padded.shape[0] - 1
    first = np.take_along_axis(padded, np.clip(above + 1, 0, last), axis=0)
    second = np.take_along_axis(padded, np.clip(above + 2, 0, last), axis=0)
    return (first * (1 - share) + second * share + 0.5).astype(np.uint8)


def add_strokes(ink: np.ndarray, settings: Strokes, random: random.Random) -> np.ndarray:
    """Draw lines from one end to the other."""
    image = Image.fromarray(ink)
    height, width = ink.shape
    pen = ImageDraw.Draw(image)
    for _ in range(random.randint(*settings.count)):
        ends = (0, random.uniform(0.1, 0.9) * height, width, random.uniform(0.1, 0.9) * height)
        if height > width:
            ends = (random.uniform(0.1, 0.9) * width, 0, random.uniform(0.1, 0.9) * width, height)
        thickness = random.uniform(*settings.width) * min(height, width)
        pen.line(ends, fill=round(255 * random.uniform(0.6, 1)), width=max(1, round(thickness)))
    return np.asarray(image)
