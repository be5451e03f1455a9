"""Rewrite labels: split text into units, mark abbreviations by brackets, map accented letters.

A label is plain text (a string), in which every character is a unit, or a sequence of units (a tuple of strings), which
a CSV file holds as `|B|e|n|e| |quondam|`. A unit of several characters is called an abbreviation here: transcribers of
old prints and manuscripts write `Bene [quondam]` for a sign that stands for the word. Functions that raise `ValueError`
say where in the label the problem is, counting characters from 1.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from raycrnn.data.alphabet import UnicodeForm
from raycrnn.data.characters import name_of

Label = str | tuple[str, ...]

Replacements = Counter[tuple[str, str]]
"""How often each text was replaced by which other one."""

OPENING, CLOSING = "[]"

ACCENTS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
"""Unicode's blocks of combining diacritical marks. The vowel signs of Hebrew, Arabic and Indic scripts and the voicing
marks of Japanese, without which the text would be another one, are in other blocks."""

ACCENTED = re.compile(rf"[^\x00-\x7f][{ACCENTS}]*|[\x00-\x7f][{ACCENTS}]+")
"""A character that may be accented, with the combining marks that follow it."""

IN_BRACKETS = re.compile(r"\[[^\[\]]+\]")

ONE_IN_BRACKETS = re.compile(r"\[([^\[\]])\]")

IN_BRACKETS_OR_OUTSIDE = re.compile(r"\[[^\[\]]+\]|[^\[\]]")


# --- between CSV and label


def parse_label(text: str, split_delimiter: str = "|") -> Label:
    """Return the units of a CSV's label that starts with the split delimiter, and any other label as it is.

    Unlike `csv_files.split_label`, it does not normalise the units.
    """
    if not text.startswith(split_delimiter):
        return text
    return tuple(unit for unit in text.split(split_delimiter) if unit)


def format_label(label: Label, split_delimiter: str = "|") -> str:
    """Return a label as a CSV holds it, so that `parse_label` returns it again.

    Raises:
        ValueError: A unit contains the split delimiter, or plain text starts with it.
    """
    if isinstance(label, str):
        if label.startswith(split_delimiter):
            raise ValueError(f"plain text that starts with {split_delimiter!r} would be read as a sequence of units")
        return label
    holding = next((unit for unit in label if split_delimiter in unit), None)
    if holding is not None:
        raise ValueError(f"the unit {holding!r} contains the delimiter of units {split_delimiter!r}")
    return split_delimiter.join(["", *label, ""]) if label else ""


# --- splitting


class Segmenter:
    """Splits text into the units of an alphabet, by longest match.

    At each position the longest unit is taken after which the rest can still be split. Where always taking the longest
    one succeeds, that is the result. With the units `ab`, `abc` and `cd`, `abcd` is split into `ab` and `cd`.

    Args:
        units: The units; none may be empty.

    Examples:
        >>> Segmenter(["q", "u", "o", " ", "quondam"]).split("quo quondam")
        ('q', 'u', 'o', ' ', 'quondam')
    """

    def __init__(self, units: Iterable[str]):
        self._units = frozenset(units)
        lengths: dict[str, set[int]] = {}
        for unit in self._units:
            lengths.setdefault(unit[0], set()).add(len(unit))
        self._lengths_of = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        # Of the alternatives, a regular expression takes the first that matches.
        longer = sorted((unit for unit in self._units if len(unit) > 1), key=len, reverse=True)
        single = "".join(re.escape(unit) for unit in self._units if len(unit) == 1)
        self._longest = re.compile("|".join([*map(re.escape, longer), *([f"[{single}]"] if single else [])]))

    def split(self, text: str) -> tuple[str, ...]:
        """Return the units of a text.

        Raises:
            ValueError: The text cannot be split; the message names the first character that no unit reaches.
        """
        # Taking the longest unit everywhere nearly always succeeds, and is much faster.
        units = self._longest.findall(text)
        return tuple(units) if sum(map(len, units)) == len(text) else self._split_looking_ahead(text)

    def _matches(self, text: str, start: int) -> Iterator[int]:
        """Return the lengths of the units that a text has at a position, longest first."""
        for length in self._lengths_of.get(text[start], ()):
            if start + length <= len(text) and text[start : start + length] in self._units:
                yield length

    def _split_looking_ahead(self, text: str) -> tuple[str, ...]:
        # chosen[i] is the length of the unit at position i, or 0 if the text from there on cannot be split.
        chosen = [0] * len(text) + [-1]
        for start in reversed(range(len(text))):
            chosen[start] = next((length for length in self._matches(text, start) if chosen[start + length]), 0)
        if not chosen[0]:
            raise ValueError(self._problem(text))
        units = []
        start = 0
        while start < len(text):
            units.append(text[start : start + chosen[start]])
            start += chosen[start]
        return tuple(units)

    def _problem(self, text: str) -> str:
        reached = {0}
        for start in range(len(text)):
            if start in reached:
                reached.update(start + length for length in self._matches(text, start))
        furthest = max(reached)
        return f"no unit of the alphabet starts at character {furthest + 1}, {_shown(text[furthest])}"


def split_at_brackets(text: str) -> tuple[str, ...]:
    """Return the units of plain text: an abbreviation in brackets is one, any other character another.

    Raises:
        ValueError: A bracket is not closed or not opened, is inside another one, or holds nothing.

    Examples:
        >>> split_at_brackets("d. [quondam]")
        ('d', '.', ' ', 'quondam')
    """
    units = IN_BRACKETS_OR_OUTSIDE.findall(text)
    if sum(map(len, units)) == len(text):
        return tuple(unit[1:-1] if len(unit) > 1 else unit for unit in units)
    # The first bracket that is not one of a pair.
    rest = IN_BRACKETS.sub(lambda found: " " * len(found[0]), text)
    place = min(rest.find(bracket) for bracket in (OPENING, CLOSING) if bracket in rest)
    if rest[place] == CLOSING:
        raise ValueError(f"{CLOSING!r} at character {place + 1} closes no bracket")
    raise ValueError(f"the bracket at character {place + 1} holds nothing, holds another one or is not closed")


def lost_brackets(text: str) -> Iterator[tuple[str, str]]:
    """Yield each abbreviation of one character in plain text, with and without its brackets.

    `split_at_brackets` makes it the same unit as the plain character, so `add_brackets` cannot mark it again.
    """
    return ((found[0], found[1]) for found in ONE_IN_BRACKETS.finditer(text))


# --- abbreviations


def add_brackets(label: Label) -> Label:
    """Return a label with brackets around each unit of several characters: `quondam` becomes `[quondam]`.

    A unit that has brackets, and plain text, stay as they are.
    """
    if isinstance(label, str):
        return label
    return tuple(f"{OPENING}{unit}{CLOSING}" if len(unit) > 1 and not _is_bracketed(unit) else unit for unit in label)


def as_text(label: Label) -> str:
    """Return a label as plain text with abbreviations in brackets.

    `split_at_brackets` splits it into the same units again, unless these contain brackets.
    """
    return "".join(add_brackets(label))


def drop_brackets(label: Label) -> Label:
    """Return a label without the brackets around its abbreviations: `[quondam]` becomes `quondam`."""
    if isinstance(label, str):
        return IN_BRACKETS.sub(lambda found: found[0][1:-1], label)
    return tuple(unit[1:-1] if _is_bracketed(unit) else unit for unit in label)


def lower_abbreviations(label: Label) -> Label:
    """Return a label with its abbreviations in lower case: in plain text, what is in brackets.

    Examples:
        >>> lower_abbreviations("Bene [Quondam]")
        'Bene [quondam]'
        >>> lower_abbreviations(("B", "Quondam"))
        ('B', 'quondam')
    """
    if isinstance(label, str):
        return IN_BRACKETS.sub(lambda found: found[0].lower(), label)
    return tuple(unit.lower() if len(unit) > 1 else unit for unit in label)


def _is_bracketed(unit: str) -> bool:
    return len(unit) > 2 and unit[0] == OPENING and unit[-1] == CLOSING


# --- characters


class CharacterMap:
    """Replaces characters, or groups of them.

    Where several keys match, the longest one counts. What a replacement inserts is not replaced again.

    Args:
        table: What replaces what; a key may have several characters, and a replacement may be empty.
    """

    def __init__(self, table: Mapping[str, str]):
        self._table = dict(table)
        longest_first = sorted(self._table, key=len, reverse=True)
        self._keys = re.compile("|".join(map(re.escape, longest_first)))

    def apply(self, text: str, replacements: Replacements) -> str:
        """Return a text with the replacements, and add them to `replacements`."""

        def replace(found: re.Match[str]) -> str:
            return _counted(found[0], self._table[found[0]], replacements)

        return self._keys.sub(replace, text) if self._table else text


class AccentMap:
    """Replaces accented letters by the letters without accents.

    The rule is that of Unicode's decompositions: `é` is `e` and an acute accent. Letters that have none, such as `ø`,
    `ł`, `ß`, `æ` and `ſ`, stay; a `CharacterMap` can replace them. Only the marks in `ACCENTS` are removed.

    Args:
        unicode_form: The normalisation form of the results.
    """

    def __init__(self, unicode_form: UnicodeForm = "NFC"):
        self._form = unicode_form
        self._known: dict[str, str] = {}

    def apply(self, text: str, replacements: Replacements) -> str:
        """Return a text without accents, and add what was replaced to `replacements`."""

        def replace(found: re.Match[str]) -> str:
            if found[0] not in self._known:
                self._known[found[0]] = self._without_accents(found[0])
            return _counted(found[0], self._known[found[0]], replacements)

        return text if text.isascii() else ACCENTED.sub(replace, text)

    def _without_accents(self, text: str) -> str:
        decomposed = unicodedata.normalize("NFD", text)
        bare = re.sub(f"[{ACCENTS}]", "", decomposed)
        # A text without accents stays as it is, even if it is in another normalisation form.
        return text if bare == decomposed else unicodedata.normalize(self._form, bare)


def _counted(old: str, new: str, replacements: Replacements) -> str:
    if new != old:
        replacements[old, new] += 1
    return new


def map_characters(label: Label, characters: CharacterMap | AccentMap, replacements: Replacements) -> Label:
    """Return a label with characters replaced, and add what was replaced to `replacements`.

    A unit of one character whose replacement has several becomes as many units: `|æ|` becomes `|a|e|`. An abbreviation
    stays one unit. A unit whose replacement is empty is left out.
    """
    if isinstance(label, str):
        return characters.apply(label, replacements)
    units: list[str] = []
    for unit in label:
        mapped = characters.apply(unit, replacements)
        if len(unit) == 1:
            units += mapped
        elif mapped:
            units.append(mapped)
    return tuple(units)


def normalise(label: Label, form: UnicodeForm) -> Label:
    """Return a label in a Unicode normalisation form, as `csv_files.split_label` reads it."""
    if isinstance(label, str):
        return unicodedata.normalize(form, label)
    if "".join(label).isascii():
        return label
    return tuple(unicodedata.normalize(form, unit) for unit in label)


def _shown(character: str) -> str:
    """Return a character and its name, so that invisible ones and look-alikes can be told apart."""
    return f"{character!r} ({name_of(character)})"
