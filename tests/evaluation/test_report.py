"""Test the report of an evaluation: its page and its other files."""

import base64
import csv
import errno
import fcntl
import html
import io
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raycrnn.data.rejections import Rejection
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.evaluation import alignment, pictures, report, report_files
from raycrnn.evaluation.analysis import Comparison, Example, confusions
from tests.conftest import draw
from tests.evaluation.test_analysis import evaluation, line
from tests.tuning.test_report import figures


class Reader(HTMLParser):
    """Parses a page into its text without scripts and its pictures."""

    def __init__(self, page: str):
        super().__init__()
        self.parts: list[str] = []
        self.pictures: list[bytes] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(base64.b64decode(dict(attrs)["src"].removeprefix("data:image/webp;base64,")))
        elif tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.parts.append(" " if tag in ("td", "div", "p") else "")

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.parts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.parts))


@pytest.fixture
def picture(tmp_path) -> str:
    draw("abcdef").save(tmp_path / "line.png")
    return str(tmp_path / "line.png")


def test_the_page_needs_no_network_and_is_well_formed(picture):
    page = report.render(evaluation(line("abc", "abd", place=picture), line("a b", "ab", place=picture)))
    without_plotly = re.sub(r"<script>(?:(?!</script>).)*</script>", "", page, count=1, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)\s*=(?!\"data:image/webp)|@import|url\(|https?://", without_plotly)
    reader = Reader(page)
    assert reader.open == []
    assert len(page) < 6_000_000
    # A picture for each of the two lines and for each of the two confusions.
    assert len(reader.pictures) == 4
    assert all(Image.open(io.BytesIO(data)).height <= 64 for data in reader.pictures)


def test_the_page_has_scores_confusions_spaces_and_facts(picture):
    lines = [
        line("ab c", "abc", place=picture),
        line("abx", "abx", 0.97, place=picture),
        line("ab", "ac", place=picture),
    ]
    found = evaluation(*lines, rejections=[Rejection("set.csv", 9, "p", "not an image", "4 bytes")])
    text = Reader(report.render(found)).text
    assert "33.3 % of 3 lines are read exactly" in text
    assert "22.22 %" in text  # two edits of nine units
    assert "Of 1 spaces, 1 are missed and 0 are replaced" in text
    assert "␣ → (none) 1 × · 50.0 %" in text
    assert "b → c 1 × · 50.0 %" in text
    assert "left out: not an image 1" in text
    assert "units missing from the model's alphabet x 1 ×; 1 lines contain such units" in text
    assert "units in a label 2 to 4, median 3" in text
    assert "network tiny" in text
    assert "Not calibrated" not in text
    assert "Not calibrated" in Reader(report.render(evaluation(*lines, calibrated_on=0))).text


def test_figures_show_shares_and_counts():
    lines = [line("ab", "ab", 0.95)] * 3 + [line("ab", "a", 0.95), line("ab", "b", 0.15)]
    found = figures(report.render(evaluation(*lines)))
    _, bars, shares = found["reliability"]["data"]
    assert bars["x"] == pytest.approx([15, 95])
    assert bars["y"] == [1, 4]
    assert shares["y"] == [0, 75]
    curve, dot = found["coverage"]["data"]
    assert (curve["x"], curve["y"]) == ([80, 100], [75, 60])
    assert (dot["x"], dot["y"]) == ([80], [75])


@pytest.mark.parametrize(
    "lines",
    [
        [line("ab", "ab")],
        [line("ab", "")],
        [line("", "ab"), line("a", "a")],
        [line("", ""), line("a", "a")],
        [line(["ſt"], ["ſt"], 1.0)],
    ],
    ids=["no errors", "nothing read", "nothing to read", "nothing and nothing", "a unit"],
)
def test_small_evaluations_are_rendered(lines, tmp_path):
    for found in (evaluation(*lines), Comparison(evaluation(*lines), evaluation(*lines))):
        Reader(report.render(found))
        report.write(tmp_path, found)


def test_labels_and_names_are_escaped_and_complete():
    evil = "<script>alert(1)</script>"
    found = evaluation(line([evil, "\0", "\x1b", "\x85", "\u202e"], ["</div>"], place=f"{evil}.png"), name=evil)
    page = report.render(Comparison(found, found))
    assert evil not in page
    assert "</div></bdi>" not in page
    text = Reader(page).text
    heading = Reader(report.render(evaluation(replace(line("ab", "a"), csv="a\x1b\n<b>.csv")))).text
    assert "model on aU+001BU+000A<b>.csv: 2 units" in heading
    assert all(each in text for each in (evil, "U+0000", "U+001B", "U+0085", "U+202E"))
    assert not re.search(r"[\0-\x08\x0b-\x1f\x7f-\x9f]", page.replace(report.get_plotlyjs(), ""))
    assert html.escape(evil) in page


# --- alignment


def cells(reference, units) -> list[tuple]:
    return [
        (cell.kind, cell.reference, cell.read)
        for _, own in alignment.align(line(reference, units)).groups
        for cell in own
    ]


def test_correct_text_is_grouped_by_word_and_errors_by_unit():
    assert cells("ab cd ef", "ab xd ef ") == [
        ("same", "ab", "ab"),
        ("same", " ", " "),
        ("replaced", "c", "x"),
        ("same", "d", "d"),
        ("same", " ", " "),
        ("same", "ef", "ef"),
        ("inserted", "", "␣"),
    ]
    assert cells("ab", "b") == [("missed", "a", ""), ("same", "b", "b")]
    assert cells(["a", "ſt", "b"], ["a", "ſt", "b"]) == [("same", "a", "a"), ("same", "ſt", "ſt"), ("same", "b", "b")]


@given(st.text("ab á\u0301א1", max_size=10), st.text("ab á\u0301א1", max_size=10))
def test_cells_contain_both_texts(reference, units):
    found = cells(reference, units)
    for place, text in ((1, reference), (2, units)):
        shown = "".join(cell[place] for cell in found)
        assert shown.replace("␣", " ").replace("◌", "") == text


def test_a_lone_combining_mark_is_shown_on_a_dotted_circle():
    assert cells(["e", "\u0301"], ["e", "\u0300"]) == [("same", "e", "e"), ("replaced", "◌\u0301", "◌\u0300")]
    assert cells(["e", "\u0301"], ["e", "\u0301"]) == [("same", "e\u0301", "e\u0301")]
    assert not alignment._several("e\u0301")


def test_right_to_left_text_keeps_its_direction_and_numbers_theirs():
    found = alignment.align(line("אב 12-3 ג", "אב 19-3 ג"))
    assert found.direction == "rtl"
    assert [(turned, "".join(cell.reference for cell in own)) for turned, own in found.groups] == [
        (False, "אב "),
        (True, "12-3"),
        (False, " ג"),
    ]
    found = alignment.align(line("ab אב גד", "ab אx גד"))
    assert found.direction == "ltr"
    assert [turned for turned, _ in found.groups] == [False, True]


# --- pictures


def test_a_crop_shows_the_edit_and_two_units_on_either_side():
    found = {(each.reference, each.read): each.examples[0] for each in confusions([line("abcdefg", "abcxefg")])}
    assert pictures.columns(found["d", "x"], 70) == (10, 60, 30, 40)
    [missed] = confusions([line("abcdefg", "abcefg")])
    assert pictures.columns(missed.examples[0], 60) == (10, 50, 25, 35)
    [first] = confusions([line("ab", "b")])
    assert pictures.columns(first.examples[0], 10) == (0, 10, 0, 5)
    [last] = confusions([line("ab", "a")])
    assert pictures.columns(last.examples[0], 40) == (0, 40, 5, 40)


def test_a_crop_of_text_from_right_to_left_is_the_mirror_image():
    for reference, units in (("abcdefg", "abcxefg"), ("abcdefg", "abcefg"), ("ab", "b"), ("ab", "a")):
        own, width = line(reference, units), 10 * len(units)
        (found,) = confusions([own])
        left, right, *mark = pictures.columns(found.examples[0], width)
        own.spans[:] = width - own.spans[:, ::-1]
        mirrored = (width - right, width - left, width - mark[1], width - mark[0])
        if len(units) > 1:
            assert pictures.columns(Example(own, found.examples[0].step), width) == mirrored


@given(st.text("ab", max_size=5), st.text("ab", max_size=5), st.integers(1, 60), st.booleans())
def test_a_crop_is_within_the_image(reference, units, width, is_mirrored):
    own = line(reference, units)
    if is_mirrored:
        own.spans[:] = own.spans[::-1]
    own.spans.clip(0, width, out=own.spans)
    for each in confusions([own]):
        left, right, *mark = pictures.columns(Example(own, each.examples[0].step), width)
        assert 0 <= left < right <= width
        assert mark[0] <= mark[1]


def test_the_total_size_of_pictures_is_limited(picture, tmp_path):
    album = pictures.Album(max_bytes=3000)
    shown = [album.full(str(picture)) for _ in range(20)]
    assert shown[0] is not None
    assert shown[-1] is None
    assert pictures.Album().full(str(tmp_path / "gone.png")) is None


def test_pictures_of_upright_lines_are_turned(tmp_path):
    draw("abcdef").transpose(Image.Transpose.ROTATE_270).save(tmp_path / "line.png")
    album = pictures.Album(orientation="top_to_bottom")
    shown = album.full(str(tmp_path / "line.png"))
    assert (shown.width, shown.height) == draw("abcdef").size
    data = base64.b64decode(shown.uri.partition(",")[2])
    difference = np.asarray(Image.open(io.BytesIO(data)).convert("L")) - np.asarray(draw("abcdef"), float)
    assert abs(difference).mean() < 10


# --- files


def test_the_files_have_every_line_worst_first_and_the_scores(tmp_path):
    lost = Rejection("set.csv", 9, "lost.png", "no such file", "lost.png")
    lines = [line("ab", 'a"\n,b', 0.25, number=7), line("abcd", "abcd", 1.0), line("abc", "")]
    found = evaluation(*lines, rejections=[lost])
    with report_files.directory(str(tmp_path / "a" / "report"), False) as folder:
        report.write(folder, found)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report"]
    with (tmp_path / "a" / "report" / "lines.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["csv", "line", "path", "reference", "transcription", "edits", "units", "confidence"]
    assert [row[:3] for row in rows[1:]] == [["set.csv", "7", "gone.png"]] + [["set.csv", "1", "gone.png"]] * 2
    assert [row[3:] for row in rows[1:]] == [
        ["ab", 'a"\n,b', "3", "2", "0.2500"],
        ["abc", "", "3", "3", "0.5000"],
        ["abcd", "abcd", "0", "4", "1.0000"],
    ]
    scores = json.loads((tmp_path / "a" / "report" / "report.json").read_text(encoding="utf-8"))
    assert scores["cer"] == pytest.approx(6 / 9)
    assert sum(each["count"] for each in scores["confusions"]) == 6
    listed = (tmp_path / "a" / "report" / "rejected.csv").read_text(encoding="utf-8").splitlines()
    assert listed == ["file,line,path,reason,detail", "set.csv,9,lost.png,no such file,lost.png"]


def test_lines_csv_has_the_transcriptions_of_both_models(tmp_path):
    own = evaluation(line("ab", "ab", number=1), line("cd", "d", number=2))
    other = evaluation(line("ab", "a", 0.25, number=1), line("cd", "cd", 1.0, number=2))
    report.write(tmp_path, Comparison(own, other))
    with (tmp_path / "lines.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["transcription"], row["other_transcription"]) for row in rows] == [
        ("2", "d", "cd"),
        ("1", "ab", "a"),
    ]
    assert [(row["other_edits"], row["other_confidence"]) for row in rows] == [("0", "1.0000"), ("1", "0.2500")]


def make(name, overwrite: bool, *inputs) -> None:
    with report_files.directory(str(name), overwrite, list(map(str, inputs))) as folder:
        report.write(folder, evaluation(line("ab", "a")))


def test_overwrite_replaces_the_report_and_keeps_other_files(tmp_path):
    target = tmp_path / "report"
    make(target, False)
    (target / "mine.txt").write_text("precious")
    (target / "lines.csv").write_text("of another evaluation")
    with pytest.raises(UsageError, match="--overwrite replaces"):
        make(target, False)
    make(target, True)
    assert "of another evaluation" not in (target / "lines.csv").read_text()
    assert (target / "mine.txt").read_text() == "precious"
    assert sorted(path.name for path in target.iterdir()) == sorted([*report_files.FILES, "mine.txt"])


@pytest.mark.parametrize("figures", [None, "{", "[]", '{"name": "of something else"}'])
def test_files_that_are_not_a_report_are_never_replaced(tmp_path, figures):
    (tmp_path / "lines.csv").write_text("a.png;precious")
    if figures is not None:
        (tmp_path / "report.json").write_text(figures)
    with pytest.raises(UsageError, match="contains other files and no report"):
        make(tmp_path, True)
    assert (tmp_path / "lines.csv").read_text() == "a.png;precious"
    assert len(list(tmp_path.iterdir())) == 1 + (figures is not None)


@pytest.mark.parametrize("way", ["report/lines.csv", "linked.csv", "file://{}/report/lines.csv"])
def test_a_csv_that_is_read_is_never_replaced(tmp_path, way):
    make(tmp_path / "report", False)
    (tmp_path / "report" / "lines.csv").write_text("a.png;precious")
    (tmp_path / "linked.csv").symlink_to("report/lines.csv")
    given = way.format(tmp_path) if "://" in way else tmp_path / way
    with pytest.raises(UsageError, match=r"lines\.csv in it is one of the CSVs that are read"):
        make(tmp_path / "report", True, given)
    assert (tmp_path / "report" / "lines.csv").read_text() == "a.png;precious"


def test_files_created_in_the_meantime_are_not_replaced(tmp_path):
    with (
        pytest.raises(UsageError, match="already exists"),
        report_files.directory(str(tmp_path / "r"), False) as folder,
    ):
        report.write(folder, evaluation(line("ab", "a")))
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "lines.csv").write_text("precious")
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["lines.csv"]


@pytest.mark.parametrize("there", [False, True])
def test_temporary_files_of_a_killed_command_are_deleted(tmp_path, there):
    target = tmp_path / "report"
    if there:
        target.mkdir()
    left = target / ".report.99" if there else tmp_path / ".report.report.99"
    left.mkdir()
    (left / "index.html").write_text("half")
    with report_files.directory(str(target), False) as held:
        make(target, False)
        assert held.is_dir()
        # Remove the report that another command wrote, so that nothing is replaced.
        (target / "report.json").unlink()
        for name in report_files.FILES[:3]:
            (target / name).unlink()
    assert list(tmp_path.iterdir()) == [target]
    assert list(target.iterdir()) == []


def test_without_locks_the_temporary_files_of_other_commands_stay(tmp_path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    # Perhaps of a command that still runs.
    other = tmp_path / ".report.report.99"
    other.mkdir()
    make(tmp_path / "report", False)
    assert {path.name for path in tmp_path.iterdir()} == {"report", other.name}


def test_a_new_report_has_the_usual_permissions(tmp_path):
    (tmp_path / "other").mkdir()
    make(tmp_path / "report", False)
    assert (tmp_path / "report").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_path_that_is_not_a_directory_is_refused_at_once(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="is a file"), report_files.directory(str(tmp_path / "mine.txt"), True):
        pytest.fail("the report was started")
    with (
        pytest.raises(UsageError, match="cannot be written"),
        report_files.directory(str(tmp_path / "mine.txt/x"), True),
    ):
        pytest.fail("the report was started")


def test_an_empty_directory_is_accepted(tmp_path):
    with report_files.directory(str(tmp_path), False) as folder:
        (folder / "index.html").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_failed_report_leaves_nothing(tmp_path):
    with pytest.raises(RaycrnnError, match="lost"), report_files.directory(str(tmp_path / "report"), False) as folder:
        (folder / "index.html").write_text("half")
        raise RaycrnnError("a worker was lost")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.Path, "write_text", full)
    with (
        pytest.raises(RaycrnnError, match="No space left"),
        report_files.directory(str(tmp_path / "r"), False) as folder,
    ):
        report.write(folder, evaluation(line("ab", "a")))
    assert list(tmp_path.iterdir()) == []
