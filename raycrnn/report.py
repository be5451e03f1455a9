"""The report of an evaluation: a page with all that it needs and no network, every line as CSV, the figures as JSON."""

import base64
import csv
import fcntl
import io
import itertools
import json
import os
import shutil
import statistics
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import jinja2
import PIL.Image
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from raycrnn import __version__, config, evaluation, image, journal, metrics, storage
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.evaluation import CONFIDENT, Comparison, Evaluation, Example, Line, Pair
from raycrnn.inputs import is_one_of
from raycrnn.metrics import Step
from raycrnn.samples import Rejected

MOST_LINES = 40
"""of the worst lines on the page; lines.csv has them all"""

MOST_APART = 20
"""of the lines on which two models differ"""

MOST_CONFUSIONS = 40
"""on the page; report.json has them all"""

MOST_UNKNOWN = 100
"""of the units that an alphabet lacks, on the page; report.json has them all"""

MOST_MEASURED = 2000
"""Images whose header is opened for their size; of more lines an even choice."""

HEIGHT, WIDTH = 64, 1200
"""of a picture on the page, at most, in pixels"""

LEAST_HEIGHT = 32
"""that a picture is shown with, in pixels: a lower one is enlarged"""

MOST_BYTES = 900_000
"""of all pictures together: with Plotly, which takes most of it, the page stays below 6 MB."""

CONTEXT = 2
"""Units on either side of an edit in its example's picture."""

MODEL_COLOUR, OTHER_COLOUR = "#2f6db3", "#d1495b"


# --- files

FILES = ("index.html", "lines.csv", "rejected.csv", "report.json")

TEMPORARY = ".report."
"""What the names begin with of folders in which reports are made."""


@contextmanager
def directory(name: str, overwrite: bool, inputs: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to write a report to, whose files take their place when the block ends without an error.

    Args:
        inputs: files that are read, and never replaced.

    Raises:
        UsageError: the place is taken, by then or at the end; or it cannot be written to.
        RaycrnnError: the files cannot be put in their place.
    """
    path = Path(name).resolve()
    try:
        _check_free(name, path, overwrite, inputs)
        temporary, lock = _make_temporary(path)
    except OSError as error:
        raise UsageError(f"{name}: cannot be written: {error.strerror}") from None
    try:
        yield temporary
        with _told(name):
            _check_free(name, path, overwrite, inputs)
            _move(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def check_free_in_storage(place: storage.Directory, overwrite: bool, inputs: Sequence[str]) -> None:
    """Raises `UsageError` if something is in a directory of object storage that is not to be replaced."""
    held = place.entries()
    # With what it says of itself the copy here is judged as a directory on a disk is.
    place.fetch("report.json")
    if held and not overwrite:
        raise UsageError(f"{place}: already there and not empty; --overwrite replaces a report")
    if held and "report.json" not in held:
        raise UsageError(f"{place}: holds no report that --overwrite could replace, but other files; name another one")
    for file in FILES:
        if is_one_of(storage.join(str(place), file), inputs):
            raise UsageError(f"{place}: {file} in it is one of the CSVs that are read; name another directory")


def _check_free(name: str, path: Path, overwrite: bool, inputs: Sequence[str]) -> None:
    """Raises `UsageError` if something is there that is not to be replaced."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{name}: is a file; name a directory for the report")
    for file in FILES:
        if is_one_of(path / file, inputs):
            raise UsageError(f"{name}: {file} in it is one of the CSVs that are read; name another directory")
    if not path.is_dir() or all(entry.name.startswith(TEMPORARY) for entry in path.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{name}: already there and not empty; --overwrite replaces the report in it")
    if not _is_report(path / "report.json"):
        raise UsageError(f"{name}: holds no report that --overwrite could replace, but other files; name another one")


def _is_report(path: Path) -> bool:
    """Whether a report.json is one of ours."""
    try:
        return {"model", "cer", "confusions"} <= config.read_json_object(path).keys()
    except UsageError:
        return False


def _make_temporary(path: Path) -> tuple[Path, int]:
    """A folder to make a report in, and what holds it. Those that killed commands left are deleted."""
    # In the directory itself if it is there, whose neighbourhood may not be ours to write to.
    parent, prefix = (path, TEMPORARY) if path.is_dir() else (path.parent, f"{TEMPORARY}{path.name}.")
    parent.mkdir(parents=True, exist_ok=True)
    for entry in parent.iterdir():
        if entry.name.startswith(prefix) and entry.is_dir():
            _delete_if_left(entry)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    # It may become the report itself, which is not to be for its maker's eyes alone.
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o777 & ~mask)
    return temporary, _lock(temporary)


def _lock(folder: Path) -> int:
    """Hold a folder until the descriptor is closed. Raises `BlockingIOError` if another command does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _delete_if_left(folder: Path) -> None:
    with suppress(OSError):
        lock = _lock(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What the system refuses is an error that names the report."""
    try:
        yield
    except OSError as error:
        raise RaycrnnError(f"{name}: the report cannot be written: {error.strerror}") from None


def _move(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    # What else the directory holds is the user's.
    for file in temporary.iterdir():
        file.replace(path / file.name)


def write(folder: Path, found: Evaluation | Comparison) -> None:
    """Write `FILES`. Raises `RaycrnnError`, as on a full disk."""
    own = found.model if isinstance(found, Comparison) else found
    figures = json.dumps(_as_json(found, own), indent=2, ensure_ascii=False)
    page = render(found)
    with _told(str(folder.parent)):
        _write_lines(folder / "lines.csv", found)
        journal.write_rejected(folder / "rejected.csv", own.rejections)
        for name, text in {"report.json": figures, "index.html": page}.items():
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def _write_lines(path: Path, found: Evaluation | Comparison) -> None:
    """Comma-separated (RFC 4180), a header, one row a line, worst first."""
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


# --- the page


def render(found: Evaluation | Comparison) -> str:
    """The page as HTML."""
    comparison = found if isinstance(found, Comparison) else None
    own = comparison.model if comparison else found
    template = resources.files("raycrnn").joinpath("templates/report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "interval": evaluation.show_interval,
        "difference": evaluation.show_difference,
        "percent": lambda value: f"{100 * value:.2f} %",
        "p": evaluation.show_p,
        "visible": visible,
        "align": align,
    }
    album = Album()
    wrong = [line for line in own.worst if line.counts.unit_edits]
    shown = own.confusions[:MOST_CONFUSIONS]
    return environment.from_string(template).render(
        script=get_plotlyjs(),
        figures={name: figure.to_json() for name, figure in _figures(found).items()},
        own=own,
        names=evaluation.NAMES,
        comparison=comparison,
        evaluations=[own, comparison.other] if comparison else [own],
        calibration_error=metrics.calibration_error(own.reliability),
        lengths=own.by_length,
        spaces=own.spaces,
        wrong=len(wrong),
        worst=[(line, album.whole(line)) for line in wrong[:MOST_LINES]],
        confusions=[(each, [_show_example(album, example) for example in each.examples]) for each in shown],
        kinds=len(own.confusions),
        shown_edits=sum(each.count for each in shown),
        apart=[(pair, album.whole(pair[0])) for pair in comparison.apart[:MOST_APART]] if comparison else [],
        csvs=Counter(line.csv for line in own.lines),
        facts=data_facts(own),
        unknown_units=own.unknown_units.most_common(MOST_UNKNOWN),
        reasons=Counter(each.reason for each in own.rejections),
        confident=CONFIDENT,
        version=__version__,
    )


def data_facts(own: Evaluation) -> dict[str, str]:
    """Lengths of labels and sizes of images."""
    facts = {"units in a label": _range([len(line.reference) for line in own.lines])}
    sizes = _sizes(own.lines)
    if sizes:
        height, greatest_width = own.model.input_shape
        wide = sum(round(size[0] * height / size[1]) > greatest_width for size in sizes)
        facts["width of images"] = f"{_range([size[0] for size in sizes])} pixels"
        facts["height of images"] = f"{_range([size[1] for size in sizes])} pixels"
        facts["wider than the model takes"] = f"{wide:,} of {len(sizes):,} measured" + (", squeezed" if wide else "")
    return facts


def _range(values: Sequence[int]) -> str:
    return f"{min(values):,} to {max(values):,}, median {statistics.median_low(values):,}"


def _sizes(lines: Sequence[Line]) -> list[tuple[int, int]]:
    """Width and height of local images, in pixels."""
    sizes = []
    for line in lines[:: -(-len(lines) // MOST_MEASURED)]:
        with suppress(Rejected):
            sizes += [] if storage.is_uri(line.place) else [image.measure(line.place)]
    return sizes


# --- a line beside its reference


@dataclass(frozen=True)
class Cell:
    """A piece of the reference above what was read for it."""

    kind: str
    """same, replaced, missed, inserted"""
    reference: str
    read: str
    several: bool = False
    """whether it is a unit of several characters"""

    @property
    def text(self) -> str:
        return self.reference or self.read


@dataclass(frozen=True)
class Aligned:
    """Cells in reading order."""

    direction: str
    """ltr or rtl"""
    groups: tuple[tuple[bool, tuple[Cell, ...]], ...]
    """runs of cells; whether they run against the direction, as digits do in Hebrew"""


def align(line: Line, first: int = 0, end: int | None = None) -> Aligned:
    """The steps of a line's alignment, from the first to before the end."""
    cells = list(_cells(line, line.steps()[first:end]))
    strong = [direction for cell in cells if (direction := _direction(cell.text, ("L",)))]
    direction = strong[0] if strong else "ltr"
    against = _against([_direction(cell.text) for cell in cells], direction)
    grouped = itertools.groupby(zip(against, cells, strict=True), key=lambda pair: pair[0])
    return Aligned(direction, tuple((turned, tuple(cell for _, cell in own)) for turned, own in grouped))


def _cells(line: Line, steps: Sequence[Step]) -> Iterator[Cell]:
    """A cell a word or space of what is right, one a unit of what is wrong or of several characters."""
    run: list[str] = []
    for step in steps:
        pair = reference, _ = line.pair(step)
        if step.equal and not _several(reference) and not reference.isspace():
            run.append(reference)
            continue
        if run:
            yield _same(run)
            run = []
        yield _same([reference]) if step.equal else _wrong(pair)
    if run:
        yield _same(run)


def _same(run: Sequence[str]) -> Cell:
    text = visible("".join(run))
    return Cell("same", text, text, several=len(run) == 1 and _several(run[0]))


def _wrong(pair: Pair) -> Cell:
    reference, read = pair
    kind = "missed" if read is None else "inserted" if reference is None else "replaced"
    texts = ("" if unit is None else visible(unit, spaces=True) for unit in pair)
    return Cell(kind, *texts, several=any(unit is not None and _several(unit) for unit in pair))


def _several(unit: str) -> bool:
    """Whether a unit is more than one character with its marks."""
    return sum(not unicodedata.category(character).startswith("M") for character in unit) > 1


def visible(text: str, spaces: bool = False) -> str:
    """Text to show: control characters by their numbers, a leading mark on a dotted circle.

    Args:
        spaces: whether spaces and what else has no ink are to be seen.
    """
    shown = "".join(_picture(character, spaces) for character in text)
    return f"◌{shown}" if unicodedata.category(shown[:1] or " ").startswith("M") else shown


def _picture(character: str, spaces: bool) -> str:
    if spaces and character == " ":
        return "␣"
    inkless = ("Cc", "Zs", "Zl", "Zp", "Cf") if spaces else ("Cc",)
    return f"U+{ord(character):04X}" if unicodedata.category(character) in inkless else character


def _direction(text: str, left_to_right: Sequence[str] = ("L", "EN", "AN")) -> str | None:
    """That of the first character that has one."""
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in ("R", "AL"):
            return "rtl"
        if kind in left_to_right:
            return "ltr"
    return None


def _against(directions: Sequence[str | None], base: str) -> list[bool]:
    """Which pieces run against the base direction; what has none belongs to them if it stands between two of them."""
    against, last = [False] * len(directions), None
    for place, direction in enumerate(directions):
        if direction == base:
            last = None
        elif direction:
            first = place if last is None else last
            against[first : place + 1] = [True] * (place + 1 - first)
            last = place
    return against


# --- pictures


@dataclass(frozen=True)
class Picture:
    uri: str
    width: int
    """as shown, in pixels"""
    height: int
    mark: tuple[float, float] | None = None
    """where a mark begins and how wide it is, in percent of the width"""


class Album:
    """Pictures for a page, as data URIs, until they take too much of it together."""

    def __init__(self, most_bytes: int = MOST_BYTES):
        self._left = most_bytes

    def whole(self, line: Line) -> Picture | None:
        """None if it cannot be read any more, or there is no room."""
        upright = _open(line)
        return upright and self._add(upright)

    def crop(self, example: Example) -> Picture | None:
        """An edit and what is around it, marked."""
        upright = _open(example.line)
        if upright is None:
            return None
        left, right, *mark = columns(example, upright.width)
        share = 100 / (right - left)
        return self._add(
            upright.crop((left, 0, right, upright.height)), ((mark[0] - left) * share, (mark[1] - mark[0]) * share)
        )

    def _add(self, picture: PIL.Image.Image, mark: tuple[float, float] | None = None) -> Picture | None:
        picture.thumbnail((WIDTH, HEIGHT))
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=60)
        uri = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
        if len(uri) > self._left:
            return None
        self._left -= len(uri)
        scale = max(1.0, LEAST_HEIGHT / picture.height)
        return Picture(uri, round(scale * picture.width), round(scale * picture.height), mark)


def _open(line: Line) -> PIL.Image.Image | None:
    try:
        return image.decode(image.read_bytes(line.place), channels=3)
    except Rejected:
        return None


def columns(example: Example, width: int) -> tuple[int, int, int, int]:
    """The columns [left, right) of an edit with its context in an image of a width, and those of the edit itself."""
    spans = [] if example.line.spans is None else example.line.spans.tolist()
    if not spans:
        return 0, width, 0, width
    steps = example.line.steps()
    place = steps[example.step].hypothesis
    if place is None:
        # Between the unit before it and the one after: from the middle of the one to the middle of the other.
        after = sum(step.hypothesis is not None for step in steps[: example.step])
        middles = [sum(span) // 2 for span in spans]
        mark = (middles[after - 1] if after else 0, middles[after] if after < len(spans) else width)
        first, last = after - CONTEXT, after + CONTEXT - 1
    else:
        mark, first, last = spans[place], place - CONTEXT, place + CONTEXT
    left, right = spans[max(first, 0)][0], spans[min(last, len(spans) - 1)][1]
    left, right = min(left, mark[0], width - 1), min(max(right, mark[1], left + 1), width)
    return left, right, mark[0], mark[1]


def _show_example(album: Album, example: Example) -> tuple[Aligned, Picture | None, Line]:
    around = max(0, example.step - CONTEXT), example.step + CONTEXT + 1
    return align(example.line, *around), album.crop(example), example.line


# --- figures


def _figures(found: Evaluation | Comparison) -> dict[str, go.Figure]:
    own = [("model", found)]
    if isinstance(found, Comparison):
        own = [("model", found.model), ("other", found.other)]
    figures = {"reliability": _reliability(own), "coverage": _coverage(own)}
    for figure in figures.values():
        figure.update_layout(
            template="plotly_white",
            margin={"l": 55, "r": 15, "t": 30, "b": 50},
            font={"family": "system-ui, sans-serif", "size": 13},
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
            showlegend=len(own) > 1,
        )
    return figures


def _reliability(named: Sequence[tuple[str, Evaluation]]) -> go.Figure:
    """The share of exact transcriptions by confidence, above how many there are."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100],
        y=[0, 100],
        mode="lines",
        line={"color": "#888888", "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    for (name, own), colour in zip(named, (MODEL_COLOUR, OTHER_COLOUR), strict=False):
        bins = own.reliability
        figure.add_bar(
            x=[50 * (each.low + each.high) for each in bins],
            y=[each.samples for each in bins],
            marker={"color": colour, "opacity": 0.35},
            yaxis="y2",
            showlegend=False,
            hovertemplate="%{y:,} transcriptions<extra></extra>",
        )
        figure.add_scatter(
            x=[100 * each.confidence for each in bins],
            y=[100 * each.exact for each in bins],
            mode="lines+markers",
            name=name,
            line={"color": colour},
            marker={"size": 8},
            hovertemplate="confidence %{x:.1f} %: %{y:.1f} % exact<extra></extra>",
        )
    figure.update_layout(
        xaxis={"title": "confidence, %", "range": [-2, 102], "anchor": "y2"},
        yaxis={"title": "exact, %", "range": [-3, 103], "domain": [0.34, 1]},
        yaxis2={"title": "how many", "domain": [0, 0.24], "nticks": 4, "rangemode": "tozero"},
        bargap=0.1,
    )
    return figure


def _coverage(named: Sequence[tuple[str, Evaluation]]) -> go.Figure:
    """The share that is exact of those above a confidence, over the share that they are of all."""
    figure = go.Figure()
    for (name, own), colour in zip(named, (MODEL_COLOUR, OTHER_COLOUR), strict=False):
        figure.add_scatter(
            x=[100 * point.coverage for point in own.coverage],
            y=[100 * point.exact for point in own.coverage],
            customdata=[point.threshold for point in own.coverage],
            mode="lines",
            name=name,
            line={"color": colour, "width": 2.5},
            hovertemplate="confidence ≥ %{customdata:.3f}: %{x:.1f} % kept, %{y:.1f} % of them exact<extra></extra>",
        )
        kept = own.confident
        if kept.coverage:
            figure.add_scatter(
                x=[100 * kept.coverage],
                y=[100 * kept.exact],
                mode="markers",
                marker={"size": 10, "color": colour},
                showlegend=False,
                hoverinfo="skip",
            )
    figure.update_xaxes(title="transcriptions kept, %", range=[0, 102])
    least = min(point.exact for _, own in named for point in own.coverage)
    figure.update_yaxes(title="exact among them, %", range=[max(-3, 100 * least - 10), 102])
    return figure
