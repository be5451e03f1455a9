"""List the training rows whose labels are likely wrong, as a CSV and as a page with their images."""

import csv
from collections.abc import Sequence
from pathlib import Path

from raycrnn import __version__, storage
from raycrnn.data.orientation import LineOrientation
from raycrnn.evaluation import alignment, page
from raycrnn.evaluation.pictures import Album
from raycrnn.folds.out_of_fold import OutOfFoldLine

CSV, PAGE = "suspects.csv", "suspects.html"

COLUMNS = ("csv", "line", "path", "label", "reading", "score", "confidence", "fold")

MAX_LINES = 100
"""Lines on the page. suspects.csv contains all."""


def by_suspicion(lines: Sequence[OutOfFoldLine]) -> list[OutOfFoldLine]:
    """Return all lines, those whose labels are most likely wrong first."""
    return sorted(lines, key=lambda each: (-each.score, -each.line.counts.unit_edits, each.line.csv, each.line.number))


def write(folder: Path, lines: Sequence[OutOfFoldLine], orientation: LineOrientation) -> None:
    """Write suspects.csv, with one row for each line, and suspects.html.

    Args:
        folder: The output directory of the run.
        lines: The lines, most suspicious first.
        orientation: How the lines run in the images. Those that stand upright are turned on the page.

    Raises:
        OSError: They cannot be written.
    """
    with (
        storage.replacing_file(folder / CSV) as path,
        path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for each in lines:
            line = each.line
            texts = "".join(line.reference), "".join(line.units)
            numbers = f"{each.score:.4f}", f"{line.confidence:.4f}", each.fold
            writer.writerow([line.csv, line.number, line.path, *texts, *numbers])
    storage.write_text(folder / PAGE, render(lines, orientation))


def render(lines: Sequence[OutOfFoldLine], orientation: LineOrientation = "horizontal") -> str:
    """Return the page as HTML."""
    template = page.template("raycrnn.folds")
    template.globals["align"] = alignment.align
    album = Album(orientation=orientation)
    wrong = [each for each in lines if each.line.counts.unit_edits]
    return template.render(
        rows=len(lines),
        wrong=len(wrong),
        csvs={each.line.csv for each in lines},
        shown=[(each, album.full(each.line.place)) for each in wrong[:MAX_LINES]],
        version=__version__,
    )
