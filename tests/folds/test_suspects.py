"""The list of suspect labels: its order, its CSV and its page."""

import csv
import math

from raycrnn.evaluation.analysis import EvaluatedLine
from raycrnn.folds import suspects
from raycrnn.folds.out_of_fold import OutOfFoldLine
from raycrnn.metrics import error_rates
from tests.conftest import draw


def line(number: int, label: str, text: str, log_prob: float, label_log_prob: float, place="gone.png") -> OutOfFoldLine:
    counts = error_rates.score(tuple(label), tuple(text))
    evaluated = EvaluatedLine("a.csv", number, f"{number}.png", str(place), tuple(label), tuple(text), 0.9, counts)
    return OutOfFoldLine(evaluated, 2, log_prob, label_log_prob)


def test_the_label_with_the_least_likely_edits_comes_first():
    lines = [
        line(1, "ab", "ab", -0.1, -0.1),
        line(2, "ab", "cb", -0.1, -20.0),
        line(3, "ab", "cb", -9.0, -20.0),  # the model is not sure of what it has read
        line(4, "aé", "ae", -0.1, -math.inf),
        line(5, "ab", "ac", -3.0, -2.9),  # the label is more likely
        line(6, "abcd", "xycz", -1.0, -25.0),  # three edits
    ]
    assert [each.line.number for each in suspects.by_suspicion(lines)] == [4, 2, 3, 6, 5, 1]
    assert [round(each.score, 1) for each in lines] == [0.0, 19.9, 11.0, math.inf, 0.0, 8.0]


def test_the_csv_has_a_row_for_each_line_and_the_page_the_pictures_of_those_that_differ(tmp_path):
    draw("ab").save(tmp_path / "2.png")
    lines = [
        line(2, "a;b", "ab", -0.1, -20.0, tmp_path / "2.png"),
        line(3, "x", "<y>", -1.0, -9.0),
        line(1, "ab", "ab", 0, 0),
    ]
    suspects.write(tmp_path, lines, "horizontal")
    with (tmp_path / "suspects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "csv": "a.csv",
        "line": "2",
        "path": "2.png",
        "label": "a;b",
        "reading": "ab",
        "score": "19.9000",
        "confidence": "0.9000",
        "fold": "2",
    }
    assert [row["line"] for row in rows] == ["2", "3", "1"]
    page = (tmp_path / "suspects.html").read_text(encoding="utf-8")
    assert "2 of 3 labels differ from what was read" in page
    assert page.count("<figure") == 2
    assert page.count("data:image/webp") == 1
    assert "<y>" not in page
