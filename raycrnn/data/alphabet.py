"""Units and their codes.

A unit is what one output class of the network stands for: usually a character, but any string can be a unit. The
alphabet maps n units to the codes 0 … n−1. Class n is the CTC blank and is never a unit.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Literal

from raycrnn.config import read_json_object
from raycrnn.data.bidi import TextDirection, logical_order
from raycrnn.errors import UsageError
from raycrnn.storage import in_other_form, is_uri

SHIPPED = ("lookup_digits", "lookup_letters_symbols", "lookup_letters_digits_symbols")
"""Names of the alphabets that come with raycrnn."""

UnicodeForm = Literal["NFC", "NFD", "NFKC", "NFKD"]


class UnknownUnit(ValueError):
    """A label contains units that are not in the alphabet."""

    def __init__(self, units: Sequence[str]):
        self.units = tuple(units)
        """The unknown units, each once, in the order of the label."""
        super().__init__("not in the alphabet: " + ", ".join(repr(unit) for unit in self.units))


@dataclass(frozen=True)
class Alphabet:
    """The units that a model can output, in the order of their codes.

    Raises:
        UsageError: There are no units, or a unit is empty, repeated, or not valid Unicode.

    Examples:
        >>> alphabet = Alphabet(("a", "b", "ſt"))
        >>> alphabet.encode(["b", "ſt"])
        [1, 2]
        >>> alphabet.decode([0, 2])
        ['a', 'ſt']
        >>> alphabet.blank
        3
    """

    units: tuple[str, ...]
    """The units; the code of a unit is its index."""
    text_direction: TextDirection = "visual"
    """The direction of the text, which determines the order of a line's codes: they follow the image from left to
    right."""

    def __post_init__(self) -> None:
        if not self.units:
            raise UsageError("the alphabet is empty: it needs at least one unit")
        if "" in self.units:
            raise UsageError("the alphabet contains an empty unit")
        surrogates = [unit for unit in self.units if unit.encode("utf-8", "ignore").decode() != unit]
        if surrogates:
            raise UsageError(f"the alphabet contains {surrogates[0]!r}, half of a surrogate pair")
        if len(self._code_of) < len(self.units):
            repeated = next(unit for i, unit in enumerate(self.units) if unit in self.units[:i])
            raise UsageError(f"the alphabet contains the unit {repeated!r} twice")

    def __len__(self) -> int:
        return len(self.units)

    @property
    def blank(self) -> int:
        """The class of the CTC blank: one more than the largest code."""
        return len(self.units)

    @cached_property
    def _code_of(self) -> dict[str, int]:
        return {unit: code for code, unit in enumerate(self.units)}

    def __contains__(self, unit: str) -> bool:
        return unit in self._code_of

    def encode(self, label: Iterable[str]) -> list[int]:
        """Return the codes of a label's units.

        Args:
            label: The units; a string stands for its characters.

        Raises:
            UnknownUnit: Some units are not in the alphabet; the exception names each of them once.
        """
        label = tuple(label)
        try:
            return [self._code_of[unit] for unit in label]
        except KeyError:
            raise UnknownUnit(list(dict.fromkeys(unit for unit in label if unit not in self._code_of))) from None

    def encode_known(self, label: Iterable[str], unknown: int) -> list[int]:
        """Return the codes of a label's units, and `unknown` for units that are not in the alphabet."""
        return [self._code_of.get(unit, unknown) for unit in label]

    def decode(self, codes: Iterable[int]) -> list[str]:
        """Return the units of codes in 0 … n−1, that is, of codes without blanks."""
        return [self.units[code] for code in codes]

    def in_logical_order(self, codes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the codes of a line in the order of reading, each with its index in `codes`.

        In text from right to left, the code of a bracket becomes that of the mirrored bracket.
        """
        restored = logical_order(self.decode(codes), self.text_direction)
        return [(index, self._code_of.get(unit, codes[index])) for index, unit in restored]

    @classmethod
    def from_labels(cls, labels: Iterable[Iterable[str]]) -> "Alphabet":
        """Build an alphabet of all units that occur in labels.

        The units are sorted by code point, so the order of the labels does not matter.

        Raises:
            UsageError: The labels contain no units.
        """
        return cls(tuple(sorted(set().union(*labels))))

    @classmethod
    def load(cls, name_or_path: str | Path, unicode_form: UnicodeForm = "NFC") -> "Alphabet":
        """Read an alphabet from a JSON object {unit: code}, or one that comes with raycrnn.

        Any distinct integers can be codes; they are mapped to 0 … n−1 in ascending order. The arguments and the errors
        are those of `read_codes`.
        """
        codes = read_codes(name_or_path, unicode_form)
        return cls(tuple(sorted(codes, key=codes.__getitem__)))

    def to_json(self) -> str:
        """Return the JSON object {unit: code} that `load` reads."""
        return json.dumps(self._code_of, ensure_ascii=False, indent=0)


def read_codes(name_or_path: str | Path, unicode_form: UnicodeForm = "NFC") -> dict[str, int]:
    """Return the codes of an alphabet by unit, as its file has them.

    Args:
        name_or_path: A name in `SHIPPED`, or the path or URI of a JSON file.
        unicode_form: The Unicode normalisation form that is applied to the units.

    Raises:
        UsageError: There is no such file, it does not contain an object {unit: code}, two units have the same code, or
            two units are equal after normalisation.
    """
    if name_or_path in SHIPPED:
        with resources.as_file(resources.files("raycrnn.data") / "alphabets" / f"{name_or_path}.json") as path:
            return _normalised(read_json_object(path), str(name_or_path), unicode_form)
    if not is_uri(name_or_path) and not Path(name_or_path).exists() and not in_other_form(str(name_or_path)):
        raise UsageError(f"{name_or_path}: no such alphabet file; the alphabets of raycrnn are {', '.join(SHIPPED)}")
    return _normalised(read_json_object(name_or_path), str(name_or_path), unicode_form)


def _normalised(table: Mapping[str, object], origin: str, unicode_form: UnicodeForm) -> dict[str, int]:
    unit_of: dict[int, str] = {}
    for unit, code in table.items():
        if not isinstance(code, int) or isinstance(code, bool):
            raise UsageError(f"{origin}: the code of {unit!r} is {code!r}, not an integer")
        if code in unit_of:
            raise UsageError(f"{origin}: {unit_of[code]!r} and {unit!r} have the same code {code}")
        unit_of[code] = unicodedata.normalize(unicode_form, unit)
    try:
        Alphabet(tuple(unit_of.values()))
    except UsageError as error:
        note = f" (units are normalised to {unicode_form})" if len(set(unit_of.values())) < len(unit_of) else ""
        raise UsageError(f"{origin}: {error}{note}") from None
    return {unit: code for code, unit in unit_of.items()}
