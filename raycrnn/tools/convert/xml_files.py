"""Read XML files of pages, of which there are many versions with different namespaces."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from raycrnn.tools.convert.records import UnusableLine

MAX_BYTES = 2**27
"""Larger files are not read: no page has so many lines."""


def read_root(file: Path, name: str) -> ElementTree.Element:
    """Return the root element of an XML file. Entities are not expanded, and files with a DTD are not read.

    Raises:
        UnusableLine: It is not an XML file whose root has this local name.
        OSError: The file cannot be read.
    """
    if file.stat().st_size > MAX_BYTES:
        raise UnusableLine("the file is too large", f"more than {MAX_BYTES:,} bytes of XML")
    try:
        root = defusedxml.ElementTree.parse(file, forbid_dtd=True).getroot()
    except DefusedXmlException:
        raise UnusableLine("XML with a DTD", "remove the <!DOCTYPE …>: entities are not expanded") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        # LookupError and ValueError: an encoding that Python does not know, or that expat cannot use.
        raise UnusableLine("not an XML file", f"{error}; the file may be incomplete: export it again") from None
    if local_name(root) != name:
        raise UnusableLine(f"not a file with the root {name}", f"its root is {local_name(root)}")
    return root


def local_name(element: ElementTree.Element) -> str:
    """Return the name of an element without its namespace."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def descendants(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Yield the element and those below it that have a local name, in the order of the file."""
    # Not iter(), which fails on deeply nested elements.
    left = [element]
    while left:
        found = left.pop()
        if local_name(found) == name:
            yield found
        left += reversed(list(found))


def children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Return the elements directly below an element that have a local name."""
    return [child for child in element if local_name(child) == name]


def number(element: ElementTree.Element, attribute: str) -> float | None:
    """Return the value of an attribute that is a number; None if there is none, or it is something else."""
    try:
        value = float(element.get(attribute, ""))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def size(element: ElementTree.Element, width: str, height: str) -> tuple[float, float] | None:
    """Return the size in two attributes, or None if one of them is not a number above zero."""
    values = number(element, width) or 0.0, number(element, height) or 0.0
    return values if min(values) > 0 else None
