"""Random textures that are computed once and of which images take parts."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

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


def crop(texture: np.ndarray, shape: tuple[int, int], randrange: Callable[[int], int]) -> np.ndarray:
    """Return a part of a texture at a random place, which is tiled if it is smaller than the shape.

    Args:
        texture: The texture [height, width].
        shape: Height and width of the part.
        randrange: A function that returns a random integer from 0 to below its argument.
    """
    height, width = shape
    if height > texture.shape[0] or width > texture.shape[1]:
        texture = np.tile(texture, (math.ceil(height / texture.shape[0]), math.ceil(width / texture.shape[1])))
    top = randrange(texture.shape[0] - height + 1)
    left = randrange(texture.shape[1] - width + 1)
    return texture[top : top + height, left : left + width]
