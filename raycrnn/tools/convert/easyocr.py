"""EasyOCR's labels.csv: columns `filename` and `words`, separated by the first comma, beside the images.

As in EasyOCR, quotes are characters of the text.
"""

from pathlib import Path

from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine, shown
from raycrnn.tools.convert.source_files import images_of_lines, inside, numbered_lines

FILES = "labels.csv"

HEADER = "filename,words"


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes has the columns of labels.csv."""
    return head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].rstrip(b"\r") == HEADER.encode()


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the images of a file."""
    lines = numbered_lines(file)
    header = next(lines, ("", ""))
    if isinstance(header, LeftOut) or header[1] != HEADER:
        raise UnusableLine("not the columns of EasyOCR", f"the first line is not {HEADER}")

    def images(place: str, text: str) -> list[LabelledImage]:
        name, comma, label = text.partition(",")
        if not comma:
            raise UnusableLine("no comma in the line", f"{shown(text)}: a comma separates file name and text")
        return [LabelledImage(file, place, name, inside(options.images or file.parent, name), label)]

    yield from images_of_lines(file, lines, images)
