"""Lists of PaddleOCR: a path, a tab and the text; several images of one text are a JSON list in place of the path.

A dictionary has one unit a line.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from raycrnn.data.image_files import has_image_suffix
from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine, shown
from raycrnn.tools.convert.source_files import images_of_lines, numbered_lines

FILES = None
"""Lists in a folder are not recognised by their names."""


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes is a list with tabs."""
    first, tab, _ = head.partition(b"\n")[0].partition(b"\t")
    path = first.decode("utf-8-sig", "replace")
    return bool(tab) and (has_image_suffix(path) or path.startswith("["))


def read(file: Path, options: ImportOptions) -> Items:
    """Return the images of a list."""
    folder = options.images or file.parent

    def images(place: str, text: str) -> list[LabelledImage]:
        names, label = _parse(text)
        return [LabelledImage(file, place, name, folder / name, label) for name in names]

    return images_of_lines(file, numbered_lines(file), images)


def read_dictionary(file: Path) -> Iterator[str | LeftOut]:
    """Yield the units of a dictionary."""
    return (line if isinstance(line, LeftOut) else line[1] for line in numbered_lines(file))


def _parse(text: str) -> tuple[list[str], str]:
    """Return the paths and the text of a line."""
    path, tab, label = text.partition("\t")
    if not tab:
        raise UnusableLine("no tab in the line", f"{shown(text)}: a tab separates path and text")
    if "\t" in label:
        raise UnusableLine("more than one tab in the line", f"{shown(text)}: PaddleOCR ignores the third column")
    if '"transcription"' in label and '"points"' in label:
        raise UnusableLine(
            "regions of a page instead of a text", f"{shown(text)}: cut the lines out with PPOCRLabel (rec_gt.txt)"
        )
    names = [path]
    # "[1]scan.png" is the name of an image.
    if path.startswith("[") and not has_image_suffix(path):
        try:
            names = json.loads(path)
        except (ValueError, RecursionError):
            raise UnusableLine("malformed list of images", shown(path)) from None
    if not names or not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise UnusableLine("malformed list of images", shown(path))
    return names, label
