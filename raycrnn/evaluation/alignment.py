"""Align a label with its transcription for display, with the differences marked."""

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raycrnn.evaluation.analysis import EvaluatedLine, Pair
from raycrnn.metrics.error_rates import AlignmentStep


@dataclass(frozen=True)
class Cell:
    """A part of the reference and the transcription aligned with it."""

    kind: str
    """same, replaced, missed or inserted."""
    reference: str
    read: str
    several: bool = False
    """Whether it is a unit of several characters."""

    @property
    def text(self) -> str:
        """The reference, or the transcription if the reference has nothing here."""
        return self.reference or self.read


@dataclass(frozen=True)
class Aligned:
    """Cells in reading order."""

    direction: str
    """Base direction: ltr or rtl."""
    groups: tuple[tuple[bool, tuple[Cell, ...]], ...]
    """Runs of cells, and whether each runs against the base direction, as digits do in Hebrew."""


def align(line: EvaluatedLine, first: int = 0, end: int | None = None) -> Aligned:
    """Return the cells of a line's alignment, for the steps [first, end)."""
    cells = list(_cells(line, line.steps()[first:end]))
    strong = [direction for cell in cells if (direction := _direction(cell.text, ("L",)))]
    direction = strong[0] if strong else "ltr"
    against = _against([_direction(cell.text) for cell in cells], direction)
    grouped = itertools.groupby(zip(against, cells, strict=True), key=lambda pair: pair[0])
    return Aligned(direction, tuple((turned, tuple(cell for _, cell in own)) for turned, own in grouped))


def _cells(line: EvaluatedLine, steps: Sequence[AlignmentStep]) -> Iterator[Cell]:
    """Yield one cell per correct word or space, and one per wrong unit or unit of several characters."""
    run: list[str] = []
    for step in steps:
        pair = reference, _ = line.pair(step)
        if reference is not None and step.equal and not _several(reference) and not reference.isspace():
            run.append(reference)
            continue
        if run:
            yield _same(run)
            run = []
        yield _same([reference]) if reference is not None and step.equal else _wrong(pair)
    if run:
        yield _same(run)


def _same(run: Sequence[str]) -> Cell:
    text = visible("".join(run))
    return Cell("same", text, text, several=len(run) == 1 and _several(run[0]))


def _wrong(pair: Pair) -> Cell:
    reference, read = pair
    kind = "missed" if read is None else "inserted" if reference is None else "replaced"
    shown_reference, shown_read = ("" if unit is None else visible(unit, spaces=True) for unit in pair)
    return Cell(kind, shown_reference, shown_read, several=any(unit is not None and _several(unit) for unit in pair))


def _several(unit: str) -> bool:
    """Return whether a unit is more than one character with its combining marks."""
    return sum(not unicodedata.category(character).startswith("M") for character in unit) > 1


def visible(text: str, spaces: bool = False) -> str:
    """Return text for display: control characters as code points, a leading combining mark on a dotted circle.

    Args:
        spaces: Whether to make spaces and other invisible characters visible too.
    """
    shown = "".join(_picture(character, spaces) for character in text)
    return f"◌{shown}" if unicodedata.category(shown[:1] or " ").startswith("M") else shown


def _picture(character: str, spaces: bool) -> str:
    if spaces and character == " ":
        return "␣"
    inkless = ("Cc", "Zs", "Zl", "Zp", "Cf") if spaces else ("Cc",)
    return f"U+{ord(character):04X}" if unicodedata.category(character) in inkless else character


def _direction(text: str, left_to_right: Sequence[str] = ("L", "EN", "AN")) -> str | None:
    """Return the direction of the first character that has one."""
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in ("R", "AL"):
            return "rtl"
        if kind in left_to_right:
            return "ltr"
    return None


def _against(directions: Sequence[str | None], base: str) -> list[bool]:
    """Return which pieces run against the base direction, including neutral pieces between two such pieces."""
    against, last = [False] * len(directions), None
    for place, direction in enumerate(directions):
        if direction == base:
            last = None
        elif direction:
            first = place if last is None else last
            against[first : place + 1] = [True] * (place + 1 - first)
            last = place
    return against
