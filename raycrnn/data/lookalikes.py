"""Units that look alike in an image, one of which may be a slip of the keyboard or of a conversion."""

import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cache

LETTERS = (
    "AΑА BΒВ CСϹ EΕЕ HΗН IΙІӀ JЈ KΚК MΜМ NΝ OΟО PΡР SЅ TΤТ XΧХ YΥҮ ZΖ ΓГ ΠП ΦФ aа cсϲ eе iі jјϳ kκк oοо pρр sѕ uυ vνѵ "
    "xχх yуү γɣ ıι"
)
"""Letters of the Latin, Greek and Cyrillic scripts that most typefaces draw alike. Each word lists letters that look
like each other. Letters within a script, such as I and l, are not here: labels need both."""

LONG_S = "ſf"

DASHES = "-‐‑‒–—―−"
APOSTROPHES = "'‘’‛′´ʼʹ"
QUOTES = '"“”‟″'
DOTS = "·•∙⋅・"

SAME_LOOK_TAGS = frozenset(
    ("wide", "narrow", "font", "noBreak", "compat", "small", "vertical", "isolated", "initial", "medial", "final")
)
"""Tags of Unicode's compatibility decompositions whose characters look like what they decompose into, unlike
superscripts or fractions."""

MARK = "a combining mark beside a letter that contains it"

KIND_OF = {
    **dict.fromkeys(DASHES, "two kinds of dashes"),
    **dict.fromkeys(APOSTROPHES, "two kinds of apostrophes"),
    **dict.fromkeys(QUOTES, "two kinds of quotation marks"),
    **dict.fromkeys(DOTS, "two kinds of dots"),
    **dict.fromkeys(LONG_S, "a long s beside an f"),
}
"""What two characters of a group are."""

GROUPS = (*LETTERS.split(), LONG_S, DASHES, APOSTROPHES, QUOTES, DOTS)
LIKE = {character: group[0] for group in GROUPS for character in group}
"""The first character of the group that a character belongs to."""


def look_alikes(units: Iterable[str]) -> list[tuple[str, str, str]]:
    """Find pairs of units that look alike.

    Returns:
        The two units of each pair in the order of their code points, and why they look alike. The pairs are sorted.

    Examples:
        >>> look_alikes(["A", "Α", "b", "-", "–"])
        [('-', '–', 'two kinds of dashes'), ('A', 'Α', 'Latin beside Greek')]
    """
    units = sorted(set(units))
    groups: dict[str, list[str]] = defaultdict(list)
    for unit in units:
        groups[skeleton(unit)].append(unit)
    alike = itertools.chain.from_iterable(itertools.combinations(group, 2) for group in groups.values())
    pairs = [(one, other, _reason(one, other)) for one, other in alike]
    marks = [unit for unit in units if unit and all(unicodedata.category(character)[0] == "M" for character in unit)]
    for mark, unit in itertools.product(marks, units):
        if len(unit) < len(decomposed := unicodedata.normalize("NFD", unit)) and decomposed[1:].startswith(mark):
            pairs.append((min(mark, unit), max(mark, unit), MARK))
    return sorted(pairs)


def skeleton(text: str) -> str:
    """Return a text that is the same for all texts that look alike."""
    return "".join(map(_like, unicodedata.normalize("NFD", text)))


@cache
def _like(character: str) -> str:
    if character in LIKE:
        return LIKE[character]
    if unicodedata.category(character) == "Zs":
        return " "
    tag, _, decomposition = unicodedata.decomposition(character).partition("> ")
    if tag.removeprefix("<") not in SAME_LOOK_TAGS or not decomposition:
        return character
    return "".join(map(_like, (chr(int(code, 16)) for code in decomposition.split())))


def _reason(one: str, other: str) -> str:
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        return "the same text in two Unicode normal forms"
    differing = (pair for pair in zip(one, other, strict=False) if _base(pair[0]) != _base(pair[1]))
    first, second = map(_base, next(differing, (one, other)))
    if first.isspace() and second.isspace():
        return "two kinds of spaces"
    kinds = KIND_OF.get(first), KIND_OF.get(second)
    if kinds[0] and kinds[0] == kinds[1]:
        return kinds[0]
    scripts = _script(first), _script(second)
    if scripts[0] != scripts[1] and unicodedata.normalize("NFKC", one) != unicodedata.normalize("NFKC", other):
        return " beside ".join(scripts)
    return "one is the compatibility form of the other"


def _base(character: str) -> str:
    return unicodedata.normalize("NFD", character)[0]


def _script(character: str) -> str:
    """Return the first word of a character's name, which for a letter is its script."""
    return unicodedata.name(character[0], "unnamed").split()[0].capitalize()
