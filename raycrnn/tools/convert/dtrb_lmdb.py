"""LMDB databases of deep-text-recognition-benchmark, PARSeq, PaddleOCR and other programs for scene text.

The keys are `num-samples`, and from 1 on `image-%09d` (an image file) and `label-%09d` (its text in UTF-8).
"""

import struct
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
        count = _count(transaction)
        entries = transaction.stat()["entries"]
        for number in range(1, min(count, entries) + 1):
            place = f"image-{number:09d}"
            image = transaction.get(place.encode())
            label = transaction.get(f"label-{number:09d}".encode())
            if image is None:
                yield LeftOut(file, place, "no such key", place)
            else:
                yield LabelledImage(file, place, place, image, label)
        if count > entries:
            yield LeftOut(
                file,
                "num-samples",
                "samples that are missing",
                f"{count:,} are announced, but there are {entries:,} keys",
            )
        elif transaction.get(f"image-{count + 1:09d}".encode()) is not None:
            yield LeftOut(file, f"image-{count + 1:09d}", "samples after the last one", f"num-samples is {count:,}")


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
