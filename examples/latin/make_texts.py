"""Write the texts of the base model: lines of words in sixteen languages, of old spelling, and of forms and receipts.

Needs raycrnn[words]. The words are drawn by their frequency, from the lists of the library wordfreq. The same version
of wordfreq gives the same files.
"""

import random
import re
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import wordfreq

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "cs", "sv", "fi", "hu", "tr", "ro", "da", "is")
OLD_LANGUAGES = ("fr", "fr", "de", "en", "it", "nl")
VOCABULARY = 30_000
LINES = 60_000
QUOTES = ("“”", "„“", "«»", "‘’", '""', "()", "[]", "‹›")
MARKS = (*".....,,,,,,;:!?…–—-",)
SYMBOLS = (*"&&&§%*+=/#@_°†‡¶•©®<>{}\\|~^$£€½¼¾×²³ºª¿¡·",)
LETTERS = (
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿ"
    "ĂăĄąĆćČčĎďĐđĒēĔĕĖėĘęĚěĞğĢģĨĩĪīĮįİıĶķĹĺĽľŁłŃńŇňŌōŐőŒœŔŕŘřŚśŞşŠšȘșŢţŤťȚțŨũŪūŬŭŮůŰűŸŹźŻżŽžſẼẽ"
)
"""Letters with diacritics and others that ASCII lacks. Words of other letters are not used."""


class Words:
    """The words of a language, by frequency.

    The frequencies are flattened, because a network that reads the same hundred words all the time learns these words
    instead of letters.
    """

    def __init__(self, language: str):
        listed = wordfreq.top_n_list(language, VOCABULARY)
        self.words = [word for word in listed if re.fullmatch(f"[a-z{LETTERS}]+", word)]
        frequencies = (wordfreq.word_frequency(word, language) ** 0.4 for word in self.words)
        self.cumulative = list(accumulate(frequencies))

    def draw(self, rng: random.Random) -> str:
        return rng.choices(self.words, cum_weights=self.cumulative)[0]


def modern(words: Words, rng: random.Random) -> str:
    """Return a line of modern spelling."""
    style = rng.random()
    parts = []
    for _ in range(rng.randint(1, 9)):
        word = words.draw(rng)
        if style < 0.08:
            word = word.upper()
        elif style < 0.16 or rng.random() < 0.2:
            word = word[0].upper() + word[1:]
        if rng.random() < 0.05:
            word = number(rng)
        elif rng.random() < 0.03:
            word = f"{word}{rng.choice('-–’')}{words.draw(rng)}"
        if rng.random() < 0.05:
            left, right = rng.choice(QUOTES)
            word = f"{left}{word}{right}"
        if rng.random() < 0.2:
            word += rng.choice(MARKS)
        if rng.random() < 0.03:
            word = rng.choice((f"{word} {rng.choice(SYMBOLS)}", f"{rng.choice(SYMBOLS)} {word}"))
        parts.append(word)
    return " ".join(parts)


def number(rng: random.Random) -> str:
    """Return a number as it occurs in texts: a year, an amount, a date, a time, a share."""
    digits = str(rng.randint(0, 10 ** rng.randint(1, 6)))
    return rng.choice(
        [
            digits,
            str(rng.randint(1500, 2030)),
            f"{digits}{rng.choice('.,')}{rng.randint(0, 99):02}",
            f"{rng.choice('$£€')}{digits}",
            f"{rng.randint(1, 31)}.{rng.randint(1, 12)}.{rng.randint(1600, 2030)}",
            f"{rng.randint(1, 31):02}/{rng.randint(1, 12):02}/{rng.randint(0, 99):02}",
            f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}",
            f"{rng.randint(1, 100)}%",
            f"({digits})",
        ]
    )


def old(words: Words, rng: random.Random) -> str:
    """Return a line of the spelling of old prints, with long s, abbreviations and divided words."""
    parts = []
    for _ in range(rng.randint(2, 8)):
        word = words.draw(rng)
        if rng.random() < 0.15:
            word = word.translate(str.maketrans("jv", "iu")) if rng.random() < 0.5 else word
        if rng.random() < 0.05:
            word = re.sub("([aeiou])[mn](?=[bcdfgpqt])", lambda found: "ãẽĩõũ"["aeiou".index(found[1])], word, count=1)
        # An s within a word is long, except before an apostrophe or a hyphen.
        word = re.sub("s(?=[^\\W\\d_])", "ſ", word)
        if rng.random() < 0.2:
            word = word[0].upper() + word[1:] if word[0] != "ſ" else "S" + word[1:]
        elif rng.random() < 0.04:
            word = word.upper()
        if rng.random() < 0.06:
            word = f"{rng.choice(['l', 'd', 'qu', 'n', 's', 'j', 'L', 'D'])}{rng.choice('’’’' + chr(39))}{word}"
        if rng.random() < 0.25:
            word += rng.choice([",", ",", ",", ".", ".", ";", ":", " ?", " !", " ;", " :"])
        if rng.random() < 0.05:
            word = rng.choice(["&", "&", "&c.", number(rng), "§", "*", "¶", "†"])
        parts.append(word)
    line = " ".join(parts)
    return line + rng.choice(["-", "¬"]) if line[-1].isalpha() and rng.random() < 0.25 else line


def form(words: Words, rng: random.Random) -> str:
    """Return a line of a form, a receipt or a table."""
    word = rng.choice([str.upper, str.title, str.lower])(words.draw(rng))
    other = rng.choice([str.upper, str.title, str.lower])(words.draw(rng))
    if rng.random() < 0.1:
        return f"{letters(words, rng)} {letters(words, rng)}"
    code = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/.") for _ in range(rng.randint(3, 14)))
    return rng.choice(
        [
            number(rng),
            f"{word}: {number(rng)}",
            f"{word} : {number(rng)}",
            f"{number(rng)} {number(rng)} {number(rng)}",
            f"*** {word} {other} ***",
            f"{word} {words.draw(rng)} {other}".upper(),
            f"{word} {other} {code}".upper(),
            f"{word} {number(rng)} {other}",
            f"{number(rng)} x {word}",
            f"{word}@{other.lower()}.{rng.choice(['com', 'org', 'net', 'de', 'fr'])}",
            f"www.{word.lower()}.{rng.choice(['com', 'org', 'eu'])}/{other.lower()}",
            f"TEL: {rng.randint(0, 99):02}-{rng.randint(10**6, 10**8 - 1)}",
            f"+{rng.randint(1, 99)} ({rng.randint(1, 999)}) {rng.randint(10**5, 10**7)}",
            code,
            f"{word} {code}",
            f"{rng.choice(SYMBOLS)} {word} {rng.choice(SYMBOLS)} {other}",
            f"{word} & {other} {rng.choice(['Co.', 'Ltd.', 'SDN BHD', 'GmbH', 'S.A.', 'Inc.'])}",
            f"No. {rng.randint(1, 999)}, {word} {other}",
            f"{word} {rng.choice(['[', '(', '<', '{'])}{code}{rng.choice([']', ')', '>', '}'])}",
        ]
    )


def letters(words: Words, rng: random.Random) -> str:
    """Return a word in which some letters have been replaced, so that rare ones are frequent enough."""
    return "".join(rng.choice(LETTERS) if rng.random() < 0.3 else letter for letter in words.draw(rng))


def write(path: Path, line: Callable[[Words, random.Random], str], languages: tuple[str, ...]) -> None:
    """Write a file of lines of different languages."""
    rng = random.Random(path.name)
    vocabularies = {language: Words(language) for language in languages}
    lines = (line(vocabularies[rng.choice(languages)], rng) for _ in range(LINES))
    # A label that begins with | is a sequence of units.
    path.write_text("".join(f"{each}\n" for each in lines if not each.startswith("|")), encoding="utf-8")


if __name__ == "__main__":
    folder = Path(__file__).parent / "texts"
    folder.mkdir(exist_ok=True)
    write(folder / "modern.txt", modern, LANGUAGES)
    write(folder / "old.txt", old, OLD_LANGUAGES)
    write(folder / "forms.txt", form, LANGUAGES)
