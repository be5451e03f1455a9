"""Pictures of lines for an evaluation report."""

import base64
import io
from dataclasses import dataclass

import PIL.Image

from raycrnn.data import image, image_files
from raycrnn.data.orientation import LineOrientation, make_horizontal
from raycrnn.data.rejections import Rejected
from raycrnn.evaluation.analysis import Example

HEIGHT, WIDTH = 64, 1200
"""Largest size of a picture on the page, in pixels."""

MIN_HEIGHT = 32
"""Smallest height of a picture on the page, in pixels. A lower picture is enlarged."""

MAX_BYTES = 900_000
"""Size limit of all pictures together. With Plotly, which is the largest part, the page stays below 6 MB."""

CONTEXT = 2
"""Units on either side of an edit in its example's picture."""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI."""

    uri: str
    width: int
    """Displayed width in pixels."""
    height: int
    mark: tuple[float, float] | None = None
    """Left edge and width of a mark, in percent of the width."""


class Album:
    """Makes the pictures of a page, up to a total size. Lines that stand upright are turned."""

    def __init__(self, max_bytes: int = MAX_BYTES, orientation: LineOrientation = "horizontal"):
        self._left = max_bytes
        self._orientation = orientation

    def full(self, place: str) -> Picture | None:
        """Return the picture at a path or URI. None if the image cannot be read, or the size limit is reached."""
        horizontal = self._open(place)
        return None if horizontal is None else self._add(horizontal)

    def crop(self, example: Example) -> Picture | None:
        """Return the picture of an edit and its surroundings, with the edit marked."""
        horizontal = self._open(example.line.place)
        if horizontal is None:
            return None
        left, right, *mark = columns(example, horizontal.width)
        share = 100 / (right - left)
        return self._add(
            horizontal.crop((left, 0, right, horizontal.height)),
            ((mark[0] - left) * share, (mark[1] - mark[0]) * share),
        )

    def _open(self, place: str) -> PIL.Image.Image | None:
        try:
            upright = image.decode(image_files.read_bytes(place), channels=3)
        except Rejected:
            return None
        return make_horizontal(upright, self._orientation)

    def _add(self, picture: PIL.Image.Image, mark: tuple[float, float] | None = None) -> Picture | None:
        picture.thumbnail((WIDTH, HEIGHT))
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=60)
        uri = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
        if len(uri) > self._left:
            return None
        self._left -= len(uri)
        scale = max(1.0, MIN_HEIGHT / picture.height)
        return Picture(uri, round(scale * picture.width), round(scale * picture.height), mark)


def columns(example: Example, width: int) -> tuple[int, int, int, int]:
    """Return the columns [left, right) of an edit with its context, and those of the edit itself.

    Args:
        width: Width of the horizontal image, in pixels.
    """
    spans = [] if example.line.spans is None else example.line.spans.tolist()
    if not spans:
        return 0, width, 0, width
    steps = example.line.steps()
    place = steps[example.step].hypothesis
    if place is None:
        # A missed unit: from the middle of the unit before it to the middle of the one after it.
        after = sum(step.hypothesis is not None for step in steps[: example.step])
        middles = [sum(span) // 2 for span in spans]
        # Units are in logical order, in which those of a script from right to left stand one left of the other.
        start, end = (width, 0) if middles[0] > middles[-1] else (0, width)
        mark = sorted((middles[after - 1] if after else start, middles[after] if after < len(spans) else end))
        first, last = after - CONTEXT, after + CONTEXT - 1
    else:
        mark, first, last = spans[place], place - CONTEXT, place + CONTEXT
    lefts, rights = zip(*spans[max(first, 0) : last + 1], strict=True)
    left = min(*lefts, mark[0], width - 1)
    right = min(max(*rights, mark[1], left + 1), width)
    return left, right, mark[0], mark[1]
