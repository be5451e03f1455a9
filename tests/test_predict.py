"""The verb predict."""

import csv
import io
import json
import os
import stat
import threading
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from ray import cloudpickle

from raycrnn import config, storage
from raycrnn.data import csv_files, inputs
from raycrnn.model.recognizer import Recognizer
from raycrnn.predict import Predict
from raycrnn.prediction import text_stage
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.run import Output
from raycrnn.tools.convert.verb import Convert
from tests.conftest import draw
from tests.model.test_recognizer import recognizer


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_files_folders_and_csvs_are_read_in_input_order(model, images, tmp_path, capsys):
    (images / "notes.txt").write_text("no image by its name")
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


def test_an_image_that_cannot_be_read_gets_a_row_with_its_error(model, images, tmp_path, capsys):
    (images / "1.png").write_text("broken")
    out = tmp_path / "out.csv"
    assert Predict.call([model, str(images), str(images / "gone.png"), "-o", str(out)], "predict") == 0
    found = rows(out.read_text())
    assert [bool(row["error"]) for row in found] == [False, True, False, False, True]
    assert found[1]["error"].startswith("not an image")
    assert found[4]["error"].startswith("no such file")
    assert found[1]["text"] == found[1]["score"] == ""
    assert "3 of 5 images read" in capsys.readouterr().err


def test_pages_wide_lines_and_blank_images_are_read_and_counted(model, images, capsys):
    noise = Image.effect_noise((1300, 1300), 50)
    noise.crop((0, 0, 60, 90)).save(images / "page.png")
    noise.crop((0, 0, 1300, 20)).save(images / "wide.png")
    Image.new("L", (60, 20), 255).save(images / "white.png")
    assert Predict.call([model, str(images)], "predict") == 0
    shown = capsys.readouterr()
    assert [row["error"] for row in rows(shown.out)] == [""] * 7
    assert "1 of 7 images are higher than wide or as large as a page" in shown.err
    assert f"{images}/page.png (60 × 90 pixels)" in shown.err
    assert "1 of 7 images are wider than image.input_shape=" in shown.err
    assert f"{images}/wide.png (1,300 × 20 pixels)" in shown.err
    assert "1 of 7 images are blank: all their pixels are equal" in shown.err
    assert f"{images}/white.png (60 × 20 pixels)" in shown.err


def test_reading_no_image_is_a_failure(model, tmp_path):
    assert Predict.call([model, str(tmp_path / "gone.png")], "predict") == 1


def test_json_lines_contain_alternatives_and_errors(model, images, tmp_path):
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
        (["nowhere", "x.png"], "not a model directory"),
        (["MODEL", "nowhere.csv"], "no such CSV file"),
        (["MODEL", "EMPTY"], "nothing to read"),
        (["MODEL", "x.png", "decoding.beam_width=0"], "decoding.beam_width"),
        (["MODEL", "x.png", "--format", "parquet"], "Parquet cannot be written to stdout"),
        (["MODEL", "x.png", "--spans", "-o", "out.csv"], "CSV cannot hold spans"),
        (["MODEL", "x.png", "--resume"], "name it with -o"),
        (["MODEL", "x.png", "-o", "out.tsv"], "out.tsv: unknown format .tsv: end the name in .csv"),
        (["MODEL", "x.png", "-o", "out.jsonl.gz"], "unknown format .gz"),
        (["MODEL", "x.png", "-o", "MODEL/config.json", "--overwrite", "--format=jsonl"], "is in the model directory"),
        (["MODEL", "x.png", "-o", "MODEL/new.csv"], "is in the model directory"),
    ],
)
def test_wrong_usage_is_reported(model, tmp_path, capsys, arguments, expected):
    (tmp_path / "empty").mkdir()
    names = {"MODEL": model, "EMPTY": str(tmp_path / "empty")}
    given = [names.get(a, a).replace("MODEL/", f"{model}/") for a in arguments]
    assert Predict.call(given, "predict") == 2
    assert expected in capsys.readouterr().err


@pytest.mark.ray
def test_more_replicas_than_cpus_are_refused(local_ray, model, images, capsys):
    assert Predict.call([model, str(images), "--replicas", "9999"], "predict") == 2
    assert "CPUs: set --replicas=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("o.JSONL", [], "jsonl"),
        ("o.Parquet", [], "parquet"),
        ("o.CSV", [], "csv"),
        ("o", [], "csv"),
        (".o", [], "csv"),
        ("o.tsv", ["--format", "jsonl"], "jsonl"),
    ],
)
def test_the_suffix_selects_the_format_in_any_case(name, options, expected):
    format = options[-1] if options else None
    assert Output(name).layout(format, 1, False, False).format == expected


def test_an_output_that_fails_leaves_no_file(model, images, tmp_path):
    assert Predict.call([model, str(images), "-o", str(tmp_path / "no" / "out.csv")], "predict") == 2
    assert not (tmp_path / "no").exists()


def test_an_output_is_replaced_only_on_request_and_an_input_never(model, images, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("images/0.png;precious\n")
    assert Predict.call([model, str(labels), "-o", str(labels), "--overwrite"], "predict") == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert labels.read_text() == "images/0.png;precious\n"
    picture, before = images / "0.png", (images / "0.png").read_bytes()
    given = [model, f"file://{picture}", "-o", str(picture), "--overwrite", "--format", "csv"]
    assert Predict.call(given, "predict") == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert picture.read_bytes() == before
    out = tmp_path / "out.csv"
    out.write_text("older")
    assert Predict.call([model, str(images / "0.png"), "-o", str(out)], "predict") == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert out.read_text() == "older"
    assert Predict.call([model, str(images / "0.png"), "-o", str(out), "--overwrite"], "predict") == 0
    assert rows(out.read_text())


def test_an_output_in_a_folder_that_does_not_exist_is_refused(model, images, tmp_path, capsys):
    out = tmp_path / "nowhere" / "out.csv"
    assert Predict.call([model, str(images / "0.png"), "-o", str(out)], "predict") == 2
    assert f"{out}: there is no folder {tmp_path}/nowhere; create it first" in capsys.readouterr().err


def test_an_output_is_written_to_a_folder_whose_name_is_in_another_normal_form(model, images, tmp_path):
    folder = tmp_path / unicodedata.normalize("NFD", "Bücher")
    folder.mkdir()
    output = tmp_path / unicodedata.normalize("NFC", "Bücher") / "out.csv"
    assert Predict.call([model, str(images / "0.png"), "-o", str(output)], "predict") == 0
    assert [path.name for path in folder.iterdir()] == ["out.csv"]
    assert [path for path in tmp_path.iterdir() if path.name.startswith("B")] == [folder]


def test_invalid_outputs_in_object_storage_are_refused(model, images, bucket, capsys):
    labels, there = (storage.join(bucket, "set", name) for name in ("list a.csv", "model"))
    storage.write(labels, b"0.png;x\n")
    for path in Path(model).iterdir():
        storage.upload(path, storage.join(there, path.name))
    storage.upload(images / "0.png", storage.join(bucket, "set", "0.png"))
    for output, said in [
        (bucket, "is a directory and not the name of a file"),
        (storage.join(bucket, "set"), "is a directory and not the name of a file"),
        (storage.join(bucket, "new", ""), "is a directory and not the name of a file"),
        (storage.join(bucket, "", "out.csv"), "cannot be written: not a URI that can be read: two slashes"),
        (storage.join(there, "new.csv"), "is in the model directory"),
        (labels, "is one of the inputs"),
        (labels.replace("list%20a", "%6Cist%20a"), "is one of the inputs"),
    ]:
        assert Predict.call([there, labels, "-o", output, "--overwrite", "--format", "csv"], "predict") == 2
        assert said in capsys.readouterr().err
    assert storage.read(labels) == b"0.png;x\n"


@pytest.mark.parametrize("name", ["", "/", "."])
def test_a_directory_as_output_is_refused_before_anything_is_read(model, images, capsys, name):
    assert Predict.call([model, str(images), "-o", name], "predict") == 2
    assert "not the name of a file" in capsys.readouterr().err


def test_a_pipe_is_written_to_and_stays_a_pipe(model, images, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()), daemon=True)
    reader.start()
    assert Predict.call([model, str(images / "0.png"), "-o", str(pipe)], "predict") == 0
    reader.join(10)
    assert len(rows(received[0])) == 1
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_names_that_are_not_valid_text_do_not_affect_other_rows(model, images, tmp_path, capsys):
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


def test_keys_that_cannot_change_after_training_are_refused(model, images, capsys):
    assert Predict.call([model, str(images), "training.n_epochs=3"], "predict") == 2
    assert "only decoding.* and data.* can be changed" in capsys.readouterr().err


def test_a_model_directory_that_lacks_a_file_is_named(model, images, capsys):
    os.unlink(f"{model}/alphabet.json")
    assert Predict.call([model, str(images)], "predict") == 1
    assert "lacks alphabet.json" in capsys.readouterr().err


# --- inputs


def test_the_command_reads_the_lexicon_once_and_says_what_it_leaves_out(model, images, tmp_path, capsys, monkeypatch):
    words = tmp_path / "words.txt"
    words.write_text("abc\nxyz\nca\n")
    transcriber = text_stage.Transcriber.__init__

    def without_the_file(self, job: PredictionJob, threads: int) -> None:
        # As on another machine.
        words.rename(tmp_path / "elsewhere.txt")
        transcriber(self, cloudpickle.loads(cloudpickle.dumps(job)), threads)

    monkeypatch.setattr(text_stage.Transcriber, "__init__", without_the_file)
    assert Predict.call([model, str(images), f"decoding.lexicon={words}"], "predict") == 0
    out, err = capsys.readouterr()
    assert {row["text"] for row in rows(out)} <= {"abc", "ca"}
    assert {row["text_3"] for row in rows(out)} == {""}
    assert err.count("line or entry 2, 'xyz': not in the alphabet") == 1


def test_a_missing_lexicon_is_refused_before_anything_is_read(model, images, capsys):
    assert Predict.call([model, str(images), "decoding.lexicon=none.txt"], "predict") == 2
    assert "none.txt: no such lexicon file" in capsys.readouterr().err


def test_a_folder_is_listed_in_the_order_of_its_paths(tmp_path):
    for name in ("b.png", "a/x.png", "a.png", "a/c/y.TIF", "a-b/z.png", "dir.png/in.jpg", "no.txt", "a/no", ".png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "set" / "link").symlink_to(tmp_path)
    (tmp_path / "set" / "gone.png").symlink_to("nowhere")
    listed = inputs.list_inputs([f"{tmp_path}/set/"], config.Data(csv_files_train="none.csv"))
    found = sorted(path for path in (tmp_path / "set").rglob("*") if path.suffix.lower() in (".png", ".tif", ".jpg"))
    assert listed["name"].to_pylist() == [str(path) for path in found if not path.is_dir()]
    assert listed["path"].to_pylist() == [os.fsencode(path) for path in listed["name"].to_pylist()]


# --- formats, resuming, losses


def test_parquet_contains_what_the_recognizer_returns(model, images, tmp_path):
    out = tmp_path / "out.parquet"
    (images / "1.png").write_text("broken")
    assert Predict.call([model, str(images), "-o", str(out), "--spans"], "predict") == 0
    found = pq.read_table(out).to_pylist()
    assert found[1]["error"].startswith("not an image")
    assert found[1]["text"] is found[1]["units"] is None
    for row, expected in zip((found[0], *found[2:]), Recognizer.load(model, "cpu")(images_of(found)), strict=True):
        assert row["error"] is None
        assert row["text"] == expected.text
        assert row["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
        assert [each["text"] for each in row["alternatives"]] == [each.text for each in expected.alternatives[1:]]
        spans = [(unit.text, unit.left, unit.right) for unit in expected.units]
        assert [(unit["text"], unit["left"], unit["right"]) for unit in row["units"]] == spans


def images_of(rows: list[dict]) -> list[str]:
    return [row["path"] for row in rows if row["error"] is None]


def test_csv_has_confidences_on_request(model, images, capsys):
    assert Predict.call([model, str(images / "0.png"), "--confidence"], "predict") == 0
    found = rows(capsys.readouterr().out)
    assert list(found[0])[:6] == ["path", "text", "score", "error", "confidence", "text_2"]
    sure = Recognizer.load(model, "cpu")(images / "0.png")[0].confidence
    assert float(found[0]["confidence"]) == pytest.approx(sure, abs=1e-3)


def test_a_model_that_is_replaced_while_the_command_starts_ends_the_run(model, images, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.csv"

    def replace(*arguments):
        recognizer(beam_width=7).save(Path(model))
        return list_inputs(*arguments)

    list_inputs = inputs.list_inputs
    monkeypatch.setattr(inputs, "list_inputs", replace)
    assert Predict.call([model, str(images), "-o", str(out)], "predict") == 1
    assert "the model was replaced after the command started" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["images", "model"]


def test_readings_are_labels_to_train_on(model, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drafts").mkdir()
    (images / "broken.png").write_bytes(b"no image")
    names = sorted(path.name for path in images.glob("*.png"))
    (images / "list.csv").write_text("".join(f"{name}\n" for name in names))
    draft = "drafts/labels.csv"
    assert Predict.call([model, "images/list.csv", "--format", "labels", "-o", draft], "predict") == 0
    error = capsys.readouterr().err
    assert Predict.call([model, "images/list.csv", "--format", "jsonl"], "predict") == 0
    read = {row["path"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(read) == names
    expected = {f"../images/{name}": row["text"] for name, row in read.items() if row["error"] is None}
    assert {row.path: row.label for row in csv_files.read_csv(draft).rows} == expected
    assert "broken.png: left out of the labels: " in error
    assert f"labels written: {len(names) - 1}; images left out: 1" in error


@pytest.mark.parametrize("option", ["--spans", "--confidence"])
def test_labels_have_no_place_for_units_and_confidences(model, images, capsys, option):
    assert Predict.call([model, str(images), "--format=labels", option], "predict") == 2
    assert f"{option}: labels have no place for it" in capsys.readouterr().err


def test_labels_cannot_name_images_in_a_packed_data_set(model, images, tmp_path, capsys):
    names = sorted(path.name for path in images.glob("*.png"))
    (images / "lines.csv").write_text("".join(f"{name};x\n" for name in names))
    packed = tmp_path / "packed"
    assert Convert.call([str(images / "lines.csv"), str(packed), "--to=parquet"], "convert") == 0
    assert Predict.call([model, str(packed), "--format=labels"], "predict") == 2
    assert "is in a packed data set, and labels name files" in capsys.readouterr().err
