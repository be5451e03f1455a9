"""PAGE XML, all versions from 2010 on, as written by Transkribus, eScriptorium, Aletheia and OCR-D.

A `TextLine` has an outline (`Coords`), a `Baseline`, and its text in `TextEquiv/Unicode`. Points are in the attribute
`points`, or before 2013 in elements `Point`.
"""

from pathlib import Path
from xml.etree.ElementTree import Element

from raycrnn.tools.convert.line_polygons import Points, check_points, parse_points
from raycrnn.tools.convert.pages import MarkedPage, PageLine, cut_lines, find_page_image
from raycrnn.tools.convert.records import ImportOptions, Items, UnusableLine, shown
from raycrnn.tools.convert.xml_files import children, descendants, number, read_root, size

FILES = "*.xml"


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes looks like PAGE."""
    return b"PcGts" in head


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the lines of a page."""
    return cut_lines(read_page(file, options), options)


def read_page(file: Path, options: ImportOptions) -> MarkedPage:
    """Read a PAGE file. Raises `UnusableLine` if it is not one, or its image is missing."""
    root = read_root(file, "PcGts")
    page = next(descendants(root, "Page"), None)
    if page is None:
        raise UnusableLine("a file without a page", "there is no element Page")
    image = find_page_image(file, page.get("imageFilename", ""), options.images)
    lines = [_line(element, count) for count, element in enumerate(descendants(page, "TextLine"), 1)]
    if not lines:
        raise UnusableLine("a page without lines", "there is no element TextLine")
    return MarkedPage(file, file.stem, image, size(page, "imageWidth", "imageHeight"), lines)


def _line(element: Element, count: int) -> PageLine:
    name = element.get("id") or str(count)
    place, text = f"line {name}", _text(element)
    try:
        return PageLine(place, name, text, _points(element, "Coords"), _points(element, "Baseline"))
    except UnusableLine as error:
        return PageLine(place, name, text, [], [], error)


def _text(element: Element) -> str | None:
    """Return the text of a line, or else of its words with spaces between; None if there is none."""
    text = _own_text(element)
    words = [] if text else [found for word in children(element, "Word") if (found := _own_text(word))]
    return " ".join(words) or text


def _own_text(element: Element) -> str | None:
    equivalents = children(element, "TextEquiv")
    if not equivalents:
        return None
    # Several are alternatives, and the one with the lowest index is the best.
    best = min(equivalents, key=lambda found: number(found, "index") or 0)
    unicode = children(best, "Unicode")
    return (unicode[0].text or "") if unicode else None


def _points(element: Element, name: str) -> Points:
    """Return the points of a child of a line; none if it has no such child."""
    found = children(element, name)
    if not found:
        return []
    text = found[0].get("points")
    if text is not None:
        return parse_points(text)
    points = []
    for point in children(found[0], "Point"):
        x, y = number(point, "x"), number(point, "y")
        if x is None or y is None:
            raise UnusableLine("malformed coordinates", shown(dict(point.attrib)))
        points.append((x, y))
    return check_points(points)
