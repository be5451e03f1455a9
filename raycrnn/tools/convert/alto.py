"""ALTO, versions 1 to 4, as written by eScriptorium, Transkribus, kraken, ABBYY and digital libraries.

A `TextLine` has an outline in `Shape/Polygon`, or is the rectangle of HPOS, VPOS, WIDTH and HEIGHT, or has only a
BASELINE. Its text is the `CONTENT` of its `String` elements, with a space for each `SP`.
"""

from pathlib import Path
from xml.etree.ElementTree import Element

from raycrnn.tools.convert.line_polygons import Points, check_points, parse_points, rectangle
from raycrnn.tools.convert.pages import MarkedPage, PageLine, cut_lines, find_page_image
from raycrnn.tools.convert.records import ImportOptions, Items, UnusableLine, shown
from raycrnn.tools.convert.xml_files import children, descendants, local_name, number, read_root, size

FILES = "*.xml"


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes looks like ALTO."""
    return b"<alto" in head or b":alto" in head


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the lines of a page."""
    return cut_lines(read_page(file, options), options)


def read_page(file: Path, options: ImportOptions) -> MarkedPage:
    """Read an ALTO file. Raises `UnusableLine` if it is not one of a single page, or its image is missing."""
    root = read_root(file, "alto")
    pages = list(descendants(root, "Page"))
    if len(pages) != 1:
        raise UnusableLine("not a file of one page", f"{len(pages)} elements Page: write a file for each page")
    unit = next((found.text for found in descendants(root, "MeasurementUnit")), None) or "pixel"
    page_size = size(pages[0], "WIDTH", "HEIGHT")
    if page_size is None and unit.strip() != "pixel":
        raise UnusableLine(
            "a unit of measurement without the size of the page",
            f"coordinates in {unit.strip()}: add WIDTH and HEIGHT to Page, or export the file with pixels",
        )
    lines = [_line(element, count) for count, element in enumerate(descendants(pages[0], "TextLine"), 1)]
    if not lines:
        raise UnusableLine("a page without lines", "there is no element TextLine")
    named = next((found.text for found in descendants(root, "fileName")), None) or ""
    return MarkedPage(file, file.stem, find_page_image(file, named.strip(), options.images), page_size, lines)


def _line(element: Element, count: int) -> PageLine:
    name = element.get("ID") or str(count)
    place, text = f"line {name}", _text(element)
    try:
        return PageLine(place, name, text, _outline(element), _baseline(element))
    except UnusableLine as error:
        return PageLine(place, name, text, [], [], error)


def _text(element: Element) -> str | None:
    """Return the text of a line; None if it has none.

    Files without any SP have one String for each word, or for the whole line.
    """
    parts = [child for child in element if local_name(child) in ("String", "SP", "HYP")]
    has_spaces = any(local_name(part) == "SP" for part in parts)
    text = ""
    for part in parts:
        if local_name(part) == "SP":
            text += " "
        elif text and not has_spaces and local_name(part) == "String":
            text += " " + part.get("CONTENT", "")
        else:
            text += part.get("CONTENT", "")
    return text if parts else None


def _outline(element: Element) -> Points:
    """Return the polygon of a line, or its rectangle; empty if it has neither."""
    for shape in children(element, "Shape"):
        for polygon in children(shape, "Polygon"):
            if points := parse_points(polygon.get("POINTS", "")):
                return points
    given = {name: element.get(name) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT")}
    if None in given.values():
        return []
    left, top, width, height = (number(element, name) for name in given)
    if left is None or top is None or width is None or height is None:
        raise UnusableLine("malformed coordinates", shown(given))
    # Programs that know only the baseline write a rectangle without an area.
    return check_points(rectangle(left, top, width, height)) if width > 0 and height > 0 else []


def _baseline(element: Element) -> Points:
    """Return the baseline of a line; empty if it is missing, or is the single number of versions before 4.1."""
    text = element.get("BASELINE", "")
    points = [] if number(element, "BASELINE") is not None else parse_points(text)
    return points
