"""LMDB databases of deep-text-recognition-benchmark, PARSeq, PaddleOCR and other programs for scene text.

The keys are `num-samples`, and from 1 on (in some databases from 0 on) `image-%09d` (an image file) and `label-%09d`
(its text in UTF-8).
"""

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import lmdb

from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine, shown

FILES = "data.mdb"

DAMAGED = "not an LMDB database, or a damaged one"

MAGIC = struct.pack("=I", 0xBEEFC0DE)
"""Follows the header of an LMDB file's first page."""


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes is an LMDB database."""
    return MAGIC in head[:32]


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the samples of a database."""
    try:
        # Without a lock, databases on read-only disks can be read.
        with lmdb.open(str(file), subdir=False, readonly=True, lock=False, readahead=False) as database:
            yield from _samples(file, database)
    except lmdb.Error as error:
        raise UnusableLine(DAMAGED, f"{error}; copy it again") from None


def _samples(file: Path, database: lmdb.Environment) -> Items:
    _check_length(file, database)
    with database.begin() as transaction:
        count, entries = _count(transaction), transaction.stat()["entries"]
        # A wrong count may be so large that trying each number would take for ever.
        yield from (_samples_by_key if count > entries else _samples_by_number)(file, transaction, count)


def _samples_by_number(file: Path, transaction: lmdb.Transaction, count: int) -> Items:
    """Yield samples with consecutive numbers from 1 on, or from 0 on if there is such an image with a label."""
    before = _sample(file, transaction, _image_key(0))
    first = 0 if isinstance(before, LabelledImage) and before.label is not None else 1
    for number in range(first, first + count):
        yield _sample(file, transaction, _image_key(number))
    if first and isinstance(before, LabelledImage):
        yield LeftOut(file, before.place, "a sample before the first one", "it has no label")
    for key in itertools.islice(_image_keys(transaction, _image_key(first + count)), 1):
        yield LeftOut(file, key.decode("ascii", "replace"), "samples after the last one", f"num-samples is {count:,}")


def _samples_by_key(file: Path, transaction: lmdb.Transaction, count: int) -> Items:
    """Yield all samples that there are, and how many more are announced."""
    found = 0
    for key in _image_keys(transaction, b"image-"):
        yield _sample(file, transaction, key)
        found += 1
    problem = f"{count:,} are announced, but there are {found:,}"
    yield LeftOut(file, "num-samples", "samples that are missing", problem)


def _sample(file: Path, transaction: lmdb.Transaction, key: bytes) -> LabelledImage | LeftOut:
    """Return the sample with this key of its image."""
    place, image = key.decode("ascii", "replace"), transaction.get(key)
    if image is None:
        return LeftOut(file, place, "no such key", place)
    return LabelledImage(file, place, place, bytes(image), transaction.get(key.replace(b"image", b"label", 1)))


def _image_key(number: int) -> bytes:
    return b"image-%09d" % number


def _image_keys(transaction: lmdb.Transaction, start: bytes) -> Iterator[bytes]:
    """Yield the keys of images in their order, beginning with `start` or the next one."""
    cursor = transaction.cursor()
    if cursor.set_range(start):
        keys = map(bytes, cursor.iternext(values=False))
        yield from itertools.takewhile(lambda key: key.startswith(b"image-"), keys)


def _check_length(file: Path, database: lmdb.Environment) -> None:
    """Check that the file is as long as its pages: reading behind its end would kill the process (SIGBUS)."""
    needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if file.stat().st_size < needed:
        lengths = f"{file.stat().st_size:,} of {needed:,} bytes"
        raise UnusableLine(DAMAGED, f"{lengths}; copy it again")


def _count(transaction: lmdb.Transaction) -> int:
    value = transaction.get(b"num-samples")
    if value is None:
        keys = [bytes(key) for key, _ in zip(transaction.cursor().iternext(values=False), range(3), strict=False)]
        raise UnusableLine("no such key", f"num-samples; the first keys are {shown(keys)}")
    text = bytes(value)
    if not text.isdigit():
        raise UnusableLine("num-samples is not a number", shown(text))
    # More digits than any database has samples; Python refuses to convert very many.
    return int(text[:18])
