"""Effects that move the pixels of an image. Effects in a row are composed, so that they interpolate the image once.

The image is enlarged so that no more than a quarter of a pixel is cut off, and what lies outside of it gets the colour
of its background. It is scaled back to its size afterwards, by `image.augment_and_fit`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

MAX_GROWTH = 0.125
"""Greatest growth of the height or width through a rotation or a slant, as a fraction of it. Images are scaled back
afterwards, so the text becomes lower or narrower by a ninth at most. With more, the text of an image that is not
augmented, as in evaluation, would be larger than nearly all text in training."""

MAX_SLANT = 0.5
MAX_STRETCH = 4 / 3
MAX_SHIFT = 0.25
MAX_TAPER = 0.3
MAX_STEP_CHANGE = 0.5
MAX_BEND = 0.08
"""What the effects do at strength 1: see their functions."""

MAX_CELLS = 48
"""Greatest number of cells along a side of the grid on which distortions are drawn."""


@dataclass
class Geometry:
    """Where the pixels of an image move to.

    Args:
        size: Width and height of the image in pixels.
    """

    size: tuple[int, int]
    to_image: np.ndarray = field(default_factory=lambda: np.eye(3))
    """Homography from the result to the image, float64 [3, 3], in pixels from the middle of the image."""
    margins: np.ndarray = field(default_factory=lambda: np.zeros(4))
    """Pixels of background that are added to the left, top, right and bottom of the result."""
    offsets: np.ndarray | None = None
    """Shifts (x, y) in pixels, float64 [rows + 1, columns + 1, 2], at the corners of the cells of an even grid on the
    result: the pixel of a corner is taken from there."""

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the grid for distortions; the cells are about half as high and wide as a line."""
        width, height = self.size
        cell = min(width, height) / 2
        return min(round(height / cell), height, MAX_CELLS), min(round(width / cell), width, MAX_CELLS)

    def move(self, inverse: list[list[float]]) -> None:
        """Apply a homography after the ones so far, given its inverse [3, 3]."""
        self.to_image = self.to_image @ np.array(inverse)

    def distort(self, offsets: np.ndarray) -> None:
        """Add offsets to the ones so far. See `offsets`."""
        self.offsets = offsets if self.offsets is None else self.offsets + offsets

    def apply(self, image: Image.Image) -> Image.Image:
        """Return the image with its pixels moved."""
        fill = background(image)
        # Pillow does not interpolate between the outermost pixels and the fill colour, so a line of one pixel could
        # vanish.
        framed = ImageOps.expand(image, 1, fill)
        left, top, right, bottom = self._box()
        # Rounded to the nearest: rounded up, an image that hardly moves would be taken from between its pixels, and so
        # be blurred, as no image of evaluation is.
        size = max(1, round(right - left)), max(1, round(bottom - top))
        # The middle of the box lies in the middle of the whole pixels.
        corner = np.array([(left + right - size[0]) / 2, (top + bottom - size[1]) / 2])
        width, height = framed.size
        to_framed = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]]) @ self.to_image
        if self.offsets is not None:
            mesh = _mesh(to_framed, size, corner, self.offsets)
            return framed.transform(size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR, fillcolor=fill)
        to_framed[:, 2] += to_framed[:, :2] @ corner
        is_affine = to_framed[2, 0] == to_framed[2, 1] == 0
        method = Image.Transform.AFFINE if is_affine else Image.Transform.PERSPECTIVE
        coefficients = (to_framed / to_framed[2, 2]).ravel().tolist()[: 6 if is_affine else 8]
        return framed.transform(size, method, coefficients, Image.Resampling.BILINEAR, fillcolor=fill)

    def _box(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the result, in pixels from where the middle of the image is."""
        x, y = self.size[0] / 2, self.size[1] / 2
        corners = _transform(np.linalg.inv(self.to_image), np.array([[-x, -y], [x, -y], [-x, y], [x, y]]))
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        margins = self.margins.tolist()
        return left - margins[0], top - margins[1], right + margins[2], bottom + margins[3]


def _mesh(
    to_framed: np.ndarray, size: tuple[int, int], corner: np.ndarray, offsets: np.ndarray
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Return the cells of a grid with the quadrilaterals of the source that fill them, in the form of Pillow.

    Args:
        to_framed: Homography from the result to the source, float64 [3, 3].
        size: Width and height of the result in pixels.
        corner: Upper left corner of the result, float64 [2].
        offsets: See `Geometry.offsets`.
    """
    rows, columns = (length - 1 for length in offsets.shape[:2])
    x, y = np.linspace(0, size[0], columns + 1).round(), np.linspace(0, size[1], rows + 1).round()
    points = np.stack(np.meshgrid(x, y), axis=-1) + corner + offsets
    sources = _transform(to_framed, points)
    boxes = np.broadcast_arrays(x[:-1], y[:-1, None], x[1:], y[1:, None])
    # Pillow's order: upper left, lower left, lower right, upper right.
    corners = [sources[:-1, :-1], sources[1:, :-1], sources[1:, 1:], sources[:-1, 1:]]
    boxes_N4 = np.stack(boxes, axis=-1).reshape(-1, 4).astype(int).tolist()
    quads_N8 = np.concatenate(corners, axis=-1).reshape(-1, 8).tolist()
    return list(zip(map(tuple, boxes_N4), map(tuple, quads_N8), strict=True))


def _transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a homography [3, 3] to points [..., 2]."""
    x, y = points[..., 0], points[..., 1]
    scale = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    along = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    across = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    return np.stack([along / scale, across / scale], axis=-1)


def background(image: Image.Image) -> int | tuple[int, ...]:
    """Return the median of the outermost pixels of each channel."""
    array = np.asarray(image)
    border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    # Sorting bytes is several times faster than np.median.
    median = np.sort(border, axis=0)[len(border) // 2]
    return tuple(map(int, median)) if median.ndim else int(median)


@dataclass(frozen=True)
class GeometricEffect:
    """An effect that changes the geometry of an image; called with an image, it applies it at once."""

    change: Callable[[Geometry, float, np.random.Generator], None]

    def __call__(self, image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
        geometry = Geometry(image.size)
        self.change(geometry, strength, random)
        return geometry.apply(image)


def rotate(geometry: Geometry, strength: float, random: np.random.Generator) -> None:
    """Rotate by up to ±`strength` radians.

    The image becomes higher by the width times the sine of the angle, so scaling it to the network's height would leave
    little of the text's height on a long line. `MAX_GROWTH` therefore limits the slope of the baseline. It does not
    limit the lean of the strokes, which only adds a part of the height to the width. A long line is thus sheared: its
    strokes lean by the whole angle, and its baseline slopes less. For an image that is higher than wide, the lean is
    limited instead.
    """
    width, height = geometry.size
    share = random.uniform(-1, 1)
    slope = share * min(strength, math.asin(min(1.0, MAX_GROWTH * height / width)))
    lean = share * min(strength, math.asin(min(1.0, MAX_GROWTH * width / height)))
    # The inverse of the matrix whose columns are the new directions of the baseline and of the strokes.
    det = math.cos(slope - lean)
    inverse = [[math.cos(lean) / det, math.sin(lean) / det, 0], [-math.sin(slope) / det, math.cos(slope) / det, 0]]
    geometry.move([*inverse, [0, 0, 1]])


def slant(geometry: Geometry, strength: float, random: np.random.Generator) -> None:
    """Shear the strokes by up to ±`strength` × `MAX_SLANT` radians, with a level baseline.

    `MAX_GROWTH` limits what this adds to the width.
    """
    width, height = geometry.size
    greatest = min(math.tan(strength * MAX_SLANT), MAX_GROWTH * width / height)
    geometry.move([[1, random.uniform(-greatest, greatest), 0], [0, 1, 0], [0, 0, 1]])


def stretch(geometry: Geometry, strength: float, random: np.random.Generator) -> None:
    """Change the ratio of width to height by a factor of 1 to `MAX_STRETCH` to the power of `strength`, or its inverse.

    The size of the image stays the same, so that there are as many frames for the label: for a larger ratio the text
    gets lower, for a smaller one narrower, with background on both sides.
    """
    factor = MAX_STRETCH ** -abs(exponent := random.uniform(-strength, strength))
    before = random.uniform(0, 1)
    axis = int(exponent > 0)
    room = geometry.size[axis] * (1 - factor)
    geometry.margins[[axis, axis + 2]] += room * before, room * (1 - before)
    geometry.move([[1 if axis else 1 / factor, 0, 0], [0, 1 / factor if axis else 1, 0], [0, 0, 1]])


def shift(geometry: Geometry, strength: float, random: np.random.Generator) -> None:
    """Add up to `strength` × `MAX_SHIFT` × height pixels of background to one side, and to the top or the bottom."""
    for axis in (0, 1):
        distance = round(random.uniform(-strength, strength) * MAX_SHIFT * geometry.size[1])
        geometry.margins[axis if distance > 0 else axis + 2] += abs(distance)


def change_perspective(geometry: Geometry, strength: float, random: np.random.Generator) -> None:
    """Enlarge one end and one edge of the line, and reduce the opposite ones, by up to `strength` × `MAX_TAPER` / 2."""
    greatest = strength * MAX_TAPER / max(geometry.size)
    geometry.move([[1, 0, 0], [0, 1, 0], [random.uniform(-greatest, greatest), random.uniform(-greatest, greatest), 1]])


def distort_grid(geometry: Geometry, strength: float, random: np.random.Generator) -> None:
    """Scale the rows and columns of a grid by factors within 1 ± `strength` × `MAX_STEP_CHANGE`.

    The whole keeps its size. The cells are half as high and wide as a line.
    """
    greatest = random.uniform(0, strength) * MAX_STEP_CHANGE
    down, across = (
        _moved_lines(1 + random.uniform(-greatest, greatest, count)) * length
        for count, length in zip(geometry.cells, geometry.size[::-1], strict=True)
    )
    geometry.distort(np.stack(np.meshgrid(across, down), axis=-1))


def _moved_lines(steps: np.ndarray) -> np.ndarray:
    """Return the shift of each line of a grid, as a fraction of the whole, from the relative sizes of the steps."""
    places = np.concatenate([[0], np.cumsum(steps)])
    return places / places[-1] - np.linspace(0, 1, len(places))


def bend(geometry: Geometry, strength: float, random: np.random.Generator) -> None:
    """Move the corners of a grid's cells by up to `strength` × `MAX_BEND` × height pixels (elastic distortion).

    In between, shifts are interpolated. The cells are half as high and wide as a line. Based on Simard et al., "Best
    Practices for Convolutional Neural Networks Applied to Visual Document Analysis", 2003.
    """
    greatest = random.uniform(0, strength) * MAX_BEND * min(geometry.size)
    rows, columns = geometry.cells
    geometry.margins += greatest
    geometry.distort(random.uniform(-greatest, greatest, (rows + 1, columns + 1, 2)))
