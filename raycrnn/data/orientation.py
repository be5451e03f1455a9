"""Lines that stand upright in their images: how they are turned, and where their units are in the image.

The network reads from left to right. The columns of Chinese, Japanese and Mongolian run from top to bottom, and so do
titles on the spines of English books; French and German ones, and the labels of vertical axes, often run from bottom to
top. All of them are turned by 90° before they are fitted to the network's input, after the rotation by their EXIF
orientation.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

from PIL import Image

LineOrientation = Literal["horizontal", "top_to_bottom", "bottom_to_top"]
"""How a line runs in its upright image."""

TURNS = {"top_to_bottom": Image.Transpose.ROTATE_90, "bottom_to_top": Image.Transpose.ROTATE_270}
"""What makes a line horizontal. Pillow turns counterclockwise, so that the top of the image becomes its left edge."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels. The last column and row are those before right and bottom."""


def make_horizontal(image: Image.Image, orientation: LineOrientation) -> Image.Image:
    """Return an upright image turned so that its line runs horizontally; itself, if the line does so already."""
    return image if orientation == "horizontal" else image.transpose(TURNS[orientation])


def horizontal_size(size: Sequence[int], orientation: LineOrientation) -> tuple[int, int]:
    """Return the width and height that an upright image of a size (width, height) has after `make_horizontal`."""
    width, height = size
    return (width, height) if orientation == "horizontal" else (height, width)


def frame_centre(frame: float) -> float:
    """Return the column at the centre of the eight columns that a frame covers."""
    return 4 * (frame + 1)


def spans(ranges: Sequence[tuple[int, int]], shape: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Return the columns of each unit, [left, right), in pixels of the horizontal image.

    CTC locates little more than the middle of a unit. Neighbouring units are therefore separated halfway between their
    frames; the first and the last unit extend as far outwards as inwards, and a single unit is as wide as the line is
    high.

    Args:
        ranges: The frames of each unit, [first, end).
        shape: Shape of the prepared image, (height, width, …).
        width: Width of the horizontal image in pixels.
    """
    if not ranges:
        return []
    height, prepared_width = shape[:2]
    centres = [(frame_centre(first), frame_centre(end - 1)) for first, end in ranges]
    edges = [(before[1] + after[0]) / 2 for before, after in itertools.pairwise(centres)]
    first, last = centres[0], centres[-1]
    left = first[0] - (edges[0] - first[1] if edges else height / 2)
    right = last[1] + (last[0] - edges[-1] if edges else height / 2)
    scale = width / prepared_width
    columns = [round(min(max(edge, 0), prepared_width) * scale) for edge in (left, *edges, right)]
    return list(itertools.pairwise(columns))


def box_of(span: tuple[int, int], size: Sequence[int], orientation: LineOrientation) -> Box:
    """Return the part of an upright image that columns of the horizontal image show.

    Args:
        span: The columns [left, right) of the horizontal image.
        size: Width and height of the upright image in pixels.
    """
    (first, end), (width, height) = span, size
    if orientation == "horizontal":
        return first, 0, end, height
    return (0, first, width, end) if orientation == "top_to_bottom" else (0, height - end, width, height - first)


def span_of(box: Box, size: Sequence[int], orientation: LineOrientation) -> tuple[int, int]:
    """Return the columns of the horizontal image that show a part of an upright image: the inverse of `box_of`."""
    left, top, right, bottom = box
    if orientation == "horizontal":
        return left, right
    return (top, bottom) if orientation == "top_to_bottom" else (size[1] - bottom, size[1] - top)
