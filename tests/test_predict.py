"""The verbs predict and evaluate, from a model directory alone."""

import csv
import io
import json
import os
import stat
import threading

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


def test_an_output_is_replaced_only_if_that_is_asked_for_and_never_an_input(local_ray, model, images, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("images/0.png;precious\n")
    assert Predict.call([model, str(labels), "-o", str(labels), "--overwrite"], "predict") == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert labels.read_text() == "images/0.png;precious\n"
    out = tmp_path / "out.csv"
    out.write_text("older")
    assert Predict.call([model, str(images / "0.png"), "-o", str(out)], "predict") == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert out.read_text() == "older"
    assert Predict.call([model, str(images / "0.png"), "-o", str(out), "--overwrite"], "predict") == 0
    assert rows(out.read_text())


@pytest.mark.parametrize("name", ["", "/", "."])
def test_an_output_that_is_no_file_is_refused_before_anything_is_read(model, images, capsys, name):
    assert Predict.call([model, str(images), "-o", name], "predict") == 2
    assert "not the name of a file" in capsys.readouterr().err


def test_a_pipe_is_written_to_and_stays_one(local_ray, model, images, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()), daemon=True)
    reader.start()
    assert Predict.call([model, str(images / "0.png"), "-o", str(pipe)], "predict") == 0
    reader.join(10)
    assert len(rows(received[0])) == 1
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_names_that_are_no_text_cost_nobody_else_a_row(local_ray, model, images, tmp_path, capsys):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "dang\udcff.png").symlink_to("nowhere")
    draw("abc").save(folder / "good\udcfe.png")
    (folder / "folder.png").mkdir()
    assert Predict.call([model, str(folder), str(folder / "good\udcfe.png")], "predict") == 0
    found = rows(capsys.readouterr().out)
    assert [row["path"][len(str(folder)) + 1 :] for row in found] == ["dang\\xff.png", "good\\xfe.png", "good\\xfe.png"]
    assert [bool(row["error"]) for row in found] == [True, False, False]
    assert "no such file" in found[0]["error"]


def test_keys_that_a_trained_model_does_not_take_are_refused(model, images, capsys):
    assert Predict.call([model, str(images), "training.n_epochs=3"], "predict") == 2
    assert "only decoding.* and data.* can be changed" in capsys.readouterr().err


def test_a_model_directory_that_lacks_a_file_is_named(model, images, capsys):
    os.unlink(f"{model}/alphabet.json")
    assert Predict.call([model, str(images)], "predict") == 1
    assert "lacks alphabet.json" in capsys.readouterr().err


def test_empty_labels_are_said_and_alone_are_nothing_to_score_against(local_ray, model, images, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("images/0.png;abc\nimages/1.png;\n")
    assert evaluate(model, [str(labels)]).empty == 1
    labels.write_text("images/0.png;\nimages/1.png;\n")
    assert Evaluate.call([model, str(labels)], "evaluate") == 1
    assert "all labels are empty" in capsys.readouterr().err
