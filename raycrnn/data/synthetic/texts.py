"""Sources of texts, and which texts can be drawn with the fonts of a recipe."""

import hashlib
import itertools
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from raycrnn import storage
from raycrnn.data.bidi import RIGHT_TO_LEFT
from raycrnn.data.characters import JOINERS, invisible_characters, name_of
from raycrnn.data.synthetic.fonts import FontSet, font_set, has_raqm, needs_shaping
from raycrnn.data.synthetic.patterns import pattern_source
from raycrnn.data.synthetic.recipe import Recipe
from raycrnn.errors import UsageError

Source = Callable[[random.Random], str]
"""Draws a text."""

MAX_EXAMPLES = 5
"""Number of refused words that are kept as examples."""

MARKS = "...,,,;:!?"
"""Punctuation that follows words of a language, by frequency."""

MARKS_OF_LANGUAGE = dict.fromkeys(("ar", "fa", "ur"), "...،،،؛:!؟") | dict.fromkeys(("ja", "zh"), "。。。、、、！？")
"""Punctuation of languages that have marks of their own."""

WITHOUT_SPACES = ("ja", "zh")
"""Languages that are written without spaces between words."""


def clean(text: str) -> str:
    """Return a text in NFC, with a single space for each run of white space, and none at its ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@dataclass
class Refusals:
    """Words that are left out because they cannot be drawn."""

    count: int = 0
    """Number of different words."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of words by reason."""
    examples: list[str] = field(default_factory=list)
    """The first of them."""

    def add(self, word: str, reason: str) -> None:
        """Count a word."""
        self.count += 1
        self.reasons[reason] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(word)

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self.reasons.most_common(MAX_EXAMPLES))
        words = "word is" if self.count == 1 else "words are"
        return f"{self.count:,} {words} left out: {reasons}; for example {', '.join(map(repr, self.examples))}"


class Drawable:
    """Decides which texts can be drawn.

    Args:
        fonts: The fonts.
        is_vertical: Whether lines are vertical.
    """

    def __init__(self, fonts: FontSet, is_vertical: bool):
        self._fonts, self._is_vertical = fonts, is_vertical

    def problem(self, text: str) -> str | None:
        """Return why a text cannot be drawn, or None if it can."""
        if not text.strip(JOINERS + " "):
            return "it has no visible character"
        if self._fonts.mask(text) == 0:
            return self._missing(text)
        if not text.isascii():
            if not has_raqm() and needs_shaping(text):
                return "the script needs shaping, for which Pillow lacks the library libraqm"
            if self._is_vertical and RIGHT_TO_LEFT.search(text):
                return "the script has no vertical lines"
        return None

    def _missing(self, text: str) -> str:
        hidden = [character for character in invisible_characters(text) if character != " "]
        if hidden:
            return f"invisible {name_of(hidden[0])}"
        missing = [character for character in text if self._fonts.mask(character) == 0]
        if missing:
            return f"no font has {missing[0]!r} ({name_of(missing[0])})"
        return "no font has all of the characters"


class TextSource:
    """The texts of a recipe.

    Args:
        recipe: The recipe, whose paths are absolute.

    Raises:
        UsageError: A file cannot be read or is not UTF-8, wordfreq is not installed or does not know the language, a
            font cannot be used, or no word can be drawn.
    """

    def __init__(self, recipe: Recipe):
        self._settings = recipe.text
        self.fonts = font_set(recipe.fonts.files)
        self._drawable = Drawable(self.fonts, recipe.line.direction == "vertical")
        self.refusals = Refusals()
        """What is left out of the files and of the language's words."""
        self._sources = [pattern_source(each, recipe.text.characters[1]) for each in recipe.text.pattern]
        if recipe.text.files:
            self._sources.append(self._files())
        if recipe.text.language:
            self._sources.append(self._language(recipe.text.language))

    def draw(self, random: random.Random, is_eval: bool) -> str:
        """Draw a text that can be drawn and has an allowed length.

        Args:
            random: The random generator.
            is_eval: Whether the text is one of those that are reserved for evaluation.

        Raises:
            UsageError: None of `MAX_TRIES` texts is allowed.
        """
        reasons: Counter[str] = Counter()
        least, most = self._settings.characters
        for _ in range(MAX_TRIES):
            text = clean(random.choice(self._sources)(random))
            if not least <= len(text) <= most:
                reasons[f"length {len(text)}, not {least} to {most} (text.characters)"] += 1
            elif text.startswith("|"):
                reasons["a label that starts with | would be read as a sequence of units"] += 1
            elif is_reserved(text, self._settings.eval_share) != is_eval:
                reasons[f"the text is {'not ' if is_eval else ''}reserved for evaluation (text.eval_share)"] += 1
            elif problem := self._drawable.problem(text):
                reasons[problem] += 1
            else:
                return text
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(MAX_EXAMPLES))
        raise UsageError(f"none of {MAX_TRIES:,} texts can be used, the last is {text!r}: {listed}")

    def _files(self) -> Source:
        lines = [line for path in self._settings.files for line in read_lines(path)]
        if self._settings.take == "words":
            counts = Counter(itertools.chain.from_iterable(line.split(" ") for line in lines))
            return self._words(counts, self._settings.files[0])
        kept = list(self._drawable_parts(lines))
        words = sum(line.count(" ") + 1 for line in lines)
        self._check_left(", ".join(self._settings.files), sum(line.count(" ") + 1 for line in kept), words)
        most = self._settings.characters[1]
        weights = list(itertools.accumulate(max(1.0, len(line) / most) for line in kept))

        def draw(random: random.Random) -> str:
            [line] = random.choices(kept, cum_weights=weights)
            return line if len(line) <= most else cut(line, self._settings.characters, random)

        return draw

    def _drawable_parts(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield lines, divided where a word cannot be drawn."""
        for line in lines:
            if self._drawable.problem(line) is None:
                yield line
                continue
            part: list[str] = []
            for word in line.split(" "):
                problem = self._drawable.problem(word)
                if problem:
                    self.refusals.add(word, problem)
                # Another font may have the word, but not those before it.
                if part and (problem or self._drawable.problem(" ".join([*part, word]))):
                    yield " ".join(part)
                    part = []
                if not problem:
                    part.append(word)
            if part:
                yield " ".join(part)

    def _language(self, language: str) -> Source:
        words = self._words(frequencies(language, self._settings.vocabulary), f"text.language={language}")
        settings = self._settings
        marks = MARKS_OF_LANGUAGE.get(language[:2], MARKS)
        space = "" if language[:2] in WITHOUT_SPACES else " "

        def draw(random: random.Random) -> str:
            result = []
            for word in words(random).split(" "):
                share = random.random()
                if share < settings.upper:
                    word = word.upper()
                elif share < settings.upper + settings.capitals:
                    word = word[:1].upper() + word[1:]
                result.append(word + random.choice(marks) if random.random() < settings.punctuation else word)
            return space.join(result)

        return draw

    def _words(self, counts: dict[str, float] | Counter[str], origin: str) -> Source:
        """Return a source of words, drawn by their frequencies; those of one line can be drawn with one font."""
        kept: dict[str, float] = {}
        for word, count in counts.items():
            problem = self._drawable.problem(word)
            if problem:
                self.refusals.add(word, problem)
            else:
                kept[word] = count
        self._check_left(origin, sum(kept.values()), sum(counts.values()))
        words, weights = list(kept), list(itertools.accumulate(kept.values()))
        least, most = self._settings.words

        def draw(random: random.Random) -> str:
            return " ".join(random.choices(words, cum_weights=weights, k=random.randint(least, most)))

        return draw

    def _check_left(self, origin: str, kept: float, total: float) -> None:
        """Raise `UsageError` if there is no text, or if the fonts lack most of it.

        Args:
            origin: Where the text comes from.
            kept: Number of words, or their frequency, that can be drawn.
            total: The same for all words.
        """
        if not total:
            raise UsageError(f"{origin}: there is no text in it")
        if kept < MIN_KEPT * total:
            raise UsageError(
                f"{origin}: only {kept / total:.0%} of the text can be drawn. {self.refusals}. Name fonts that have "
                "the script in fonts.files"
            )


MIN_KEPT = 0.5
"""Fraction of a text that must remain without the words that cannot be drawn: less is another text."""

MAX_TRIES = 2_000
"""Number of texts that are drawn before none is considered possible."""


@lru_cache(maxsize=8)
def text_source(recipe: Recipe) -> TextSource:
    """Return the texts of a recipe; a process reads them once. Raises `UsageError`."""
    return TextSource(recipe)


def is_reserved(text: str, share: float) -> bool:
    """Return whether a text is one of the fraction that is reserved for evaluation."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def cut(line: str, characters: tuple[int, int], random: random.Random) -> str:
    """Return some consecutive words of a line that together have an allowed number of characters, if there are any."""
    starts = [match.start() for match in re.finditer(r"\S+", line)]
    start = random.choice(starts)
    limit = start + random.randint(*characters)
    if limit >= len(line):
        return line[start:]
    # The last space before the limit; a word that is longer than that stays whole.
    end = line.rfind(" ", start, limit + 1)
    if end < 0:
        end = line.find(" ", start)
    return line[start:end] if end >= 0 else line[start:]


def read_lines(path: str) -> list[str]:
    """Read the lines of a text file that are not empty, cleaned. Raises `UsageError`."""
    try:
        text = storage.read(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file (text.files)") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {storage.describe(error)}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: not UTF-8: convert the file, for example with iconv") from None
    return list(filter(None, map(clean, text.splitlines())))


def frequencies(language: str, count: int) -> dict[str, float]:
    """Return the most frequent words of a language with their frequencies, from the library wordfreq.

    Raises:
        UsageError: wordfreq is not installed or has no such language.
    """
    try:
        import wordfreq
    except ImportError:
        raise UsageError(
            "text.language needs the library wordfreq: pip install 'raycrnn[words]', or use text.files"
        ) from None
    try:
        buckets = wordfreq.get_frequency_list(language)
    except LookupError:
        known = ", ".join(sorted(wordfreq.available_languages()))
        raise UsageError(f"text.language={language}: wordfreq has no such language; it has {known}") from None
    except ImportError as error:
        raise UsageError(f"text.language={language}: {error}") from None
    words: dict[str, float] = {}
    for centibels, bucket in enumerate(buckets):
        # In the lists, 0 stands for any digit of a number of several digits.
        kept = (word for word in bucket if not re.search(r"\d\d", word))
        words |= dict.fromkeys(kept, wordfreq.cB_to_freq(-centibels))
        if len(words) >= count:
            break
    return dict(itertools.islice(words.items(), count))
