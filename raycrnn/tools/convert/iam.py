"""The lists lines.txt and words.txt of the IAM handwriting database.

A line has the name of the image, `ok` or `err`, six numbers (of a word also its part of speech) and the text, in which
`|` stands for a space. Lines that begin with `#` are comments.
"""

import re
from pathlib import Path

from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, UnusableLine, shown
from raycrnn.tools.convert.source_files import images_of_lines, is_file, no_such_image, numbered_lines

FILES = None
"""The lists in a folder are not recognised by their names."""

NAME = r"(?P<form>(?P<writer>[a-z]\d{2})-\d{3}[a-z]?)-\d{2}(?P<word>-\d{2})?"

LINE = re.compile(rf"(?P<name>{NAME}) (?P<state>ok|err)(?: -?\d+){{6}} (?P<text>.*)")

WORD = re.compile(rf"(?P<name>{NAME}) (?P<state>ok|err)(?: -?\d+){{5}} \S+ (?P<text>.*)")

PLACES = ("", "lines", "words", "../lines", "../words")
"""Folders beside the lists, which are in `ascii`, in which the images are."""


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes has the comments and the lines of IAM."""
    lines = [line for line in head.decode("utf-8", "replace").split("\n") if not line.startswith("#")]
    return re.match(rf"{NAME} (?:ok|err) ", lines[0]) is not None if lines else False


def read(file: Path, options: ImportOptions) -> Items:
    """Return the lines or words of a list."""
    folders = [options.images] if options.images else [file.parent / place for place in PLACES]

    def images(place: str, text: str) -> list[LabelledImage]:
        return [] if text.startswith("#") else [_image(file, place, text, folders)]

    return images_of_lines(file, numbered_lines(file), images)


def _image(file: Path, place: str, text: str, folders: list[Path]) -> LabelledImage:
    found = LINE.fullmatch(text)
    if found is None or found["word"]:
        found = WORD.fullmatch(text)
        if found is None or not found["word"]:
            raise UnusableLine("malformed line", f"{shown(text)}: not that of lines.txt or words.txt")
        # In lines.txt, err says that the line was not divided into words correctly, but the line itself is.
        if found["state"] == "err":
            raise UnusableLine("a word that was cut out wrongly", f"{found['name']} is marked err")
    name = f"{found['name']}.png"
    for folder in folders:
        for candidate in (folder / found["writer"] / found["form"] / name, folder / name):
            if is_file(candidate):
                return LabelledImage(file, place, name, candidate, found["text"].replace("|", " "))
    raise no_such_image(name, folders)
