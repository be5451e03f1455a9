"""Pairs of an image and a text file NAME.gt.txt, as of Calamari, kraken, tesstrain and OCRopus.

The image is `NAME.png`, or another image of the same line such as `NAME.bin.png` or `NAME.nrm.png`.
"""

from collections.abc import Callable
from pathlib import Path

from raycrnn import storage
from raycrnn.data.image_files import SUFFIXES, has_image_suffix
from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine
from raycrnn.tools.convert.source_files import MAX_LINE_BYTES, is_file, walk

ENDING = ".gt.txt"

FILES = f"*{ENDING}"

VARIANTS = ("", ".nrm", ".bin", ".raw", ".dew", ".grey")
"""What stands between the name of a line and the suffix of its images; the first one is the original."""

ALL_SUFFIXES = (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file has the name of a text beside an image."""
    return file.name.endswith(ENDING)


def read(source: Path, options: ImportOptions) -> Items:
    """Yield the line of a .gt.txt file, or the lines of the pairs in a folder."""
    if not source.is_dir():
        yield from _pair(source, lambda name: is_file(source.parent / name))
        return
    for folder, _, listed in walk(source):
        names, paired = set(listed), set()
        texts = [name for name in listed if name.endswith(ENDING)]
        for text in texts:
            paired.update(_images_of(text, names.__contains__))
            yield from _pair(folder / text, names.__contains__)
        for name in listed:
            if texts and has_image_suffix(name) and name not in paired:
                yield LeftOut(folder / name, "", "no text for the image", f"there is no {Path(name).stem}{ENDING}")


def _read(text: Path) -> bytes:
    """Return the contents of a text without a byte order mark and without the line end that editors add."""
    try:
        with text.open("rb") as file:
            data = file.read(MAX_LINE_BYTES)
    except OSError as error:
        raise UnusableLine("cannot be read", storage.describe(error)) from None
    if len(data) == MAX_LINE_BYTES:
        raise UnusableLine("not a text of one line", f"more than {MAX_LINE_BYTES:,} bytes")
    return data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").removesuffix(b"\r")


def _images_of(text: str, exists: Callable[[str], bool]) -> list[str]:
    """Return the names of the images of a text, the original first."""
    stem = text.removesuffix(ENDING)
    return [name for variant in VARIANTS for suffix in ALL_SUFFIXES if exists(name := f"{stem}{variant}{suffix}")]


def _pair(text: Path, exists: Callable[[str], bool]) -> Items:
    """Yield the line of a text and one of its images, and what else there is of it."""
    images = _images_of(text.name, exists)
    if not images:
        stem = text.name.removesuffix(ENDING)
        yield LeftOut(text, "", "no image for the text", f"there is no {stem}.png or other image of that name")
    else:
        try:
            yield LabelledImage(text, "", images[0], text.parent / images[0], _read(text))
        except UnusableLine as error:
            yield LeftOut.because(error, text)
    for other in images[1:]:
        yield LeftOut(text.parent / other, "", "another image of the same line", f"{images[0]} is used")
