"""The verbs predict and evaluate, from a model directory alone."""

import csv
import io
import json

import pytest

from raycrnn import metrics
from raycrnn.evaluate import Evaluate, evaluate
from raycrnn.predict import Predict
from raycrnn.recognizer import Recognizer
from tests.conftest import draw
from tests.test_recognizer import recognizer

pytestmark = pytest.mark.ray


@pytest.fixture
def model(tmp_path):
    recognizer().save(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, text in enumerate(["abc", "ba", "cab, x", "a"]):
        draw(text).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no image by its name")
    return folder


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_files_folders_and_csvs_are_read_in_input_order(local_ray, model, images, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("images/2.png;any label\nimages/0.png\n")
    arguments = [model, str(images / "3.png"), str(images), str(tmp_path / "list.csv")]
    assert Predict.call(arguments, "predict") == 0
    found = rows(capsys.readouterr().out)
    expected = ["3", "0", "1", "2", "3"]
    assert [row["path"] for row in found] == [f"{images}/{n}.png" for n in expected] + ["images/2.png", "images/0.png"]
    texts = Recognizer.load(model, "cpu")([images / f"{n}.png" for n in (*expected, "2", "0")])
    assert [row["text"] for row in found] == [t.text for t in texts]
    assert list(found[0]) == ["path", "text", "score", "error", "text_2", "score_2", "text_3", "score_3"]
    assert float(found[0]["score"]) == pytest.approx(texts[0].score, abs=1e-3)
    assert float(found[0]["score_2"]) == pytest.approx(-texts[0].score, abs=1e-3)


def test_what_cannot_be_read_gets_a_row_with_its_error(local_ray, model, images, tmp_path, capsys):
    (images / "1.png").write_text("broken")
    out = tmp_path / "out.csv"
    assert Predict.call([model, str(images), str(images / "gone.png"), "-o", str(out)], "predict") == 0
    found = rows(out.read_text())
    assert [bool(row["error"]) for row in found] == [False, True, False, False, True]
    assert found[1]["error"].startswith("not an image")
    assert found[4]["error"].startswith("no such file")
    assert found[1]["text"] == found[1]["score"] == ""
    assert "3 of 5 images read" in capsys.readouterr().err


def test_nothing_read_is_a_failure(local_ray, model, tmp_path):
    assert Predict.call([model, str(tmp_path / "gone.png")], "predict") == 1


def test_json_lines_hold_the_same(local_ray, model, images, tmp_path):
    out = tmp_path / "out.jsonl"
    (images / "1.png").write_text("broken")
    assert Predict.call([model, str(images), "-o", str(out), "decoding.num_beam_paths=2"], "predict") == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["error"] is None for record in records] == [True, False, True, True]
    assert all(len(record["alternatives"]) == 1 for record in records if record["error"] is None)
    assert records[1] == {"path": f"{images}/1.png", "text": None, "score": None, "error": records[1]["error"]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "x.png"], "no model directory"),
        (["MODEL", "nowhere.csv"], "no such CSV file"),
        (["MODEL", "EMPTY"], "nothing to read"),
        (["MODEL", "x.png", "decoding.beam_width=0"], "decoding.beam_width"),
    ],
)
def test_wrong_usage_is_told(local_ray, model, tmp_path, capsys, arguments, expected):
    (tmp_path / "empty").mkdir()
    names = {"MODEL": model, "EMPTY": str(tmp_path / "empty")}
    assert Predict.call([names.get(a, a) for a in arguments], "predict") == 2
    assert expected in capsys.readouterr().err


def test_an_output_that_fails_leaves_no_file(local_ray, model, images, tmp_path):
    assert Predict.call([model, str(images), "-o", str(tmp_path / "no" / "out.csv")], "predict") == 2
    assert not (tmp_path / "no").exists()


def test_evaluation_scores_what_the_recogniser_reads(local_ray, model, images, tmp_path, capsys):
    labels = {"0": "|a|b|c|", "1": "|b|ſt|", "2": "|c|X|b|", "3": "|a|"}
    (tmp_path / "labels.csv").write_text("".join(f"images/{n}.png;{label}\n" for n, label in labels.items()))
    report = evaluate(model, [str(tmp_path / "labels.csv")])
    reader = Recognizer.load(model, "cpu")
    expected = metrics.Counts()
    for name, label in labels.items():
        units = reader.alphabet.decode(reader([images / f"{name}.png"])[0].codes)
        expected += metrics.score([unit for unit in label.split("|") if unit], units)
    assert report.counts == expected
    assert report.unknown == 1
    assert Evaluate.call([model, str(tmp_path / "labels.csv"), "--json"], "evaluate") == 0
    out = capsys.readouterr().out
    assert "units that the model's alphabet lacks" in out
    assert json.loads(out.splitlines()[-1])["cer"] == expected.cer


def test_unreadable_images_are_left_out_of_the_score_up_to_the_limit(local_ray, model, images, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("images/0.png;abc\nimages/gone.png;abc\n")
    assert Evaluate.call([model, str(tmp_path / "labels.csv")], "evaluate") == 1
    assert "1 of 2 samples cannot be used" in capsys.readouterr().err
    assert Evaluate.call([model, str(tmp_path / "labels.csv"), "data.max_rejected=0.5"], "evaluate") == 0
    assert "1 samples could not be read" in capsys.readouterr().out
