"""Tables of PyLaia: the name of an image and the symbols of its text, separated by spaces.

`<space>` stands for a space. A second file lists the symbols, each with a number; `<ctc>` is the CTC blank.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine, shown
from raycrnn.tools.convert.source_files import find_image, images_of_lines, numbered_lines

FILES = None
"""Tables in a folder are not recognised by their names."""

SPACE, BLANK = "<space>", "<ctc>"

SEPARATOR = re.compile("[ \t]+")


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes is a table: all symbols are single characters or in <>."""
    first = head.partition(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
    _, *symbols = SEPARATOR.split(first)
    return file.suffix == ".txt" and len(symbols) > 1 and all(map(_is_plain, symbols))


def read(file: Path, options: ImportOptions) -> Items:
    """Return the images of a table."""
    folder = options.images or file.parent

    def images(place: str, text: str) -> list[LabelledImage]:
        name, units = _parse(text, options.units)
        return [LabelledImage(file, place, name, find_image(folder, name), units)]

    return images_of_lines(file, numbered_lines(file), images)


def read_dictionary(file: Path) -> Iterator[str | LeftOut]:
    """Yield the symbols of a list without the blank."""
    for line in numbered_lines(file):
        if isinstance(line, LeftOut):
            yield line
            continue
        place, text = line
        symbol, *numbers = SEPARATOR.split(text.rstrip(" \t"))
        if not symbol or len(numbers) != 1:
            yield LeftOut(file, place, "malformed line in the list of symbols", f"{shown(text)}: not `symbol number`")
        elif symbol != BLANK:
            yield _unit(symbol)


def _parse(text: str, known: frozenset[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return the name of the image and the units of a row."""
    name, *symbols = SEPARATOR.split(text.rstrip(" \t"))
    if not name:
        raise UnusableLine("no name of an image", f"{shown(text)}: the line begins with a space")
    units = tuple(map(_unit, symbols))
    unknown = [symbol for symbol in symbols if symbol == BLANK or not _is_known(symbol, known)]
    if unknown:
        remedy = "name the list of symbols with --dictionary" if known is None else "add it to the list of symbols"
        raise UnusableLine("unknown symbol", f"{shown(unknown[0])}: {remedy}")
    return name, units


def _is_known(symbol: str, known: frozenset[str] | None) -> bool:
    return _is_plain(symbol) if known is None else _unit(symbol) in known


def _is_plain(symbol: str) -> bool:
    """Return whether this is a symbol even if no list of symbols says so."""
    return len(symbol) == 1 or re.fullmatch("<[^<> ]+>", symbol) is not None


def _unit(symbol: str) -> str:
    return " " if symbol == SPACE else symbol
