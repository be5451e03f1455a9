"""The report of an evaluation: a self-contained HTML page, all lines as CSV, and the scores as JSON."""

import csv
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from raycrnn import __version__, storage
from raycrnn.data import image, rejections
from raycrnn.data.rejections import Rejected
from raycrnn.evaluation import alignment, analysis, report_files
from raycrnn.evaluation.alignment import Aligned
from raycrnn.evaluation.analysis import CONFIDENT, Comparison, EvaluatedLine, Evaluation, Example
from raycrnn.evaluation.figures import render_figures
from raycrnn.evaluation.pictures import CONTEXT, Album, Picture
from raycrnn.metrics import reliability

MOST_LINES = 40
"""Worst lines on the page. lines.csv contains all lines."""

MOST_APART = 20
"""Lines on the page on which two models differ."""

MOST_CONFUSIONS = 40
"""Confusions on the page. report.json contains all."""

MOST_UNKNOWN = 100
"""Units missing from the alphabet on the page. report.json contains all."""

MOST_MEASURED = 2000
"""Images whose size is measured. Of more lines an even selection is measured."""


def write(folder: Path, found: Evaluation | Comparison) -> None:
    """Write the files of the report into a directory. Raises `RaycrnnError` if they cannot be written."""
    own = found.model if isinstance(found, Comparison) else found
    figures = json.dumps(_as_json(found, own), indent=2, ensure_ascii=False)
    page = render(found)
    with report_files.translate_write_errors(str(folder.parent)):
        _write_lines(folder / "lines.csv", found)
        rejections.write_rejected(folder / "rejected.csv", own.rejections)
        for name, text in {"report.json": figures, "index.html": page}.items():
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def _write_lines(path: Path, found: Evaluation | Comparison) -> None:
    """Write lines.csv: RFC 4180 with a header and one row per line, worst first."""
    evaluations = [found.model, found.other] if isinstance(found, Comparison) else [found]
    readings = zip(*(each.lines for each in evaluations), strict=True)
    columns = ["csv", "line", "path", "reference", "transcription", "edits", "units", "confidence"]
    if len(evaluations) > 1:
        columns += ["other_transcription", "other_edits", "other_confidence"]
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for own, *others in sorted(readings, key=lambda lines: lines[0].badness, reverse=True):
            row = [own.csv, own.number, own.path, "".join(own.reference), "".join(own.units), own.counts.unit_edits]
            row += [own.counts.units, f"{own.confidence:.4f}"]
            for other in others:
                row += ["".join(other.units), other.counts.unit_edits, f"{other.confidence:.4f}"]
            writer.writerow(row)


def _as_json(found: Evaluation | Comparison, own: Evaluation) -> dict:
    pairs = [{"reference": each.reference, "read": each.read, "count": each.count} for each in own.confusions]
    lengths = [
        {"least": each.least, "most": each.most, "cer": each.counts.cer, "accuracy": each.counts.accuracy}
        | {"samples": each.counts.samples, "intervals": {key: asdict(of) for key, of in each.intervals.items()}}
        for each in own.by_length
    ]
    return {
        "model": own.model.name,
        **found.as_json(),
        "by_length": lengths,
        "spaces": asdict(own.spaces),
        "confusions": pairs,
        "reliability": [asdict(each) for each in own.reliability],
        "unknown_units": dict(own.unknown_units.most_common()),
    }


def render(found: Evaluation | Comparison) -> str:
    """Return the page as HTML."""
    comparison = found if isinstance(found, Comparison) else None
    own = found.model if isinstance(found, Comparison) else found
    template = resources.files("raycrnn.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "interval": analysis.show_interval,
        "difference": analysis.show_difference,
        "percent": lambda value: f"{100 * value:.2f} %",
        "p": analysis.show_p,
        "visible": alignment.visible,
        "align": alignment.align,
    }
    album = Album()
    wrong = [line for line in own.worst if line.counts.unit_edits]
    shown = own.confusions[:MOST_CONFUSIONS]
    return environment.from_string(template).render(
        script=get_plotlyjs(),
        figures={name: figure.to_json() for name, figure in render_figures(found).items()},
        own=own,
        names=analysis.NAMES,
        comparison=comparison,
        evaluations=[own, comparison.other] if comparison else [own],
        calibration_error=reliability.calibration_error(own.reliability),
        lengths=own.by_length,
        spaces=own.spaces,
        wrong=len(wrong),
        worst=[(line, album.full(line)) for line in wrong[:MOST_LINES]],
        confusions=[(each, [_show_example(album, example) for example in each.examples]) for each in shown],
        kinds=len(own.confusions),
        shown_edits=sum(each.count for each in shown),
        apart=[(pair, album.full(pair[0])) for pair in comparison.apart[:MOST_APART]] if comparison else [],
        csvs=Counter(line.csv for line in own.lines),
        facts=data_facts(own),
        unknown_units=own.unknown_units.most_common(MOST_UNKNOWN),
        reasons=Counter(each.reason for each in own.rejections),
        confident=CONFIDENT,
        version=__version__,
    )


def data_facts(own: Evaluation) -> dict[str, str]:
    """Return the lengths of labels and the sizes of images."""
    facts = {"units in a label": _range([len(line.reference) for line in own.lines])}
    sizes = _sizes(own.lines)
    if sizes:
        height, greatest_width = own.model.input_shape
        wide = sum(round(size[0] * height / size[1]) > greatest_width for size in sizes)
        facts["width of images"] = f"{_range([size[0] for size in sizes])} pixels"
        facts["height of images"] = f"{_range([size[1] for size in sizes])} pixels"
        text = f"{wide:,} of {len(sizes):,} measured"
        facts["wider than the model's input"] = f"{text}, compressed to fit" if wide else text
    return facts


def _range(values: Sequence[int]) -> str:
    return f"{min(values):,} to {max(values):,}, median {statistics.median_low(values):,}"


def _sizes(lines: Sequence[EvaluatedLine]) -> list[tuple[int, int]]:
    """Return width and height of local images, in pixels."""
    sizes = []
    for line in lines[:: -(-len(lines) // MOST_MEASURED)]:
        with suppress(Rejected):
            sizes += [] if storage.is_uri(line.place) else [image.measure(line.place)]
    return sizes


def _show_example(album: Album, example: Example) -> tuple[Aligned, Picture | None, EvaluatedLine]:
    around = max(0, example.step - CONTEXT), example.step + CONTEXT + 1
    return alignment.align(example.line, *around), album.crop(example), example.line
