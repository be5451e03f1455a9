"""The units of the labels: rare and unknown ones, look-alikes, and characters that nobody sees."""

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from raycrnn.checking.findings import Finding, Section
from raycrnn.checking.labelled_set import LabelledSet
from raycrnn.config import Data
from raycrnn.data import csv_warnings
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.bidi import TextDirection
from raycrnn.data.characters import invisible_characters, name_of
from raycrnn.data.csv_files import CsvFile, Row, split_label
from raycrnn.data.lookalikes import MARK, look_alikes, skeleton

RARE = 10
"""A unit is rare if it occurs fewer times than this."""

SLIP_SHARE = 0.01
"""Of two units that look alike, one may be a slip if it is rare, or if it occurs less than this often for each
occurrence of the other one. In labels of two scripts, both occur often."""

UNITS_SHOWN = 20

SLIP_RATIO = 20
"""A word may be a slip if a word that looks like it is at least this many times as frequent."""

WORDS_SHOWN = 8

WORD = re.compile(r"(?<=.)\b\w{2,}\b(?![¬=‐-])")
"""A word of two or more letters. At the start of a line, or before a hyphen, it may be a part of a word."""

BYTE_ORDER_MARK = "\ufeff"


def units_section(
    sets: Sequence[LabelledSet],
    alphabet: Alphabet | None,
    direction: TextDirection,
    learned: Collection[str] = (),
) -> Section:
    """Return the section on the units.

    Args:
        sets: The training set and, if there is one, the evaluation set.
        alphabet: The configured alphabet, or None.
        direction: Direction of the labels' text.
        learned: The units of the model that training starts from.
    """
    train, *evaluation = sets
    counts = {each.name: Counter(itertools.chain.from_iterable(each.labels)) for each in sets}
    known = alphabet or train.alphabet
    readable = {*counts["train"], *(unit for unit in learned if known and unit in known)}
    total = sum(counts.values(), Counter())
    suspects = _suspects(total)
    findings = [
        *_rare(train, counts["train"], learned),
        *(finding for each in evaluation for finding in _unknown(each, readable)),
        *_slips(sets, suspects, total),
        *_misspelt(sets, suspects),
        *(finding for each in sets for file in each.files for finding in _of_file(each, file, direction)),
    ]
    most = counts["train"].most_common(UNITS_SHOWN)
    unused = [unit for unit in alphabet.units if unit not in counts["train"]] if alphabet else []
    lines = [f"The most frequent: {_listed(most)}."] if most else []
    if alphabet and unused:
        lines.append(f"{len(unused):,} units of the alphabet are in no training label: {_quoted(unused)}.")
    return Section(
        name="units",
        title="Units",
        summary=f"{len(counts['train']):,}, which occur {counts['train'].total():,} times in the training labels",
        lines=lines,
        findings=findings,
        figures={
            "counts": {name: dict(own.most_common()) for name, own in counts.items()},
            "alphabet": list(known.units) if known else [],
            "not_in_training": unused,
        },
    )


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{unit!r} {count:,}" for unit, count in counts)


def _quoted(units: Sequence[str]) -> str:
    more = f" and {len(units) - UNITS_SHOWN:,} more" if len(units) > UNITS_SHOWN else ""
    return ", ".join(map(repr, units[:UNITS_SHOWN])) + more


def _numbers_with(data_set: LabelledSet, units: Iterable[str]) -> Iterator[int]:
    """Yield the numbers of the usable rows that have one of some units."""
    wanted = set(units)
    pairs = zip(data_set.usable, data_set.labels, strict=True)
    return (number for number, label in pairs if not wanted.isdisjoint(label))


def _rare(train: LabelledSet, counts: Counter[str], learned: Collection[str]) -> Iterator[Finding]:
    rare = [(unit, count) for unit, count in reversed(counts.most_common()) if count < RARE and unit not in learned]
    if not rare:
        return
    first: dict[str, int] = {}
    rows = 0
    units = {unit for unit, _ in rare}
    for number, label in zip(train.usable, train.labels, strict=True):
        own = units.intersection(label)
        rows += bool(own)
        for unit in own:
            first.setdefault(unit, number)
    more = f" and {len(rare) - UNITS_SHOWN:,} more" if len(rare) > UNITS_SHOWN else ""
    yield Finding(
        kind="rare unit",
        rows=rows,
        problem=f"{len(rare):,} of {len(counts):,} units occur fewer than {RARE} times in the training labels: "
        f"{_listed(rare[:UNITS_SHOWN])}{more}",
        remedy="add rows with these units, or correct the labels if they are slips: the network does not learn a unit "
        "from a few examples",
        examples=[train.example(first[unit], f"{unit!r} in {_text(train, first[unit])}") for unit, _ in rare],
        data_set="train",
    )


def _unknown(evaluation: LabelledSet, readable: Collection[str]) -> Iterator[Finding]:
    units = sorted(set().union(*evaluation.labels).difference(readable))
    if not units:
        return
    numbers = list(_numbers_with(evaluation, units))
    yield Finding(
        kind="unit not in training",
        rows=len(numbers),
        problem=f"{len(numbers):,} of {len(evaluation.labels):,} evaluation rows have units that no training row has: "
        f"{_quoted(units)}",
        remedy="add training rows with them: the model cannot learn to read these units, and each counts as an error",
        examples=evaluation.examples(numbers),
        data_set="eval",
    )


def _suspects(counts: Counter[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the units that may be slips, each with the more frequent units that it looks like, and why it does."""
    suspects: dict[str, list[tuple[str, str]]] = {}
    # Invisible characters are findings of their own.
    visible = (unit for unit in counts if unit == " " or not any(invisible_characters(unit)))
    for one, other, why in look_alikes(visible):
        less, more = sorted((one, other), key=lambda unit: counts[unit])
        # A mark and the letter that contains it are two ways to write the same, however frequent both are.
        if MARK in why or counts[less] < max(RARE, SLIP_SHARE * counts[more]):
            suspects.setdefault(less, []).append((more, why))
    return suspects


def _slips(
    sets: Sequence[LabelledSet], suspects: dict[str, list[tuple[str, str]]], counts: Counter[str]
) -> Iterator[Finding]:
    for unit, others in suspects.items():
        numbers = [list(_numbers_with(each, [unit])) for each in sets]
        shown = ", ".join(f"{other!r} ({_names(other)}), {counts[other]:,} ×" for other, _ in others)
        reasons = " and ".join(dict.fromkeys(why for _, why in others))
        yield Finding(
            kind="look-alike",
            rows=sum(map(len, numbers)),
            problem=f"{unit!r} ({_names(unit)}), {counts[unit]:,} ×, looks like {shown}: {reasons}",
            remedy="if it is a slip, correct these labels: to the network, they are different units",
            examples=[example for each, own in zip(sets, numbers, strict=True) for example in each.examples(own)],
        )


def _words(label: tuple[str, ...]) -> list[str]:
    return WORD.findall("".join(label))


def _misspelt(sets: Sequence[LabelledSet], suspects: Collection[str]) -> Iterator[Finding]:
    """Yield a finding if words look like a word that is far more frequent, such as `eft` like `eſt`.

    The units of a look-alike pair may both be frequent, as in old print with a long s; then only words show a slip. The
    units that are suspects by themselves are findings already.
    """
    counts = Counter(word for each in sets for label in each.labels for word in _words(label))
    groups: dict[str, list[str]] = {}
    for word in counts:
        if not any(unit in word for unit in suspects):
            groups.setdefault(skeleton(word), []).append(word)
    meant: dict[str, str] = {}
    for group in groups.values():
        usual = max(group, key=lambda word: (counts[word], word))
        others = [word for word in group if SLIP_RATIO * counts[word] <= counts[usual] and word != usual]
        meant |= dict.fromkeys(others, usual)
    if not meant:
        return
    examples, rows = [], 0
    for each in sets:
        for number, label in zip(each.usable, each.labels, strict=True):
            if slip := next((word for word in _words(label) if word in meant), None):
                rows += 1
                examples.append(each.example(number, f"{slip!r} in {_text(each, number)}"))
    most = sorted(meant, key=lambda word: (-counts[meant[word]], word))
    shown = [f"{word!r} {counts[word]:,} × and {meant[word]!r} {counts[meant[word]]:,} ×" for word in most]
    more = f" and {len(shown) - WORDS_SHOWN:,} more" if len(shown) > WORDS_SHOWN else ""
    yield Finding(
        kind="look-alike word",
        rows=rows,
        problem=f"{len(meant):,} {'word looks' if len(meant) == 1 else 'words look'} like a far more frequent word: "
        + ", ".join(shown[:WORDS_SHOWN])
        + more,
        remedy="if the frequent word is meant, correct these labels",
        examples=examples,
    )


def _text(data_set: LabelledSet, number: int) -> str:
    return "".join(data_set.units(number))


def _names(unit: str) -> str:
    return ", ".join(map(name_of, unit))


def _of_file(data_set: LabelledSet, file: CsvFile, direction: TextDirection) -> Iterator[Finding]:
    """Yield what is unusual about the labels of a CSV, whether the rows are used or not."""

    def found(kind: str, rows: Sequence[Row], problem: str, remedy: str) -> Finding:
        numbers = (data_set.number(file, row.line) for row in rows)
        place = f"{file.path}: " if len(data_set.files) > 1 else ""
        return Finding(kind, len(rows), place + problem, remedy, data_set.examples(numbers), data_set.name)

    settings = data_set.configuration.data
    warnings = csv_warnings.find_warnings(file, settings, direction)
    for warning in warnings:
        if warning.kind != "invisible character":
            yield found(warning.kind, warning.rows, warning.problem, warning.remedy)
    beginning = csv_warnings.common_beginning(file.rows, settings)
    if beginning.strip():
        remedy = "if the images do not, delete it from the labels"
        yield found(
            "common beginning",
            [row for row in file.rows if row.label],
            f"every label begins with {beginning!r}",
            remedy,
        )
    for character, rows in csv_warnings.rows_by_invisible_character(file.rows).items():
        if character != BYTE_ORDER_MARK:
            problem = f"{name_of(character)}, which looks like a space, or like nothing, in {_labels(len(rows))}"
            yield found("invisible character", rows, problem, csv_warnings.REMEDY_FOR_INVISIBLE)
    marked = [row for row in file.rows if BYTE_ORDER_MARK in row.path or BYTE_ORDER_MARK in (row.label or "")]
    if marked:
        problem = f"{name_of(BYTE_ORDER_MARK)}, the byte order mark of UTF-8, in line {marked[0].line}"
        yield found("byte order mark", marked, problem, "delete it: files were joined, and it began one of them")
    spaced = [row for row in file.rows if row.label and _has_repeated_space(row.label, settings)]
    if spaced:
        problem = f"{_labels(len(spaced))} with two spaces in a row"
        yield found("repeated space", spaced, problem, "write one space, unless the distance means something")


def _labels(count: int) -> str:
    return f"{count:,} label{'s' * (count != 1)}"


def _has_repeated_space(label: str, settings: Data) -> bool:
    if not label.startswith(settings.string_split_delimiter):
        return "  " in label
    units = split_label(label, settings.string_split_delimiter, settings.unicode_form)
    return any(one == other == " " for one, other in itertools.pairwise(units))
