"""Paper and its stains. Grey levels are float32, from 0, black, to 255, white."""

import math
import random
from functools import cache

import numpy as np

from raycrnn.data.synthetic.recipe import Paper
from raycrnn.data.textures import clouds, crop, grain


@cache
def blot() -> np.ndarray:
    """Return the opacity of a round stain with an uneven edge, float32 [64, 64] from 0 to 1."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    angle = np.arctan2(y, x)
    edge = 0.75 + 0.08 * np.sin(3 * angle + 1) + 0.06 * np.sin(5 * angle)
    inside = 1 / (1 + np.exp((np.hypot(x, y) - edge) * 25))
    ring = np.exp(-(((np.hypot(x, y) - edge + 0.06) / 0.06) ** 2))
    return (0.75 * inside + 0.25 * ring * inside).astype(np.float32)


def make_paper(shape: tuple[int, int], settings: Paper, random: random.Random) -> np.ndarray:
    """Return the grey levels of an empty sheet, float32 [height, width]."""
    height, width = shape
    level = random.uniform(*settings.grey)
    sheet = np.full(shape, level, np.float32)
    if strength := random.uniform(*settings.texture):
        sheet += crop(clouds(), shape, random.randrange) * (255 * strength)
        sheet += crop(grain(), shape, random.randrange) * (80 * strength)
    if strength := random.uniform(*settings.shading):
        angle = random.uniform(0, 2 * math.pi)
        across, down = math.cos(angle), math.sin(angle)
        factor = 127 * strength
        sheet -= np.arange(width, dtype=np.float32) * (factor * across / width) - factor * min(0.0, across)
        sheet -= (np.arange(height, dtype=np.float32) * (factor * down / height) - factor * min(0.0, down))[:, None]
    return sheet
