"""Units and their codes.

A unit is what one output class of the network stands for: mostly a character, but any string may be one. The
alphabet maps n units to the codes 0 … n−1; class n is the CTC blank and never a unit.
"""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from raycrnn.config import read_json_object
from raycrnn.errors import UsageError
from raycrnn.storage import is_uri

SHIPPED = ("lookup_digits", "lookup_letters_symbols", "lookup_letters_digits_symbols")


class UnknownUnit(ValueError):
    """A label holds units that the alphabet lacks."""

    def __init__(self, units: Sequence[str]):
        self.units = tuple(units)
        super().__init__("not in the alphabet: " + ", ".join(repr(unit) for unit in self.units))


@dataclass(frozen=True)
class Alphabet:
    """Units in the order of their codes. Raises `UsageError` if it is empty or a unit is empty or repeated."""

    units: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.units:
            raise UsageError("the alphabet is empty: it needs at least one unit")
        if "" in self.units:
            raise UsageError("the alphabet holds an empty unit")
        broken = [unit for unit in self.units if unit.encode("utf-8", "ignore").decode() != unit]
        if broken:
            raise UsageError(f"the alphabet holds {broken[0]!r}, half of a surrogate pair and no character")
        if len(self._code_of) < len(self.units):
            repeated = next(unit for i, unit in enumerate(self.units) if unit in self.units[:i])
            raise UsageError(f"the alphabet holds the unit {repeated!r} twice")

    def __len__(self) -> int:
        return len(self.units)

    @property
    def blank(self) -> int:
        """The class of the CTC blank: the extra last one."""
        return len(self.units)

    @cached_property
    def _code_of(self) -> dict[str, int]:
        return {unit: code for code, unit in enumerate(self.units)}

    def __contains__(self, unit: str) -> bool:
        return unit in self._code_of

    def encode(self, label: Iterable[str]) -> list[int]:
        """Codes of a label's units. Raises `UnknownUnit`, naming each unknown unit once."""
        label = tuple(label)
        try:
            return [self._code_of[unit] for unit in label]
        except KeyError:
            raise UnknownUnit(list(dict.fromkeys(u for u in label if u not in self._code_of))) from None

    def decode(self, codes: Iterable[int]) -> list[str]:
        """Units of codes in 0 … n−1; the blank is none of them."""
        return [self.units[code] for code in codes]

    @classmethod
    def from_labels(cls, labels: Iterable[Iterable[str]]) -> "Alphabet":
        """The units that occur, sorted by code point, so that the order of the rows does not matter."""
        return cls(tuple(sorted(set().union(*labels))))

    @classmethod
    def load(cls, name_or_path: str | Path, unicode_form: str = "NFC") -> "Alphabet":
        """Read a shipped table by its name, or a JSON object {unit: code}; any integers do as codes.

        Raises:
            UsageError: no such file, not such an object, a code twice, two units that normalise to one.
        """
        shipped = resources.files("raycrnn.data") / "alphabets" / f"{name_or_path}.json"
        if name_or_path in SHIPPED:
            with resources.as_file(shipped) as path:
                return cls._from_table(read_json_object(path), str(name_or_path), unicode_form)
        if not is_uri(name_or_path) and not Path(name_or_path).exists():
            raise UsageError(f"{name_or_path}: no such alphabet file; shipped tables are {', '.join(SHIPPED)}")
        return cls._from_table(read_json_object(name_or_path), str(name_or_path), unicode_form)

    @classmethod
    def _from_table(cls, table: dict, origin: str, unicode_form: str) -> "Alphabet":
        unit_of: dict[int, str] = {}
        for unit, code in table.items():
            if not isinstance(code, int) or isinstance(code, bool):
                raise UsageError(f"{origin}: the code of {unit!r} is {code!r}, not an integer")
            if code in unit_of:
                raise UsageError(f"{origin}: {unit_of[code]!r} and {unit!r} have the same code {code}")
            unit_of[code] = unicodedata.normalize(unicode_form, unit)
        try:
            return cls(tuple(unit_of[code] for code in sorted(unit_of)))
        except UsageError as error:
            raise UsageError(f"{origin}: {error} (units are normalised to {unicode_form})") from None

    def to_json(self) -> str:
        return json.dumps(self._code_of, ensure_ascii=False, indent=0)
