"""Images that are ranges of bytes in a file of a packed data set (`packed_images`).

The path of such an image is `FILE.parquet#START:LENGTH`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from raycrnn import storage

MAX_GAP = 64 * 2**10
MAX_READ = 8 * 2**20
"""Images of one file are read together if they are at most `MAX_GAP` bytes apart, up to `MAX_READ` bytes: reading a
few bytes more takes less time than another request."""

REFERENCE = re.compile(r"(?P<file>.*\.parquet(?:\?[^#]*)?)#(?P<start>\d+):(?P<length>\d+)", re.DOTALL)


class ByteRange(NamedTuple):
    """The bytes of an image in a packed data set."""

    file: str
    """Path or URI of the Parquet file."""
    start: int
    length: int

    def __str__(self) -> str:
        return f"{self.file}#{self.start}:{self.length}"


FindFile = Callable[[str], memoryview | None]
"""Returns the contents of a file if they are in memory."""


def parse_reference(path: str) -> ByteRange | None:
    """Return the byte range that a path names, or None if it is the path of a file."""
    match = REFERENCE.fullmatch(path)
    return ByteRange(match["file"], int(match["start"]), int(match["length"])) if match else None


def read_many(references: Sequence[ByteRange], find_file: FindFile) -> dict[ByteRange, bytes | OSError]:
    """Return the bytes of images, or why they cannot be read. Neighbours in a file are read together.

    Args:
        references: The images.
        find_file: Returns the contents of those files that are in memory.

    Raises:
        StorageError: Object storage fails, which says nothing about a single image.
    """
    found: dict[ByteRange, bytes | OSError] = {}
    missing = []
    for reference in sorted(set(references)):
        contents = find_file(reference.file)
        if contents is None:
            missing.append(reference)
        else:
            found[reference] = bytes(contents[reference.start : reference.start + reference.length])
    groups = list(_neighbours(missing))
    if groups:
        with ThreadPoolExecutor(min(storage.REQUESTS_AT_A_TIME, len(groups))) as readers:
            for part in readers.map(_read_neighbours, groups):
                found |= part
    return found


def _neighbours(references: Sequence[ByteRange]) -> Iterator[list[ByteRange]]:
    """Divide sorted references into groups that are read together."""
    group: list[ByteRange] = []
    for reference in references:
        if group and not _is_near(group, reference):
            yield group
            group = []
        group.append(reference)
    if group:
        yield group


def _is_near(group: Sequence[ByteRange], reference: ByteRange) -> bool:
    first, last = group[0], group[-1]
    gap = reference.start - (last.start + last.length)
    total = reference.start + reference.length - first.start
    return reference.file == first.file and gap <= MAX_GAP and total <= MAX_READ


def _read_neighbours(group: Sequence[ByteRange]) -> dict[ByteRange, bytes | OSError]:
    file, first, last = group[0].file, group[0].start, group[-1]
    try:
        data = storage.read_range(file, first, last.start + last.length - first)
    except OSError as error:
        storage.check_concerns_file(file, error)
        return dict.fromkeys(group, error)
    return {each: data[each.start - first : each.start - first + each.length] for each in group}
