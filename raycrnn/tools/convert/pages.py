"""Pages with marked lines: find the image of a page, and cut the lines out."""

import io
import math
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from raycrnn.data import image as images
from raycrnn.data import image_files, image_modes
from raycrnn.data.rejections import Rejected
from raycrnn.tools.convert import line_polygons
from raycrnn.tools.convert.line_polygons import Points
from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine
from raycrnn.tools.convert.source_files import ALL_SUFFIXES, check_not_written, first_file, last_part, no_such_image

MAX_PAGE_PIXELS = 170_000_000
"""Larger pages are not read: in colour, 170 million pixels take 510 MB."""

SIZE_TOLERANCE = 0.01
"""Relative difference up to which two aspect ratios count as equal: the sizes of a reduced image are rounded."""

AS_STORED = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What undoes the turn of an upright image, for the EXIF orientations that swap width and height."""

GREY_MODES = ("1", "L", "LA", "La", "I", "F")
"""Pillow's modes of images without colour; `I;16` and its variants are more."""


@dataclass(frozen=True)
class PageLine:
    """A line on a page, as marked by the user of another program."""

    place: str
    """Where it is in the file: "line r1l2"."""
    name: str
    """A name for the image of the line, on the page."""
    text: object
    """Its text; anything else is refused."""
    outline: Points
    """The outline in pixels of the declared size; empty if there is none."""
    baseline: Points
    """The baseline in the same pixels; empty if there is none."""
    problem: UnusableLine | None = None
    """Why the line cannot be used, if that is known already."""


@dataclass(frozen=True)
class MarkedPage:
    """An image of a page, and its lines."""

    file: Path
    """The file that describes the page."""
    name: str
    """A name for the page."""
    image: Path
    size: tuple[float, float] | None
    """The width and height of the page in the unit of its coordinates; None if the file does not say."""
    lines: list[PageLine]


def find_page_image(file: Path, name: str, folder: Path | None) -> Path:
    """Return the path of the image of a page.

    Programs write the path that the image had on another machine. Only the last part of it counts, unless the path is
    found below one of the folders.

    Args:
        file: The file that names the image.
        name: The name that it gives; empty if it gives none.
        folder: The folder with the images. Default: those in which programs put them, which are that of the file and
            the one above, and `images` in either.

    Raises:
        UnusableLine: There is no such image.
    """
    near = (file.parent, file.parent.parent)
    folders = [folder] if folder else [*near, *(place / "images" for place in near)]
    base = last_part(name)
    for stem in (name, base):
        is_below = stem and not stem.startswith("/") and ".." not in stem.split("/")
        if is_below and (found := first_file([place / stem for place in folders])):
            return found
    # The image may have been converted to another format, or the file may not name it.
    for stem in (Path(base).stem, file.stem):
        candidates = [place / f"{stem}{suffix}" for place in folders for suffix in ALL_SUFFIXES]
        if stem and (found := first_file(candidates)):
            return found
    raise no_such_image(base or f"{file.stem}.*", folders)


def cut_lines(page: MarkedPage, options: ImportOptions) -> Items:
    """Yield the lines of a page as images, or why a line is left out."""
    check_not_written(page.image, options.written)
    try:
        pixels, scale = _open_page(page)
    except (UnusableLine, Rejected) as error:
        yield LeftOut(page.file, "", error.reason, error.detail)
        return
    height = options.line_height or line_polygons.typical_distance([line.baseline for line in page.lines])
    for line in page.lines:
        try:
            outline = _scaled(_outline(line, height), scale)
            image = line_polygons.cut(pixels, outline)
        except UnusableLine as error:
            yield LeftOut.because(error, page.file, line.place)
            continue
        yield LabelledImage(page.file, line.place, f"{page.name}_{line.name}.png", image, line.text)


def _outline(line: PageLine, height: float | None) -> Points:
    """Return the outline of a line in the coordinates of the file, by its baseline if it has no outline."""
    if line.problem:
        raise line.problem
    if line.outline:
        return line.outline
    if len(line.baseline) < 2:
        raise UnusableLine("no outline", "neither an outline nor a baseline")
    if height is None:
        raise UnusableLine(
            "no outline", "only a baseline, and no other line tells the height: give it with --line-height"
        )
    return line_polygons.band(line.baseline, height)


def _scaled(points: Points, scale: tuple[float, float]) -> Points:
    return [(x * scale[0], y * scale[1]) for x, y in points]


def _open_page(page: MarkedPage) -> tuple[Image.Image, tuple[float, float]]:
    """Return the image of a page in mode L or RGB, and the factors from the file's coordinates to its pixels.

    Raises:
        Rejected: The image cannot be read.
        UnusableLine: Its shape is not that of the page in the file.
    """
    data = image_files.read_bytes(str(page.image))
    with warnings.catch_warnings():
        # Pages may have more pixels than the limit from which on Pillow warns.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        is_grey, orientation = _read_header(data)
        image = images.decode(data, 1 if is_grey else 3, MAX_PAGE_PIXELS)
    if page.size is None:
        return image, (1.0, 1.0)
    if not _same_shape(image.size, page.size):
        # Some programs show and mark images without turning them as their EXIF orientation says.
        if orientation not in AS_STORED or not _same_shape(image.size[::-1], page.size):
            width, height = page.size
            raise UnusableLine(
                "the image of the page has another shape",
                f"{page.image}: {image.width} × {image.height} instead of {width:g} × {height:g}",
            )
        image = image.transpose(AS_STORED[orientation])
    return image, (image.width / page.size[0], image.height / page.size[1])


def _read_header(data: bytes) -> tuple[bool, int]:
    """Return whether an image has no colour, and its EXIF orientation."""
    with suppress(Exception), Image.open(io.BytesIO(data), formats=images.FORMATS) as header:
        is_grey = header.mode in GREY_MODES or header.mode.startswith("I;16")
        # Pillow turns a TIFF by itself.
        return is_grey, 1 if header.format == "TIFF" else image_modes.orientation(header)
    # Only grey TIFFs are read otherwise than by Image.open, and decode() explains why others are not.
    return True, 1


def _same_shape(size: tuple[int, int], other: tuple[float, float]) -> bool:
    return math.isclose(size[0] * other[1], size[1] * other[0], rel_tol=SIZE_TOLERANCE)
