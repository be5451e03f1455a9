"""Warnings about CSVs whose contents are valid, but usually a mistake."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raycrnn import config
from raycrnn.data import bidi
from raycrnn.data.bidi import TextDirection
from raycrnn.data.characters import invisible_characters, name_of
from raycrnn.data.csv_files import CsvFile, Row, units_of

ROWS_FOR_A_PATTERN = 10
"""Number of labels from which on a common ending is not a coincidence."""

CHARACTERS_PER_WARNING = 5

REMEDY_FOR_INVISIBLE = "replace or delete them, because the network must learn each as a unit of its own"

LABELS_TO_RESTORE = 1000
"""Number of right-to-left labels whose order is checked, which takes up to two milliseconds each."""


@dataclass(frozen=True)
class LabelWarning:
    """What is probably wrong with some labels of a CSV."""

    kind: str
    """A short name, the same for all CSVs."""
    rows: Sequence[Row]
    """The rows with such labels, in the order of the file."""
    problem: str
    """What is wrong, with the number of labels and an example."""
    remedy: str
    """What to do, or what happens."""

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"


def warnings_of(file: CsvFile, settings: config.Data, direction: TextDirection = "visual") -> list[str]:
    """Return the warnings, as texts, about the labels of a CSV file, whose text runs in a direction."""
    return [f"{file.path}: {warning}" for warning in find_warnings(file, settings, direction)]


def find_warnings(file: CsvFile, settings: config.Data, direction: TextDirection = "visual") -> list[LabelWarning]:
    """Return the warnings about the labels of a CSV file, whose text runs in a direction."""
    found = (
        _mixed_forms(file.rows, settings.string_split_delimiter),
        _common_ending(file.rows, settings),
        _common_start(file.rows),
        _outer_spaces(file.rows),
        _invisible_characters(file.rows),
        _ambiguous_order(file.rows, settings, direction),
    )
    return [warning for warning in found if warning]


def _mixed_forms(rows: Sequence[Row], split_delimiter: str) -> LabelWarning | None:
    forms: dict[bool, list[Row]] = {True: [], False: []}
    for row in rows:
        if row.label:
            forms[row.label.startswith(split_delimiter)].append(row)
    fewer = min(forms.values(), key=len)
    if not fewer:
        return None
    problem = f"some labels begin with {split_delimiter!r} and are split into units there, others are plain text"
    remedy = "check that this is intended (data.string_split_delimiter)"
    return LabelWarning("labels in two forms", fewer, problem, remedy)


def _labelled(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.label]


def _is_pattern(labels: Sequence[str | None]) -> bool:
    return len(labels) >= ROWS_FOR_A_PATTERN and len(set(labels)) > 1


def _common_ending(rows: Sequence[Row], settings: config.Data) -> LabelWarning | None:
    labelled = _labelled(rows)
    if not _is_pattern([row.label for row in labelled]):
        return None
    ending = "".join(_common_start_of([units_of(row, settings)[::-1] for row in labelled])[::-1])
    if not ending:
        return None
    if not ending.strip(settings.csv_delimiter):
        note, remedy = ", as if the file had empty columns", "delete these columns"
    else:
        note, remedy = "", "if the images do not, delete it from the labels"
    return LabelWarning("common ending", labelled, f"every label ends in {ending!r}{note}", remedy)


def common_beginning(rows: Sequence[Row], settings: config.Data) -> str:
    """Return the text with which all labels begin; "" if there is none, or too few labels to tell."""
    labelled = _labelled(rows)
    if not _is_pattern([row.label for row in labelled]):
        return ""
    return "".join(_common_start_of([units_of(row, settings) for row in labelled]))


def _common_start_of(sequences: Sequence[str] | Sequence[tuple[str, ...]]) -> list[str]:
    """Return the items with which all sequences begin."""
    # They are those with which the smallest and the largest sequence begin.
    pairs = zip(min(sequences), max(sequences), strict=False)
    return [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _common_start(rows: Sequence[Row]) -> LabelWarning | None:
    labelled = _labelled(rows)
    labels = [row.label or "" for row in labelled]
    if not _is_pattern(labels):
        return None
    start = "".join(_common_start_of(labels))
    space = start[: len(start) - len(start.lstrip())]
    if not space:
        return None
    remedy = "if a space follows the delimiter in each row, delete it"
    return LabelWarning("common space", labelled, f"every label begins with {space!r}", remedy)


def _outer_spaces(rows: Sequence[Row]) -> LabelWarning | None:
    labels = len(_labelled(rows))
    found = [row for row in rows if row.label and row.label != row.label.strip(" ")]
    # That all labels do so is told by `_common_start` or `_common_ending`.
    if not found or len(found) == labels:
        return None
    problem = f"{len(found):,} of {labels:,} labels begin or end with a space, for example line {found[0].line}"
    return LabelWarning("outer space", found, problem, "delete these spaces, which nobody can see in an image")


def rows_by_invisible_character(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows whose labels contain an invisible character, by character."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for character in dict.fromkeys(invisible_characters(row.label or "")):
            found.setdefault(character, []).append(row)
    return found


def _invisible_characters(rows: Sequence[Row]) -> LabelWarning | None:
    found = rows_by_invisible_character(rows)
    if not found:
        return None
    most = sorted(found.items(), key=lambda item: -len(item[1]))[:CHARACTERS_PER_WARNING]
    shown = [
        f"{name_of(character)} ({len(own):,} {'label' if len(own) == 1 else 'labels'}, the first in line {own[0].line})"
        for character, own in most
    ]
    more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
    problem = (
        f"labels contain characters that look like a space, or like nothing, in an image: {', '.join(shown)}{more}"
    )
    lines = {row.line: row for own in found.values() for row in own}
    return LabelWarning("invisible character", [lines[line] for line in sorted(lines)], problem, REMEDY_FOR_INVISIBLE)


def _ambiguous_order(rows: Sequence[Row], settings: config.Data, direction: TextDirection) -> LabelWarning | None:
    labelled = (row for row in rows if row.label and bidi.RIGHT_TO_LEFT.search(row.label))
    checked = list(itertools.islice(labelled, LABELS_TO_RESTORE))
    lost = [row for row in checked if not _is_restored(units_of(row, settings), direction)]
    if not lost:
        return None
    problem = (
        f"{len(lost):,} of {len(checked):,} labels with text from right to left mix both directions so that another "
        f"label looks the same in the image, for example line {lost[0].line}"
    )
    remedy = f"transcriptions of such lines may have their words in another order (data.text_direction={direction})"
    return LabelWarning("ambiguous order", lost, problem, remedy)


def _is_restored(units: tuple[str, ...], direction: TextDirection) -> bool:
    shown = bidi.display_order(units, direction)
    return tuple(unit for _, unit in bidi.logical_order(shown, direction)) == units
