"""Paper, and textures that are computed once for all lines. Grey levels are float32, from 0, black, to 255, white."""

import math
import random
from functools import cache

import numpy as np
from PIL import Image

from raycrnn.data.synthetic.recipe import Paper

TEXTURE_SHAPE = 256, 2048

CLOUD_PIXELS = 24
"""Distance between two independent values of the clouds."""


@cache
def grain() -> np.ndarray:
    """Return noise with a standard deviation of 1, float32 `TEXTURE_SHAPE`."""
    return np.random.default_rng(1).standard_normal(TEXTURE_SHAPE).astype(np.float32)


@cache
def clouds() -> np.ndarray:
    """Return smooth noise between -1 and 1, float32 `TEXTURE_SHAPE`."""
    height, width = TEXTURE_SHAPE
    coarse = np.random.default_rng(2).uniform(-1, 1, (height // CLOUD_PIXELS, width // CLOUD_PIXELS)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth * 1.3, -1, 1)


@cache
def blot() -> np.ndarray:
    """Return the opacity of a round stain with an uneven edge, float32 [64, 64] from 0 to 1."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    angle = np.arctan2(y, x)
    edge = 0.75 + 0.08 * np.sin(3 * angle + 1) + 0.06 * np.sin(5 * angle)
    inside = 1 / (1 + np.exp((np.hypot(x, y) - edge) * 25))
    ring = np.exp(-(((np.hypot(x, y) - edge + 0.06) / 0.06) ** 2))
    return (0.75 * inside + 0.25 * ring * inside).astype(np.float32)


def crop(texture: np.ndarray, shape: tuple[int, int], random: random.Random) -> np.ndarray:
    """Return a part of a texture at a random place, which is tiled if it is smaller than the shape."""
    height, width = shape
    if height > texture.shape[0] or width > texture.shape[1]:
        texture = np.tile(texture, (math.ceil(height / texture.shape[0]), math.ceil(width / texture.shape[1])))
    top = random.randrange(texture.shape[0] - height + 1)
    left = random.randrange(texture.shape[1] - width + 1)
    return texture[top : top + height, left : left + width]


def make_paper(shape: tuple[int, int], settings: Paper, random: random.Random) -> np.ndarray:
    """Return the grey levels of an empty sheet, float32 [height, width]."""
    height, width = shape
    level = random.uniform(*settings.grey)
    sheet = np.full(shape, level, np.float32)
    if strength := random.uniform(*settings.texture):
        sheet += crop(clouds(), shape, random) * (255 * strength)
        sheet += crop(grain(), shape, random) * (80 * strength)
    if strength := random.uniform(*settings.shading):
        angle = random.uniform(0, 2 * math.pi)
        across, down = math.cos(angle), math.sin(angle)
        factor = 127 * strength
        sheet -= np.arange(width, dtype=np.float32) * (factor * across / width) - factor * min(0.0, across)
        sheet -= (np.arange(height, dtype=np.float32) * (factor * down / height) - factor * min(0.0, down))[:, None]
    return sheet
