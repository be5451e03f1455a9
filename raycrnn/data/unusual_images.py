"""Images that are probably not lines of text, or lose detail: counted, and described in warnings."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from raycrnn.data.orientation import LineOrientation, horizontal_size

MIN_UPRIGHT = 1.25
"""An image whose height is more than this multiple of its width is a page or a line that stands upright. One or two
letters can be a little higher than wide, and pages are 1.29 (US letter) to 1.41 times (A4) as high as wide."""

PAGE_HEIGHT, PAGE_ASPECT = 1000, 4
"""An image that is at least this high in pixels, and less than this many times as wide, is probably a page."""

MAX_REDUCTION = 1.2
"""An image may be this many times as high as the network's input before a higher input suits it better."""

NARROW_UNITS = 2
"""A label with at most this many units may fill an image that is higher than wide."""


def is_upright(size: Sequence[int]) -> bool:
    """Return whether an image, of a width and height in pixels, is much higher than wide."""
    return size[1] > MIN_UPRIGHT * size[0]


def is_page(size: Sequence[int]) -> bool:
    """Return whether an image, of a width and height in pixels, is as large as a page and no line."""
    return size[1] >= PAGE_HEIGHT and size[0] < PAGE_ASPECT * size[1]


def is_compressed(size: Sequence[int], input_shape: Sequence[int]) -> bool:
    """Return whether an image, of a width and height in pixels, is wider than the network's input."""
    return round(size[0] * input_shape[0] / size[1]) > input_shape[1]


@dataclass
class UnusualImages:
    """Counts the unusual images of a set."""

    input_shape: Sequence[int]
    """Height and greatest width of the network's input."""
    orientation: LineOrientation = "horizontal"
    """How the lines run in the images."""
    images: int = 0
    """Number of images that were added."""
    found: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The number of unusual images and an example, by their kind: a key of `DESCRIPTIONS`."""

    def add(self, name: str, size: Sequence[int], units: int | None = None, is_blank: bool = False) -> None:
        """Count an image.

        Args:
            name: Its name, for the example.
            size: Its upright width and height in pixels.
            units: Number of units in its label, if it has one.
            is_blank: Whether all its pixels are equal.
        """
        turned = horizontal_size(size, self.orientation)
        self.images += 1
        if (units is None or units > NARROW_UNITS) and (is_page(turned) or is_upright(turned)):
            self._count("page", name, size)
        if is_compressed(turned, self.input_shape):
            self._count("wide", name, size)
        if is_blank:
            self._count("blank", name, size)

    def _count(self, kind: str, name: str, size: Sequence[int]) -> None:
        count, example = self.found.get(kind, (0, f"{name} ({size[0]:,} × {size[1]:,} pixels)"))
        self.found[kind] = count + 1, example

    def warnings(self) -> list[str]:
        """Return a warning for each kind of unusual images that were found."""
        height, width = self.input_shape
        descriptions = DESCRIPTIONS if self.orientation == "horizontal" else DESCRIPTIONS | {"page": LYING}
        values = {"height": height, "width": width, "orientation": self.orientation}
        return [
            f"{count:,} of {self.images:,} images {descriptions[kind].format(**values)}; for example {example}"
            for kind, (count, example) in self.found.items()
        ]


DESCRIPTIONS = {
    "page": "are higher than wide or as large as a page, but raycrnn reads an image as one line of text: cut the lines "
    "out of pages; for lines that stand upright, set data.line_orientation, or turn them",
    "wide": "are wider than image.input_shape=[{height}, {width}] allows and are compressed: cut the lines into parts, "
    "or train with a greater width in image.input_shape",
    "blank": "are blank: all their pixels are equal",
}
"""What is unusual about each kind of images, and what to do."""

LYING = (
    "are wider than high or as large as a page, but raycrnn reads an image as one line that stands upright, by "
    "data.line_orientation={orientation}: cut the lines out of pages; for horizontal lines, set it to horizontal"
)
"""The same of pages, where lines stand upright."""
