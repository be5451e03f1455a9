"""What importers are given and what they yield: labelled images, and what they leave out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from raycrnn.data.csv_files import split_label

SPLIT_DELIMITER = "|"
"""Marks a label as a sequence of units if the label starts with it."""

SHOWN_CHARACTERS = 80
"""Characters of a wrong value that a message shows."""


class UnusableLine(Exception):
    """A line of text, or a whole file, cannot be converted.

    Args:
        reason: What is wrong, in the same words for all lines of which it is true.
        detail: What is wrong with this one, and what to do about it.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class LabelledImage:
    """An image of a line of text with its label."""

    file: Path
    """The file that the label was read from."""
    place: str
    """Where in the file: "line 3", for example. Empty if the file holds one label."""
    name: str
    """The path or name of the image in the source."""
    image: Path | bytes
    """The image file itself on a local disk, or its bytes."""
    label: object
    """The label as it was found: usually text, or its bytes in UTF-8, or a tuple of units. Anything else is refused."""
    is_row_label: bool = False
    """Whether the label is already in the form of raycrnn's CSV files, in which `|a|b|` is a sequence of units, and
    may be None."""


@dataclass(frozen=True)
class LeftOut:
    """Something that is not converted."""

    file: Path
    """The file in which it was found."""
    place: str
    """Where in the file; empty if it is the whole file."""
    reason: str
    """What is wrong, in the same words for all things of which it is true."""
    detail: str = ""
    """What is wrong with this one."""

    @classmethod
    def because(cls, error: UnusableLine, file: Path, place: str = "") -> "LeftOut":
        """Return what `error` says about a place in a file."""
        return cls(file, place, error.reason, error.detail)


Items: TypeAlias = Iterator[LabelledImage | LeftOut]


@dataclass(frozen=True)
class ImportOptions:
    """What a format does not say itself."""

    images: Path | None = None
    """Folder of the images, if they are not where the format expects them."""
    units: frozenset[str] | None = None
    """The units in the dictionary that belongs to the source; None: it has none."""
    line_height: int | None = None
    """Height in pixels of lines that have a baseline and no outline; None: measured on each page."""
    image_column: str | None = None
    """Column of a table with the images; None: found by its name."""
    label_column: str | None = None
    """Column of a table with the labels; None: found by its name."""
    delimiter: str = ";"
    """Character between path and label in raycrnn's CSV files."""
    encoding: str = "utf-8"
    """Encoding of raycrnn's CSV files."""
    written: tuple[Path, ...] = ()
    """Resolved folders that are written or replaced. They are left out of sources, and no image may be in them."""


# --- labels


def row_label(line: LabelledImage) -> str | None:
    """Return the label of a line in the form of raycrnn's CSV files.

    Raises:
        UnusableLine: There is no label, it is no text, or no row can hold it.
    """
    label = line.label
    if line.is_row_label and label is None:
        return None
    if isinstance(label, tuple):
        return _checked(label_of_units(label))
    if isinstance(label, bytes):
        label = decoded(label)
    if label is None:
        raise UnusableLine("no label")
    if not isinstance(label, str):
        raise UnusableLine("the label is not text", shown(label))
    if label.startswith(SPLIT_DELIMITER) and not line.is_row_label:
        raise UnusableLine(
            f"the label begins with {SPLIT_DELIMITER}", f"{shown(label)}: raycrnn would read it as a sequence of units"
        )
    return _checked(label)


def label_of_units(units: Sequence[str]) -> str:
    """Return a sequence of units as a label: `|a|b|`.

    A unit that is the split delimiter has no place in that form. Such a sequence is written as plain text, if that
    has the same units.

    Raises:
        UnusableLine: No label has these units.
    """
    if not any(SPLIT_DELIMITER in unit for unit in units):
        return "".join(f"{SPLIT_DELIMITER}{unit}" for unit in units) + SPLIT_DELIMITER if units else ""
    text = "".join(units)
    if split_label(text) != tuple(units):
        raise UnusableLine(
            f"a unit contains {SPLIT_DELIMITER}",
            f"{shown(units)}: {SPLIT_DELIMITER} separates units of several characters",
        )
    return text


def _checked(label: str) -> str:
    if not label:
        raise UnusableLine("the label is empty")
    if "\n" in label or "\r" in label:
        raise UnusableLine("the label contains a line end", f"{shown(label)}: an image is one line of text")
    if label.encode("utf-8", "ignore").decode() != label:
        raise UnusableLine("the label is not valid Unicode", f"{shown(label)}: half of a surrogate pair")
    return label


def decoded(data: bytes) -> str:
    """Return text that is in UTF-8. Raises `UnusableLine` if it is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableLine("not UTF-8", f"{shown(data)}: byte {error.start + 1}; convert the text to UTF-8") from None


def shown(value: object) -> str:
    """Return a value as messages show it: not longer than `SHOWN_CHARACTERS`."""
    # Not repr() of a whole list or object, which can be large.
    text = repr(value[:SHOWN_CHARACTERS] if isinstance(value, str | bytes | list | tuple) else value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
