"""Pairs of an image and a text file NAME.gt.txt, as of Calamari, kraken, tesstrain and OCRopus.

The image is `NAME.png`, or another image of the same line such as `NAME.bin.png` or `NAME.nrm.png`.
"""

from collections.abc import Callable
from pathlib import Path

from raycrnn import storage
from raycrnn.data.image_files import has_image_suffix
from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine
from raycrnn.tools.convert.source_files import ALL_SUFFIXES, MAX_LINE_BYTES, is_file, line_in, walk

ENDING = ".gt.txt"

FILES = f"*{ENDING}"

VARIANTS = ("", ".nrm", ".bin", ".raw", ".dew", ".grey")
"""What stands between the name of a line and the suffix of its images; the first one is the original."""


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file has the name of a text beside an image."""
    return file.name.endswith(ENDING)


def read(source: Path, options: ImportOptions) -> Items:
    """Yield the line of a .gt.txt file, or the lines of the pairs in a folder."""
    if not source.is_dir():
        beside = options.images or source.parent
        yield from _pair(source, beside, lambda name: is_file(beside / name))
        return
    for folder, listed in walk(source, options.written):
        images = options.images / folder.relative_to(source) if options.images else folder
        present = _names_in(images) if options.images else listed
        names, paired = set(present), set()
        texts = [name for name in listed if name.endswith(ENDING)]
        for text in texts:
            paired.update(_images_of(text, names.__contains__))
            yield from _pair(folder / text, images, names.__contains__)
        for name in present:
            if texts and has_image_suffix(name) and name not in paired:
                yield LeftOut(images / name, "", "no text for the image", f"there is no {Path(name).stem}{ENDING}")


def _names_in(folder: Path) -> list[str]:
    """Return the names in a folder that are not hidden, sorted; none if there is no such folder."""
    return sorted(path.name for path in folder.glob("[!.]*"))


def _read(text: Path) -> bytes:
    """Return the line in a text. Raises `UnusableLine` if it cannot be read."""
    if text.exists() and not text.is_file():
        raise UnusableLine("not a regular file")
    try:
        with text.open("rb") as file:
            data = file.read(MAX_LINE_BYTES)
    except OSError as error:
        raise UnusableLine("cannot be read", storage.describe(error)) from None
    if len(data) == MAX_LINE_BYTES:
        raise UnusableLine("not a text of one line", f"more than {MAX_LINE_BYTES:,} bytes")
    return line_in(data)


def _images_of(text: str, exists: Callable[[str], bool]) -> list[str]:
    """Return the names of the images of a text, the original first."""
    stem = text.removesuffix(ENDING)
    return [name for variant in VARIANTS for suffix in ALL_SUFFIXES if exists(name := f"{stem}{variant}{suffix}")]


def _pair(text: Path, folder: Path, exists: Callable[[str], bool]) -> Items:
    """Yield the line of a text and one of its images in a folder, and what else there is of it."""
    images = _images_of(text.name, exists)
    if not images:
        stem = text.name.removesuffix(ENDING)
        missing = f"there is no {stem}.png or other image of that name in {folder}"
        yield LeftOut(text, "", "no image for the text", missing)
    else:
        try:
            yield LabelledImage(text, "", images[0], folder / images[0], _read(text))
        except UnusableLine as error:
            yield LeftOut.because(error, text)
    for other in images[1:]:
        yield LeftOut(folder / other, "", "another image of the same line", f"{images[0]} is used")
