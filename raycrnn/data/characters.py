"""Characters that people do not see in a label or a path."""

import unicodedata
from collections.abc import Iterator
from functools import cache

JOINERS = "\u200c\u200d"
"""Invisible characters that change how their neighbours look, in Persian and in scripts of India."""

VISIBLE_FORMAT_CHARACTERS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""The format characters that are visible: Unicode's property Prepended_Concatenation_Mark."""

INVISIBLE_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Invisible characters that Unicode counts among letters, marks and symbols: the combining grapheme joiner, fillers of
Hangul, inherent vowels of Khmer, and the blank Braille pattern."""

VARIATION_SELECTORS = range(0xFE00, 0xFE10)
"""Code points that choose the text or emoji form of a symbol. Those from U+E0100 on, which choose between different
glyphs of a Chinese character, are not here."""


def invisible_characters(text: str) -> Iterator[str]:
    """Yield the characters of a text that are invisible, except `JOINERS` and spaces that people type on purpose."""
    return filter(_is_invisible, text)


@cache
def _is_invisible(character: str) -> bool:
    if character in " \u3000" or character in JOINERS or character in VISIBLE_FORMAT_CHARACTERS:
        return False
    is_selector = ord(character) in VARIATION_SELECTORS
    return is_selector or character in INVISIBLE_LETTERS or unicodedata.category(character) in CATEGORIES


CATEGORIES = ("Zs", "Zl", "Zp", "Cc", "Cf")
"""Unicode's categories of spaces, separators, control and format characters."""

UNPRINTABLE = ("Zl", "Zp", "Cc", "Cf", "Cs")
"""Unicode's categories of separators, control and format characters and halves of surrogate pairs."""


def notes_on(path: str) -> str:
    """Return what a path hides, as the end of a message about a missing file; "" if it hides nothing."""
    unseen = dict.fromkeys(map(name_of, invisible_characters(path)))
    notes = [f"the path contains {', '.join(unseen)}"] if unseen else []
    if path != path.strip(" "):
        notes.append("the path begins or ends with a space")
    if "\\" in path:
        notes.append("the path contains backslashes: write / between folders")
    return f" ({'; '.join(notes)})" if notes else ""


def with_code_points(text: str) -> str:
    """Return text with control, format and separating characters as code points: a terminal would obey some of them."""
    return "".join(f"<U+{ord(each):04X}>" if unicodedata.category(each) in UNPRINTABLE else each for each in text)


def name_of(character: str) -> str:
    """Return a character's code point and name, such as `U+200B ZERO WIDTH SPACE`."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
