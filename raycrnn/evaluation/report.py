"""The report of an evaluation: a self-contained HTML page, all lines as CSV, and the scores as JSON."""

import csv
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from plotly.offline import get_plotlyjs

from raycrnn import __version__, storage
from raycrnn.data import image, rejections
from raycrnn.data.orientation import horizontal_size
from raycrnn.data.rejections import Rejected
from raycrnn.data.unusual_images import is_compressed
from raycrnn.evaluation import alignment, analysis, page, report_files
from raycrnn.evaluation.alignment import Aligned
from raycrnn.evaluation.analysis import CONFIDENT, Comparison, EvaluatedLine, Evaluation, Example
from raycrnn.evaluation.figures import render_figures
from raycrnn.evaluation.pictures import CONTEXT, Album, Picture
from raycrnn.metrics import reliability

MAX_LINES = 40
"""Worst lines on the page. lines.csv contains all lines."""

MAX_APART = 20
"""Lines on the page on which two models differ."""

MAX_CONFUSIONS = 40
"""Confusions on the page. report.json contains all."""

MAX_UNKNOWN = 100
"""Units missing from the alphabet on the page. report.json contains all."""

MAX_MEASURED = 2000
"""Images whose size is measured. Of more lines an even selection is measured."""


def write(folder: Path, result: Evaluation | Comparison) -> None:
    """Write the files of the report into a directory. Raises `RaycrnnError` if they cannot be written."""
    evaluation = result.model if isinstance(result, Comparison) else result
    figures = json.dumps(_as_json(result, evaluation), indent=2, ensure_ascii=False)
    html = render(result)
    with report_files.translate_write_errors(str(folder.parent)):
        _write_lines(folder / "lines.csv", result)
        rejections.write_rejected(folder / "rejected.csv", evaluation.rejections)
        for name, text in {"report.json": figures, "index.html": html}.items():
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def _write_lines(path: Path, result: Evaluation | Comparison) -> None:
    """Write lines.csv: RFC 4180 with a header and one row per line, worst first."""
    evaluations = [result.model, result.other] if isinstance(result, Comparison) else [result]
    readings = zip(*(each.lines for each in evaluations), strict=True)
    columns = ["csv", "line", "path", "reference", "transcription", "edits", "units", "confidence"]
    if len(evaluations) > 1:
        columns += ["other_transcription", "other_edits", "other_confidence"]
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for line, *others in sorted(readings, key=lambda readings: readings[0].badness, reverse=True):
            row = [
                line.csv,
                line.number,
                line.path,
                "".join(line.reference),
                "".join(line.units),
                line.counts.unit_edits,
            ]
            row += [line.counts.units, f"{line.confidence:.4f}"]
            for other in others:
                row += ["".join(other.units), other.counts.unit_edits, f"{other.confidence:.4f}"]
            writer.writerow(row)


def _as_json(result: Evaluation | Comparison, evaluation: Evaluation) -> dict:
    pairs = [{"reference": each.reference, "read": each.read, "count": each.count} for each in evaluation.confusions]
    lengths = [
        {"least": each.least, "most": each.most, "cer": each.counts.cer, "accuracy": each.counts.accuracy}
        | {
            "samples": each.counts.samples,
            "intervals": {key: asdict(interval) for key, interval in each.intervals.items()},
        }
        for each in evaluation.by_length
    ]
    return {
        "model": evaluation.model.name,
        **result.as_json(),
        "by_length": lengths,
        "spaces": asdict(evaluation.spaces),
        "confusions": pairs,
        "reliability": [asdict(each) for each in evaluation.reliability],
        "unknown_units": dict(evaluation.unknown_units.most_common()),
    }


def render(result: Evaluation | Comparison) -> str:
    """Return the page as HTML."""
    comparison = result if isinstance(result, Comparison) else None
    evaluation = result.model if isinstance(result, Comparison) else result
    template = page.template("raycrnn.evaluation")
    template.globals.update(
        {
            "interval": analysis.show_interval,
            "difference": analysis.show_difference,
            "percent": lambda value: f"{100 * value:.2f} %",
            "p": analysis.show_p,
            "align": alignment.align,
        }
    )
    album = Album(orientation=evaluation.model.orientation)
    wrong = [line for line in evaluation.worst if line.counts.unit_edits]
    shown = evaluation.confusions[:MAX_CONFUSIONS]
    return template.render(
        script=get_plotlyjs(),
        figures={name: figure.to_json() for name, figure in render_figures(result).items()},
        evaluation=evaluation,
        names=analysis.NAMES,
        comparison=comparison,
        evaluations=[evaluation, comparison.other] if comparison else [evaluation],
        calibration_error=reliability.calibration_error(evaluation.reliability),
        lengths=evaluation.by_length,
        spaces=evaluation.spaces,
        wrong=len(wrong),
        worst=[(line, album.full(line.place)) for line in wrong[:MAX_LINES]],
        confusions=[(each, [_show_example(album, example) for example in each.examples]) for each in shown],
        kinds=len(evaluation.confusions),
        shown_edits=sum(each.count for each in shown),
        apart=[(pair, album.full(pair[0].place)) for pair in comparison.apart[:MAX_APART]] if comparison else [],
        csvs=Counter(line.csv for line in evaluation.lines),
        facts=data_facts(evaluation),
        unknown_units=evaluation.unknown_units.most_common(MAX_UNKNOWN),
        reasons=Counter(each.reason for each in evaluation.rejections),
        confident=CONFIDENT,
        version=__version__,
    )


def data_facts(evaluation: Evaluation) -> dict[str, str]:
    """Return the lengths of labels and the sizes of images."""
    facts = {"units in a label": _range([len(line.reference) for line in evaluation.lines])}
    sizes = _sizes(evaluation.lines)
    if sizes:
        model = evaluation.model
        wide = sum(is_compressed(horizontal_size(size, model.orientation), model.input_shape) for size in sizes)
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
    for line in lines[:: -(-len(lines) // MAX_MEASURED)]:
        with suppress(Rejected):
            sizes += [] if storage.is_uri(line.place) else [image.measure(line.place)]
    return sizes


def _show_example(album: Album, example: Example) -> tuple[Aligned, Picture | None, EvaluatedLine]:
    around = max(0, example.step - CONTEXT), example.step + CONTEXT + 1
    return alignment.align(example.line, *around), album.crop(example), example.line
