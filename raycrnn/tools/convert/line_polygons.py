"""Cut lines of text out of an image of a page."""

import io
import math
import re
import statistics
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from raycrnn.tools.convert.records import UnusableLine, shown

Points: TypeAlias = list[tuple[float, float]]
"""Points (x, y) in pixels from the upper left corner."""

ABOVE_BASELINE = 0.75
"""Share of a line's height that is above its baseline, where the outline is not known."""

MAX_COORDINATE = 1e6
"""Points that are further from the origin than this are wrong; no page is so large."""

MAX_POINTS = 10_000

NEIGHBOURS = 20
"""Baselines below a baseline among which the next one in the same column is searched."""

NUMBER = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
POINTS = re.compile(rf"\s*(?:{NUMBER}(?:\s*,\s*|\s+|\s*$))*")


def parse_points(text: str) -> Points:
    """Return the points of `x,y x,y …` or `x y x y …`.

    Raises:
        UnusableLine: The text is something else.
    """
    if not POINTS.fullmatch(text):
        raise UnusableLine("malformed coordinates", shown(text))
    numbers = [float(number) for number in re.findall(NUMBER, text)]
    if len(numbers) % 2:
        raise UnusableLine("malformed coordinates", f"{shown(text)}: a point without y")
    return check_points(list(zip(numbers[::2], numbers[1::2], strict=True)))


def check_points(points: Points) -> Points:
    """Return the points. Raises `UnusableLine` if there are too many, or one cannot be in a page."""
    if len(points) > MAX_POINTS:
        raise UnusableLine("malformed coordinates", f"{len(points):,} points, more than {MAX_POINTS:,}")
    if not all(abs(number) <= MAX_COORDINATE for point in points for number in point):
        raise UnusableLine("malformed coordinates", f"{shown(points)}: no page is so large")
    return points


def rectangle(left: float, top: float, width: float, height: float, rotation: float = 0.0) -> Points:
    """Return the corners of a rectangle, rotated clockwise around its upper left corner by an angle in degrees."""
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    offsets = ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))
    return [(left + x * cos - y * sin, top + x * sin + y * cos) for x, y in offsets]


def band(baseline: Points, height: float) -> Points:
    """Return the outline of a line with a baseline and a height in pixels.

    The upper side is the one of the smaller y, in whichever direction the baseline was drawn.
    """
    (x_start, y_start), (x_end, y_end) = baseline[0], baseline[-1]
    length = math.hypot(x_end - x_start, y_end - y_start)
    if not length:
        raise UnusableLine("no outline", "the baseline is a point")
    up_x, up_y = (y_end - y_start) / length, -(x_end - x_start) / length
    if up_y > 0:
        up_x, up_y = -up_x, -up_y
    above, below = ABOVE_BASELINE * height, (1 - ABOVE_BASELINE) * height
    upper = [(x + up_x * above, y + up_y * above) for x, y in baseline]
    return upper + [(x - up_x * below, y - up_y * below) for x, y in reversed(baseline)]


def typical_distance(baselines: Sequence[Points]) -> float | None:
    """Return the median distance in pixels of a baseline to the next one below it; None if none is below another."""
    lines = sorted(
        (statistics.fmean(y for _, y in points), min(x for x, _ in points), max(x for x, _ in points))
        for points in baselines
        if points
    )
    distances = []
    for number, (y, left, right) in enumerate(lines):
        for other_y, other_left, other_right in lines[number + 1 : number + 1 + NEIGHBOURS]:
            if other_y > y and other_left < right and left < other_right:
                distances.append(other_y - y)
                break
    return statistics.median(distances) if distances else None


def cut(page: Image.Image, outline: Points) -> bytes:
    """Return the part of a page inside an outline as a PNG, the rest of which has the colour of the background.

    That colour is the median of the pixels inside: ink covers less than half of a line.

    Args:
        page: In mode L or RGB.
        outline: At least three points. Parts outside the page are cut off.

    Raises:
        UnusableLine: There are fewer points, or they enclose nothing on the page.
    """
    if len(outline) < 3:
        raise UnusableLine("no outline", f"{len(outline)} points; an area has at least three")
    # Coordinates that were computed may be off by a rounding error, which must not add a row of pixels.
    xs, ys = (tuple(round(number, 3) for number in numbers) for numbers in zip(*outline, strict=True))
    left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
    right, bottom = min(page.width, math.ceil(max(xs)) + 1), min(page.height, math.ceil(max(ys)) + 1)
    if left >= right or top >= bottom:
        raise UnusableLine("the outline is outside the page", f"{shown(outline)} on {page.width} × {page.height}")
    if max(xs) - min(xs) < 1 or max(ys) - min(ys) < 1:
        raise UnusableLine("no outline", f"{shown(outline)} has no area")
    part = page.crop((left, top, right, bottom))
    mask = Image.new("L", part.size)
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in zip(xs, ys, strict=True)], fill=255, outline=255)
    inside = np.asarray(part)[np.asarray(mask) > 0]
    if not len(inside):
        raise UnusableLine("the outline is outside the page", f"{shown(outline)} on {page.width} × {page.height}")
    background = np.median(inside, axis=0).astype(np.uint8)
    colour = int(background) if background.ndim == 0 else tuple(map(int, background))
    file = io.BytesIO()
    Image.composite(part, Image.new(part.mode, part.size, colour), mask).save(file, "PNG")
    return file.getvalue()
