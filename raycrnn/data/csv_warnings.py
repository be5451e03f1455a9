"""Warnings about CSVs whose contents are valid, but usually a mistake."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from raycrnn import config
from raycrnn.data import bidi
from raycrnn.data.bidi import TextDirection
from raycrnn.data.characters import invisible_characters, name_of
from raycrnn.data.csv_files import CsvFile, Row, split_label, units_of

ROWS_FOR_A_PATTERN = 10
"""Number of labels from which on a common ending is not a coincidence."""

CHARACTERS_PER_WARNING = 5

LABELS_TO_RESTORE = 1000
"""Number of right-to-left labels whose order is checked, which takes up to two milliseconds each."""


def warnings_of(file: CsvFile, settings: config.Data, direction: TextDirection = "visual") -> list[str]:
    """Return the warnings about the labels of a CSV file, whose text runs in a direction."""
    found = (
        _mixed_forms(file.rows, settings.string_split_delimiter),
        _common_ending(file.rows, settings),
        _common_start(file.rows),
        _outer_spaces(file.rows),
        _invisible_characters(file.rows),
        _ambiguous_order(file.rows, settings, direction),
    )
    return [f"{file.path}: {warning}" for warning in found if warning]


def _mixed_forms(rows: Sequence[Row], split_delimiter: str) -> str | None:
    forms = {row.label.startswith(split_delimiter) for row in rows if row.label}
    if len(forms) < 2:
        return None
    return (
        f"some labels begin with {split_delimiter!r} and are split into units there, others are plain text: check that "
        "this is intended (data.string_split_delimiter)"
    )


def _labels(rows: Iterable[Row]) -> list[str]:
    return [row.label for row in rows if row.label]


def _is_pattern(labels: Sequence[str]) -> bool:
    return len(labels) >= ROWS_FOR_A_PATTERN and len(set(labels)) > 1


def _common_ending(rows: Sequence[Row], settings: config.Data) -> str | None:
    labels = _labels(rows)
    if not _is_pattern(labels):
        return None
    units = [split_label(label, settings.string_split_delimiter, settings.unicode_form)[::-1] for label in labels]
    ending = "".join(_common_start_of(units)[::-1])
    if not ending:
        return None
    if not ending.strip(settings.csv_delimiter):
        return f"every label ends in {ending!r}, as if the file had empty columns: delete these columns"
    return f"every label ends in {ending!r}: if the images do not, delete it from the labels"


def _common_start_of(sequences: Sequence[str] | Sequence[tuple[str, ...]]) -> list[str]:
    """Return the items with which all sequences begin."""
    # They are those with which the smallest and the largest sequence begin.
    pairs = zip(min(sequences), max(sequences), strict=False)
    return [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _common_start(rows: Sequence[Row]) -> str | None:
    labels = _labels(rows)
    if not _is_pattern(labels):
        return None
    start = "".join(_common_start_of(labels))
    space = start[: len(start) - len(start.lstrip())]
    if not space:
        return None
    return f"every label begins with {space!r}: if a space follows the delimiter in each row, delete it"


def _outer_spaces(rows: Sequence[Row]) -> str | None:
    labels = len(_labels(rows))
    found = [row.line for row in rows if row.label and row.label != row.label.strip(" ")]
    # That all labels do so is told by `_common_start` or `_common_ending`.
    if not found or len(found) == labels:
        return None
    return (
        f"{len(found):,} of {labels:,} labels begin or end with a space, for example line {found[0]}: delete these "
        "spaces, which nobody can see in an image"
    )


def _invisible_characters(rows: Sequence[Row]) -> str | None:
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for row in rows:
        for character in set(invisible_characters(row.label or "")):
            counts[character] += 1
            first.setdefault(character, row.line)
    if not counts:
        return None
    shown = [
        f"{name_of(character)} ({count:,} {'label' if count == 1 else 'labels'}, the first in line {first[character]})"
        for character, count in counts.most_common(CHARACTERS_PER_WARNING)
    ]
    more = f" and {len(counts) - len(shown)} more" if len(counts) > len(shown) else ""
    return (
        f"labels contain characters that look like a space, or like nothing, in an image: {', '.join(shown)}{more}: "
        "replace or delete them, because the network must learn each as a unit of its own"
    )


def _ambiguous_order(rows: Sequence[Row], settings: config.Data, direction: TextDirection) -> str | None:
    labelled = (row for row in rows if row.label and bidi.RIGHT_TO_LEFT.search(row.label))
    checked = list(itertools.islice(labelled, LABELS_TO_RESTORE))
    lost = [row for row in checked if not _is_restored(units_of(row, settings), direction)]
    if not lost:
        return None
    return (
        f"{len(lost):,} of {len(checked):,} labels with text from right to left mix both directions so that another "
        f"label looks the same in the image, for example line {lost[0].line}: transcriptions of such lines may have "
        f"their words in another order (data.text_direction={direction})"
    )


def _is_restored(units: tuple[str, ...], direction: TextDirection) -> bool:
    shown = bidi.display_order(units, direction)
    return tuple(unit for _, unit in bidi.logical_order(shown, direction)) == units
