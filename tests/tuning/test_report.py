"""Test report.html of a search."""

import html
import json
import re

import pytest

from raycrnn.storage import Directory
from raycrnn.tuning import report
from raycrnn.tuning.experiment import FAILED, FINISHED, Experiment, Trial
from raycrnn.tuning.search_space import Search
from tests.tuning.test_experiment import TREE, evaluation, trials_of


def figures(page: str) -> dict:
    """Return the figures that the page passes to Plotly, by name."""
    [written] = re.findall(r"const figures = \{(.*)\};\n", page)
    decoder, found = json.JSONDecoder(), {}
    while written.strip(" ,"):
        name, end = decoder.raw_decode(written.strip(" ,"))
        written = written.strip(" ,")[end:].lstrip(" :")
        found[name], end = decoder.raw_decode(written)
        written = written[end:]
    return found


def make_experiment(output, metric: str | list = "cer", count: int = 6) -> Experiment:
    search = Search(
        search={
            "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
            "model.lstm_size": {"choice": [64, 128]},
            "model.keep_prob": {"uniform": [0.5, 1]},
        },
        metric=metric,
        samples=count,
    )
    found = Experiment(Directory(output), search, TREE)
    found.add(Trial("base", {}, FINISHED, [evaluation(5, 0.6), evaluation(10, 0.5)], done=1))
    for number in range(1, count + 1):
        values = {
            "training.learning_rate": 1e-4 * 2**number,
            "model.lstm_size": 64,
            "model.keep_prob": 0.5 + number / 20,
        }
        evaluations = [evaluation(10, 0.4 / number, speed=50.0 * number)]
        found.add(Trial(str(number), values, FINISHED, evaluations, done=1))
    return found


def test_the_page_needs_no_network(tmp_path):
    page = report.render(make_experiment(tmp_path))
    without_plotly = re.sub(r"<script>(?:(?!</script>).)*</script>", "", page, count=1, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)\s*=|@import|url\(|https?://", without_plotly)


def test_every_trial_is_in_the_curves_and_in_the_table(tmp_path):
    page = report.render(make_experiment(tmp_path))
    curves = figures(page)["curves"]["data"]
    assert {curve["name"] for curve in curves} == {"the base", *(f"trial {n}" for n in range(1, 6)), "trial 6 (best)"}
    assert [curve["y"] for curve in curves if curve["name"] == "the base"] == [[60.0, 50.0]]
    assert len(re.findall(r"<tr class=", page)) == 7
    assert "Trial 6 is the best" in page


def test_parallel_coordinates_have_an_axis_for_each_key_and_the_score(tmp_path):
    [data] = figures(report.render(make_experiment(tmp_path)))["parallel"]["data"]
    labels = [axis["label"] for axis in data["dimensions"]]
    assert labels == ["learning_rate", "lstm_size", "keep_prob", "character error rate, %"]
    rates = data["dimensions"][0]
    assert 10 ** rates["values"][-1] == pytest.approx(1e-4 * 2)
    assert rates["range"] == [-4, -2]
    assert data["dimensions"][1]["ticktext"] == ["64", "128"]


def test_importance_needs_four_trials(tmp_path):
    assert "importance" in figures(report.render(make_experiment(tmp_path / "a", count=4)))
    assert "importance" not in figures(report.render(make_experiment(tmp_path / "b", count=3)))


def test_two_metrics_add_a_pareto_front(tmp_path):
    found = figures(report.render(make_experiment(tmp_path, ["cer", "speed"])))
    points, front = found["front"]["data"]
    assert len(points["x"]) == 7
    # Trial 6 is the fastest and has the lowest error rate; the base is as fast as trial 2.
    assert front["text"] == ["6"]


def test_the_error_of_a_failed_trial_is_shown_and_escaped(tmp_path):
    found = make_experiment(tmp_path)
    found.add(Trial("7", {}, FAILED, error="<script>alert(1)</script>"))
    page = report.render(found)
    assert "<script>alert" not in page
    assert html.escape("<script>alert(1)</script>") in page


def test_a_search_with_a_single_evaluation_is_shown(tmp_path):
    page = report.render(trials_of(tmp_path, base=[evaluation(1, 0.5)], t1=[]))
    assert set(figures(page)) == {"curves"}
    assert "No trial beats the base" in page
