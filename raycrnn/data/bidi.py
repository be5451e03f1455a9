"""The order of right-to-left text: as people type and read it, and as CTC sees it.

Labels and transcriptions are in logical order, the order of reading. CTC reads an image from left to right, so it needs
the units in display order, in which Hebrew is reversed but the numbers in it are not. The Unicode bidirectional
algorithm (UAX 9, https://www.unicode.org/reports/tr9/) gives the display order. If a line mixes text of both
directions, several logical orders can have the same display order; then the restored order may differ from the label's.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

TextDirection = Literal["ltr", "rtl", "visual"]
"""The direction of a line: left to right, right to left, or as it is in the labels, which are then not reordered."""

RIGHT_TO_LEFT = re.compile(
    r"[\u0590-\u08ff\u200f\u202b\u202e\u2067\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
"""Matches the blocks of scripts that run from right to left."""

ONE_WAY = frozenset(("R", "AL", "NSM", "WS", "ON", "CS", "ES", "ET"))
"""Bidirectional classes of characters that a line from right to left only reverses."""

ATTACHED = frozenset(("NSM", "BN", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""Bidirectional classes of characters that belong to the one before: combining marks and invisible characters."""


def direction_of(labels: Iterable[str]) -> TextDirection:
    """Return the direction of most letters that have one."""
    counts = {"L": 0, "R": 0}
    for label in labels:
        if RIGHT_TO_LEFT.search(label):
            classes = [unicodedata.bidirectional(character) for character in label]
            counts["R"] += sum(each in ("R", "AL") for each in classes)
            counts["L"] += classes.count("L")
        else:
            counts["L"] += sum(map(str.isalpha, label))
    return "rtl" if counts["R"] > counts["L"] else "ltr"


def display_order(units: Sequence[str], direction: TextDirection) -> tuple[str, ...]:
    """Return the units of a label in the order in which they stand in the image, from left to right.

    Brackets are mirrored where text runs from right to left. Combining marks stay behind their letter.
    """
    return tuple(unit for _, unit in _reorder(units, direction))


def logical_order(units: Sequence[str], direction: TextDirection) -> list[tuple[int, str]]:
    """Return units that are in display order in logical order.

    Returns:
        The index of each unit in `units`, and the unit itself or its mirrored form.
    """
    candidate = _reorder(units, direction)
    if [index for index, _ in candidate] == list(range(len(units))):
        return candidate
    # The class of a number depends on the letters before it, which the display order may have put behind it.
    reversed_first = [(len(units) - 1 - index, unit) for index, unit in reversed(_reorder(units[::-1], direction))]
    for restored in (candidate, reversed_first):
        if display_order([unit for _, unit in restored], direction) == tuple(units):
            return restored
    return candidate


def _reorder(units: Sequence[str], direction: TextDirection) -> list[tuple[int, str]]:
    """Apply the bidirectional algorithm to units: return their indices, and themselves or their mirrored forms."""
    if direction == "visual" or not RIGHT_TO_LEFT.search("".join(units)):
        return list(enumerate(units))
    clusters = _clusters(units)
    text = "".join(_representative(units[cluster[0]]) for cluster in clusters)
    if direction == "rtl" and ONE_WAY.issuperset(map(unicodedata.bidirectional, text)):
        # The algorithm takes half a millisecond for a line of 40 characters.
        order = [(number, True) for number in reversed(range(len(clusters)))]
    else:
        order = _reorder_characters(text, direction)
    result = []
    for number, is_reversed in order:
        first, *marks = clusters[number]
        result.append((first, _mirrored(units[first]) if is_reversed else units[first]))
        result += [(mark, units[mark]) for mark in marks]
    return result


def _clusters(units: Sequence[str]) -> list[list[int]]:
    """Return the indices of each unit with those of the marks that follow it."""
    clusters: list[list[int]] = []
    for index, unit in enumerate(units):
        if clusters and all(unicodedata.bidirectional(character) in ATTACHED for character in unit):
            clusters[-1].append(index)
        else:
            clusters.append([index])
    return clusters


def _representative(unit: str) -> str:
    """Return the character that stands for a unit: its first letter, or else its first character."""
    strong = (character for character in unit if unicodedata.bidirectional(character) in ("L", "R", "AL"))
    first = next(strong, unit[0])
    # Invisible characters at the start of a line would be removed.
    return "!" if unicodedata.bidirectional(first) in ATTACHED else first


def _reorder_characters(text: str, direction: TextDirection) -> list[tuple[int, bool]]:
    """Return the index of each character of a line in display order, and whether it runs from right to left."""
    # Only this module of python-bidi tells where each character goes.
    from bidi import algorithm

    line = algorithm.get_empty_storage()
    line["base_level"], line["base_dir"] = (1, "R") if direction == "rtl" else (0, "L")
    algorithm.get_embedding_levels(text, line)
    for index, character in enumerate(line["chars"]):
        character["index"] = index
    algorithm.explicit_embed_and_overrides(line)
    algorithm.resolve_weak_types(line)
    algorithm.resolve_neutral_types(line, False)
    algorithm.resolve_implicit_levels(line, False)
    algorithm.reorder_resolved_levels(line, False)
    return [(character["index"], character["level"] % 2 == 1) for character in line["chars"]]


def _mirrored(unit: str) -> str:
    from bidi.mirror import MIRRORED

    return str(MIRRORED.get(unit, unit)) if len(unit) == 1 and unicodedata.mirrored(unit) else unit
