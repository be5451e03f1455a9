"""Tar archives of WebDataset: the files of a sample have the same name up to the first dot and follow each other.

A sample has an image and its text in a file `.txt`, or in the field `text` or `label` of a file `.json`.
"""

import json
import tarfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from raycrnn.data.image_files import has_image_suffix
from raycrnn.data.inputs import SkippedNames, printable
from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine, shown
from raycrnn.tools.convert.source_files import MAX_IMAGE_BYTES, line_in

FILES = "*.tar*"

TEXT_FIELDS = ("text", "label", "transcription")

OTHER_TEXTS = ("gt.txt", "label", "text")
"""Extensions of files with the text, if there is no `.txt`."""


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes is a tar archive, or the name of a compressed one."""
    return head[257:262] == b"ustar" or file.name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the samples of an archive."""
    key = ""
    members: dict[str, bytes] = {}
    try:
        for found in _members(file):
            if isinstance(found, LeftOut):
                yield found
                continue
            name, data = found
            folder, slash, base = name.rpartition("/")
            stem, _, extension = base.partition(".")
            if f"{folder}{slash}{stem}" != key:
                yield from _sample(file, key, members)
                key, members = f"{folder}{slash}{stem}", {}
            if extension.lower() in members:
                yield LeftOut(file, name, "a file that is repeated in the archive")
            else:
                members[extension.lower()] = data
        yield from _sample(file, key, members)
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, OSError, ValueError) as error:
        yield LeftOut(file, f"after {key}" if key else "", "not a tar archive, or a damaged one", str(error))


def _members(file: Path) -> Iterator[tuple[str, bytes] | LeftOut]:
    """Yield the name and the contents of each file in an archive, or why a member is left out."""
    skipped = SkippedNames()
    # As a stream: nothing is read twice, and nothing is ever written.
    with tarfile.open(file, "r|*") as archive:
        for member in archive:
            # tarfile keeps all members otherwise.
            archive.members = []  # type: ignore[attr-defined]
            if member.isdir():
                continue
            if member.name.startswith("/") or ".." in member.name.split("/"):
                yield LeftOut(file, shown(member.name), "a path that leads out of the archive")
            elif any(map(skipped.skips, PurePosixPath(member.name).parts)):
                continue
            elif not member.isfile():
                yield LeftOut(file, shown(member.name), "a link or device in the archive")
            elif member.size > MAX_IMAGE_BYTES:
                yield LeftOut(file, shown(member.name), "a file that is too large", f"{member.size:,} bytes")
            elif (stream := archive.extractfile(member)) is not None:
                yield member.name, stream.read()
        # tarfile ends at a header that is incomplete as it does at the two empty blocks that end an archive.
        if archive.fileobj is not None and len(archive.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            yield LeftOut(file, "", "an archive without an end", "it may be incomplete: copy it again")
    skipped.log(printable(file))


def _sample(file: Path, key: str, members: dict[str, bytes]) -> Items:
    """Yield the image of a sample, or why there is none."""
    if not members:
        return
    image, *others = [extension for extension in members if has_image_suffix(f".{extension}")] or [""]
    if not image:
        yield LeftOut(file, key, "a sample without an image", f"it has {', '.join(members)}")
        return
    try:
        yield LabelledImage(file, key, f"{key}.{image}", members[image], _text(members))
    except UnusableLine as error:
        yield LeftOut.because(error, file, key)
    for other in others:
        yield LeftOut(file, f"{key}.{other}", "another image of the same line", f"{key}.{image} is used")


def _text(members: dict[str, bytes]) -> object:
    """Return the text of a sample as it was found. Raises `UnusableLine` if its JSON file is none."""
    for extension in ("txt", *OTHER_TEXTS):
        if extension in members:
            return line_in(members[extension])
    if "json" not in members:
        raise UnusableLine("no text for the image", f"the sample has {', '.join(members)}")
    try:
        fields = json.loads(members["json"].decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise UnusableLine("not a JSON file", shown(members["json"])) from None
    found = [field for field in TEXT_FIELDS if isinstance(fields, dict) and field in fields]
    if not found:
        raise UnusableLine("no text for the image", f"{shown(fields)}: none of the fields {', '.join(TEXT_FIELDS)}")
    return fields[found[0]]
