"""docTR's labels.json for recognition: an object of image names and texts, beside a folder `images`."""

import re
from pathlib import Path

from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine, shown
from raycrnn.tools.convert.source_files import JsonObject, inside, read_json

FILES = "labels.json"


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes is a JSON object."""
    return file.suffix == ".json" and re.match(rb"(\xef\xbb\xbf)?\s*\{", head) is not None


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the images of a file."""
    table = read_json(file)
    if not isinstance(table, JsonObject):
        raise UnusableLine("not an object of images and texts", shown(table))
    beside = file.parent / "images"
    folder = options.images or (beside if beside.is_dir() else file.parent)
    # As Python reads such a file, the last value of a repeated key counts.
    last = {name: position for position, (name, _) in enumerate(table)}
    for position, (name, label) in enumerate(table):
        place = shown(name)
        if last[name] != position:
            yield LeftOut(file, place, "an image that is named again", f"here with the text {shown(label)}")
        elif isinstance(label, JsonObject):
            yield LeftOut(
                file,
                place,
                "regions of a page instead of a text",
                "this is a file for detection: give one for recognition",
            )
        else:
            try:
                yield LabelledImage(file, place, name, inside(folder, name), label)
            except UnusableLine as error:
                yield LeftOut.because(error, file, place)
