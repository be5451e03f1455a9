"""Characters that people do not see in a label or a path."""

import unicodedata
from collections.abc import Iterator

JOINERS = "\u200c\u200d"
"""Invisible characters that change how their neighbours look, in Persian and in scripts of India."""

VISIBLE_FORMAT_CHARACTERS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""The format characters that are visible: Unicode's property Prepended_Concatenation_Mark."""


def invisible_characters(text: str) -> Iterator[str]:
    """Yield the characters of a text that are invisible, except `JOINERS` and spaces that people type on purpose."""
    for character in text:
        if (
            unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf")
            and character not in " \u3000"
            and character not in JOINERS
            and character not in VISIBLE_FORMAT_CHARACTERS
        ):
            yield character


def name_of(character: str) -> str:
    """Return a character's code point and name, such as `U+200B ZERO WIDTH SPACE`."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
