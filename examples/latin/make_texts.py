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
LINES = 20_000
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

    def draw(self, chance: random.Random) -> str:
        return chance.choices(self.words, cum_weights=self.cumulative)[0]


def modern(words: Words, chance: random.Random) -> str:
    """Return a line of modern spelling."""
    style = chance.random()
    parts = []
    for _ in range(chance.randint(1, 9)):
        word = words.draw(chance)
        if style < 0.08:
            word = word.upper()
        elif style < 0.16 or chance.random() < 0.2:
            word = word[0].upper() + word[1:]
        if chance.random() < 0.05:
            word = number(chance)
        elif chance.random() < 0.03:
            word = f"{word}{chance.choice('-–’')}{words.draw(chance)}"
        if chance.random() < 0.05:
            left, right = chance.choice(QUOTES)
            word = f"{left}{word}{right}"
        if chance.random() < 0.2:
            word += chance.choice(MARKS)
        if chance.random() < 0.03:
            word = chance.choice((f"{word} {chance.choice(SYMBOLS)}", f"{chance.choice(SYMBOLS)} {word}"))
        parts.append(word)
    return " ".join(parts)


def number(chance: random.Random) -> str:
    """Return a number as it occurs in texts: a year, an amount, a date, a time, a share."""
    digits = str(chance.randint(0, 10 ** chance.randint(1, 6)))
    return chance.choice(
        [
            digits,
            str(chance.randint(1500, 2030)),
            f"{digits}{chance.choice('.,')}{chance.randint(0, 99):02}",
            f"{chance.choice('$£€')}{digits}",
            f"{chance.randint(1, 31)}.{chance.randint(1, 12)}.{chance.randint(1600, 2030)}",
            f"{chance.randint(1, 31):02}/{chance.randint(1, 12):02}/{chance.randint(0, 99):02}",
            f"{chance.randint(0, 23)}:{chance.randint(0, 59):02}",
            f"{chance.randint(1, 100)}%",
            f"({digits})",
        ]
    )


def old(words: Words, chance: random.Random) -> str:
    """Return a line of the spelling of old prints, with long s, abbreviations and divided words."""
    parts = []
    for _ in range(chance.randint(2, 8)):
        word = words.draw(chance)
        if chance.random() < 0.15:
            word = word.translate(str.maketrans("jv", "iu")) if chance.random() < 0.5 else word
        if chance.random() < 0.05:
            word = re.sub("([aeiou])[mn](?=[bcdfgpqt])", lambda found: "ãẽĩõũ"["aeiou".index(found[1])], word, count=1)
        # An s within a word is long, except before an apostrophe or a hyphen.
        word = re.sub("s(?=[^\\W\\d_])", "ſ", word)
        if chance.random() < 0.2:
            word = word[0].upper() + word[1:] if word[0] != "ſ" else "S" + word[1:]
        elif chance.random() < 0.04:
            word = word.upper()
        if chance.random() < 0.06:
            word = f"{chance.choice(['l', 'd', 'qu', 'n', 's', 'j', 'L', 'D'])}{chance.choice('’’’' + chr(39))}{word}"
        if chance.random() < 0.25:
            word += chance.choice([",", ",", ",", ".", ".", ";", ":", " ?", " !", " ;", " :"])
        if chance.random() < 0.05:
            word = chance.choice(["&", "&", "&c.", number(chance), "§", "*", "¶", "†"])
        parts.append(word)
    line = " ".join(parts)
    return line + chance.choice(["-", "¬"]) if line[-1].isalpha() and chance.random() < 0.25 else line


def form(words: Words, chance: random.Random) -> str:
    """Return a line of a form, a receipt or a table."""
    word = chance.choice([str.upper, str.title, str.lower])(words.draw(chance))
    other = chance.choice([str.upper, str.title, str.lower])(words.draw(chance))
    if chance.random() < 0.1:
        return f"{letters(words, chance)} {letters(words, chance)}"
    code = "".join(chance.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/.") for _ in range(chance.randint(3, 14)))
    return chance.choice(
        [
            number(chance),
            f"{word}: {number(chance)}",
            f"{word} {number(chance)} {other}",
            f"{number(chance)} x {word}",
            f"{word}@{other.lower()}.{chance.choice(['com', 'org', 'net', 'de', 'fr'])}",
            f"www.{word.lower()}.{chance.choice(['com', 'org', 'eu'])}/{other.lower()}",
            f"TEL: {chance.randint(0, 99):02}-{chance.randint(10**6, 10**8 - 1)}",
            f"+{chance.randint(1, 99)} ({chance.randint(1, 999)}) {chance.randint(10**5, 10**7)}",
            code,
            f"{word} {code}",
            f"{chance.choice(SYMBOLS)} {word} {chance.choice(SYMBOLS)} {other}",
            f"{word} & {other} {chance.choice(['Co.', 'Ltd.', 'SDN BHD', 'GmbH', 'S.A.', 'Inc.'])}",
            f"No. {chance.randint(1, 999)}, {word} {other}",
            f"{word} {chance.choice(['[', '(', '<', '{'])}{code}{chance.choice([']', ')', '>', '}'])}",
        ]
    )


def letters(words: Words, chance: random.Random) -> str:
    """Return a word in which some letters have been replaced, so that rare ones are frequent enough."""
    return "".join(chance.choice(LETTERS) if chance.random() < 0.3 else letter for letter in words.draw(chance))


def write(path: Path, line: Callable[[Words, random.Random], str], languages: tuple[str, ...]) -> None:
    """Write a file of lines of different languages."""
    chance = random.Random(path.name)
    vocabularies = {language: Words(language) for language in languages}
    lines = (line(vocabularies[chance.choice(languages)], chance) for _ in range(LINES))
    path.write_text("".join(f"{each}\n" for each in lines if not each.startswith("|")), encoding="utf-8")


if __name__ == "__main__":
    folder = Path(__file__).parent / "texts"
    folder.mkdir(exist_ok=True)
    write(folder / "modern.txt", modern, LANGUAGES)
    write(folder / "old.txt", old, OLD_LANGUAGES)
    write(folder / "forms.txt", form, LANGUAGES)
