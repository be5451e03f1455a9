"""Tables {unit: code}: units from CSVs and files, tables extended and compared, and what is notable about a unit.

Unlike an `Alphabet`, a table has any distinct integers as codes, as its JSON file does.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raycrnn import config
from raycrnn.data.alphabet import Alphabet, UnicodeForm
from raycrnn.data.characters import invisible_characters, name_of
from raycrnn.data.csv_files import CsvFile, read_text, split_lines, units_of

Codes = Mapping[str, int]
"""The codes of an alphabet by unit."""


# --- units from files


@dataclass
class UnitCounts:
    """The units of labels, counted."""

    units: Counter[str] = field(default_factory=Counter)
    """How often each unit occurs."""
    rows: Counter[str] = field(default_factory=Counter)
    """Number of labels that each unit occurs in."""
    labels: int = 0
    """Number of labels."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of rows without a usable label, by reason, as in `rejections.REMEDIES`."""

    def add(self, file: CsvFile, settings: config.Data) -> None:
        """Count the units of a CSV's labels. Rows that training leaves out by their text add no units."""
        for row in file.rows:
            units = () if row.problem else units_of(row, settings)
            if units:
                self.labels += 1
                self.units.update(units)
                self.rows.update(set(units))
            else:
                self.left_out["malformed row" if row.problem else "empty label"] += 1


def read_unit_file(path: str | Path, encoding: str = "utf-8", unicode_form: UnicodeForm = "NFC") -> list[str]:
    """Return the normalised units of a text file that has one in each line, in the order of the lines.

    Empty lines are ignored; a line with a space is the unit of a space.

    Raises:
        UsageError: The file does not exist, cannot be read, or contains bytes that are invalid in the encoding.
    """
    text, _ = read_text(path, encoding, kind="text", remedy="name a text file with one unit in each line")
    return [unicodedata.normalize(unicode_form, line) for line in split_lines(text) if line]


# --- tables


def extend(codes: Codes, units: Iterable[str]) -> dict[str, int]:
    """Return a table with more units, which get the codes behind the largest one. The other codes are unchanged."""
    extended = dict(codes)
    following = max(codes.values(), default=-1) + 1
    for unit in units:
        if unit not in extended:
            extended[unit] = following
            following += 1
    return extended


def in_code_order(codes: Codes) -> list[str]:
    """Return the units of a table in the order of their codes, which is that of the network's classes."""
    return sorted(codes, key=codes.__getitem__)


def to_json(codes: Codes) -> str:
    """Return the JSON object of a table, in the order of the codes.

    Raises:
        UsageError: The table is empty, or a unit is not valid Unicode.
    """
    units = in_code_order(codes)
    # An alphabet checks its units.
    Alphabet(tuple(units))
    return json.dumps({unit: codes[unit] for unit in units}, ensure_ascii=False, indent=0)


@dataclass(frozen=True)
class AlphabetDifference:
    """How two tables differ."""

    only_first: tuple[str, ...]
    """The units that the second one lacks, in the order of their codes."""
    only_second: tuple[str, ...]
    """The units that the first one lacks, in the order of their codes."""
    other_code: tuple[tuple[str, int, int], ...]
    """The units with two codes, and these."""
    same_classes: bool
    """Whether the order of the codes is the same, so that a network has the same classes with both."""


def compare(first: Codes, second: Codes) -> AlphabetDifference:
    """Return how two tables differ."""
    one, other = in_code_order(first), in_code_order(second)
    return AlphabetDifference(
        tuple(unit for unit in one if unit not in second),
        tuple(unit for unit in other if unit not in first),
        tuple((unit, first[unit], second[unit]) for unit in one if unit in second and first[unit] != second[unit]),
        one == other,
    )


# --- what a unit is


def code_points(unit: str) -> str:
    """Return the code points of a unit, such as `U+0065 U+0301`."""
    return " ".join(f"U+{ord(character):04X}" for character in unit)


def names(unit: str) -> str:
    """Return the Unicode names of a unit's characters; a control character, which has none, is its code point."""
    return ", ".join(unicodedata.name(character, f"U+{ord(character):04X}") for character in unit)


def notes(unit: str) -> list[str]:
    """Return what a person who looks at a unit may not notice."""
    found = []
    if hidden := dict.fromkeys(invisible_characters(unit)):
        found.append("invisible: " + ", ".join(map(name_of, hidden)))
    if any(unicodedata.category(character) in ("Co", "Cn") for character in unit):
        found.append("no character of Unicode")
    if unicodedata.combining(unit[0]):
        found.append("combining: joins the unit before it")
    if len(unit) > 1:
        found.append(f"{len(unit)} characters")
        if unit != unit.strip(" "):
            found.append("begins or ends with a space")
    return found


def join_listed(items: Sequence[str], most: int) -> str:
    """Return items separated by commas, at most some of them and the number of the others."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
