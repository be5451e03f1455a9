"""Lexicons: the texts that a line, or a word in it, can have.

A lexicon file is a text file in UTF-8 with one entry a line. An entry has units by the same rule as a label: each
character is one, unless the entry starts with the split delimiter, as in `|a|b|`. Entries are in the order of reading.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raycrnn import config
from raycrnn.data import csv_files, labels
from raycrnn.data.alphabet import Alphabet
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)

MAX_NAMED = 5
"""Number of entries that a message about several entries names, at most."""

SHOWN_UNITS = 30
"""Number of units of an entry that a message shows, at most."""

Entry = tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """The entries of a lexicon.

    Examples:
        >>> settings = config.Data(csv_files_train="lines.csv")
        >>> Lexicon.of(["Haus", "|q|u|o| |quondam|"], settings).entries[1]
        ('q', 'u', 'o', ' ', 'quondam')
    """

    entries: tuple[Entry, ...]
    """The units of each entry, which are different from each other, in the order of reading."""
    origin: str = field(default="lexicon", compare=False)
    """Where they come from, for messages."""
    numbers: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The line of each entry, or its place in the sequence that was given, from 1."""

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def read(cls, location: str | Path, settings: config.Data) -> "Lexicon":
        """Read a lexicon file. Blank lines are ignored.

        Args:
            location: Path or URI.
            settings: How labels are split into units.

        Raises:
            UsageError: The file does not exist, cannot be read, is not UTF-8, or has no entries.
        """
        text, _ = csv_files.read_text(
            location, "utf-8", "lexicon", "name a text file with one entry a line", "save the file as UTF-8"
        )
        lines = ((number, line) for number, line in enumerate(csv_files.split_lines(text), 1) if line)
        lexicon, repeated, spaced = cls._of_numbered(lines, settings, str(location), "line")
        if repeated:
            logger.info(f"{location}: {len(repeated):,} entries are repeated, the first one in line {repeated[0]}")
        if spaced:
            logger.warning(
                f"{location}: {len(spaced):,} entries begin or end with a space, which must then be in the image, the "
                f"first one in line {spaced[0]}"
            )
        return lexicon

    @classmethod
    def of(cls, entries: Iterable[str], settings: config.Data, origin: str = "lexicon") -> "Lexicon":
        """Return the lexicon of some texts.

        Args:
            entries: The texts, as the lines of a file have them.
            settings: How labels are split into units.
            origin: Where they come from, for messages.

        Raises:
            UsageError: An entry is empty or no string, or there are no entries.
        """
        if isinstance(entries, str):
            raise UsageError(f"{origin}: one string instead of a sequence of entries")
        # Without a word about repeated ones: every request to a service may have a lexicon.
        return cls._of_numbered(enumerate(entries, 1), settings, origin, "entry")[0]

    @classmethod
    def _of_numbered(
        cls, texts: Iterable[tuple[int, str]], settings: config.Data, origin: str, place: str
    ) -> tuple["Lexicon", list[int], list[int]]:
        """Return a lexicon, and the numbers of the entries that are repeated and of those with spaces at their ends."""
        numbers: dict[Entry, int] = {}
        repeated: list[int] = []
        spaced: list[int] = []
        for number, text in texts:
            if not isinstance(text, str):
                raise UsageError(f"{origin}, {place} {number}: {text!r} is not a string")
            units = csv_files.split_label(text, settings.string_split_delimiter, settings.unicode_form)
            if not units:
                raise UsageError(f"{origin}, {place} {number}: the entry has no units: remove it")
            if units in numbers:
                repeated.append(number)
                continue
            numbers[units] = number
            if text != text.strip():
                spaced.append(number)
        if not numbers:
            raise UsageError(f"{origin}: the lexicon has no entries: name a text file with one entry a line")
        return cls(tuple(numbers), origin, tuple(numbers.values())), repeated, spaced

    def readable(self, alphabet: Alphabet, frames: int) -> "Lexicon":
        """Return the lexicon without the entries that a model cannot read, after a warning about them.

        Args:
            alphabet: The units of the model.
            frames: The number of frames of its widest image.

        Raises:
            UsageError: The model can read none of the entries.
        """
        problems = {}
        for number, entry in enumerate(self.entries):
            if problem := problem_of(entry, alphabet, frames):
                problems[number] = problem
        if not problems:
            return self
        listed = [f"line or entry {self.numbers[i]}, {problem}" for i, problem in list(problems.items())[:MAX_NAMED]]
        more = f" and {len(problems) - MAX_NAMED:,} more" if len(problems) > MAX_NAMED else ""
        if len(problems) == len(self):
            raise UsageError(f"{self.origin}: the model can read none of the entries: {'; '.join(listed)}{more}")
        logger.warning(
            f"{self.origin}: {len(problems):,} of {len(self):,} entries are left out, because the model cannot read "
            f"them: {'; '.join(listed)}{more}"
        )
        kept = [i for i in range(len(self)) if i not in problems]
        entries, numbers = tuple(self.entries[i] for i in kept), tuple(self.numbers[i] for i in kept)
        return Lexicon(entries, self.origin, numbers)

    def to_text(self, settings: config.Data) -> str:
        """Return the text of a file that `read` reads as this lexicon."""
        return "".join(f"{line}\n" for line in self._lines(settings))

    def _lines(self, settings: config.Data) -> Iterator[str]:
        delimiter = settings.string_split_delimiter
        for entry in self.entries:
            text = "".join(entry)
            # Units of one character may combine into others: e and a separate acute accent.
            is_plain = csv_files.split_label(text, delimiter, settings.unicode_form) == entry
            yield labels.format_label(text if is_plain else entry, delimiter)

    @property
    def digest(self) -> str:
        """Return the SHA-256 digest of the entries."""
        return hashlib.sha256(repr(self.entries).encode()).hexdigest()


def problem_of(entry: Entry, alphabet: Alphabet, frames: int) -> str | None:
    """Return why a model can never read an entry; None if it can."""
    if unknown := [unit for unit in dict.fromkeys(entry) if unit not in alphabet]:
        return f"{shown(entry)}: not in the alphabet: {', '.join(map(repr, unknown[:MAX_NAMED]))}"
    if (needed := csv_files.min_frames(entry)) > frames:
        return f"{shown(entry)}: needs {needed:,} frames, and the widest image has {frames:,}"
    return None


def shown(entry: Sequence[str]) -> str:
    """Return an entry for a message, shortened."""
    text = "".join(entry[:SHOWN_UNITS])
    return repr(text) + ("…" if len(entry) > SHOWN_UNITS else "")
