"""A label and its transcription side by side, with their differences marked."""

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raycrnn.evaluation.analysis import EvaluatedLine, Pair
from raycrnn.metrics.error_rates import AlignmentStep

# --- a line beside its reference


@dataclass(frozen=True)
class Cell:
    """A piece of the reference above what was read for it."""

    kind: str
    """same, replaced, missed, inserted"""
    reference: str
    read: str
    several: bool = False
    """whether it is a unit of several characters"""

    @property
    def text(self) -> str:
        return self.reference or self.read


@dataclass(frozen=True)
class Aligned:
    """Cells in reading order."""

    direction: str
    """ltr or rtl"""
    groups: tuple[tuple[bool, tuple[Cell, ...]], ...]
    """runs of cells; whether they run against the direction, as digits do in Hebrew"""


def align(line: EvaluatedLine, first: int = 0, end: int | None = None) -> Aligned:
    """The steps of a line's alignment, from the first to before the end."""
    cells = list(_cells(line, line.steps()[first:end]))
    strong = [direction for cell in cells if (direction := _direction(cell.text, ("L",)))]
    direction = strong[0] if strong else "ltr"
    against = _against([_direction(cell.text) for cell in cells], direction)
    grouped = itertools.groupby(zip(against, cells, strict=True), key=lambda pair: pair[0])
    return Aligned(direction, tuple((turned, tuple(cell for _, cell in own)) for turned, own in grouped))


def _cells(line: EvaluatedLine, steps: Sequence[AlignmentStep]) -> Iterator[Cell]:
    """A cell a word or space of what is right, one a unit of what is wrong or of several characters."""
    run: list[str] = []
    for step in steps:
        pair = reference, _ = line.pair(step)
        if step.equal and not _several(reference) and not reference.isspace():
            run.append(reference)
            continue
        if run:
            yield _same(run)
            run = []
        yield _same([reference]) if step.equal else _wrong(pair)
    if run:
        yield _same(run)


def _same(run: Sequence[str]) -> Cell:
    text = visible("".join(run))
    return Cell("same", text, text, several=len(run) == 1 and _several(run[0]))


def _wrong(pair: Pair) -> Cell:
    reference, read = pair
    kind = "missed" if read is None else "inserted" if reference is None else "replaced"
    texts = ("" if unit is None else visible(unit, spaces=True) for unit in pair)
    return Cell(kind, *texts, several=any(unit is not None and _several(unit) for unit in pair))


def _several(unit: str) -> bool:
    """Whether a unit is more than one character with its marks."""
    return sum(not unicodedata.category(character).startswith("M") for character in unit) > 1


def visible(text: str, spaces: bool = False) -> str:
    """Text to show: control characters by their numbers, a leading mark on a dotted circle.

    Args:
        spaces: whether spaces and what else has no ink are to be seen.
    """
    shown = "".join(_picture(character, spaces) for character in text)
    return f"◌{shown}" if unicodedata.category(shown[:1] or " ").startswith("M") else shown


def _picture(character: str, spaces: bool) -> str:
    if spaces and character == " ":
        return "␣"
    inkless = ("Cc", "Zs", "Zl", "Zp", "Cf") if spaces else ("Cc",)
    return f"U+{ord(character):04X}" if unicodedata.category(character) in inkless else character


def _direction(text: str, left_to_right: Sequence[str] = ("L", "EN", "AN")) -> str | None:
    """That of the first character that has one."""
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in ("R", "AL"):
            return "rtl"
        if kind in left_to_right:
            return "ltr"
    return None


def _against(directions: Sequence[str | None], base: str) -> list[bool]:
    """Which pieces run against the base direction; what has none belongs to them if it stands between two of them."""
    against, last = [False] * len(directions), None
    for place, direction in enumerate(directions):
        if direction == base:
            last = None
        elif direction:
            first = place if last is None else last
            against[first : place + 1] = [True] * (place + 1 - first)
            last = place
    return against
