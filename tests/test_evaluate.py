"""Test the verb evaluate."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from raycrnn import console
from raycrnn.evaluate import Evaluate, evaluate
from raycrnn.evaluation.analysis import Comparison
from raycrnn.evaluation.report_files import FILES
from raycrnn.evaluation.run import evaluate_all
from raycrnn.metrics import error_rates
from raycrnn.model import voter
from raycrnn.model.recognizer import Recognizer
from raycrnn.prediction.pipeline import Executor
from tests.model.test_recognizer import recognizer

LABELS = {"0": "|a|b|c|", "1": "|b|ſt|", "2": "|c|X|b|", "3": "|a|"}


@pytest.fixture
def labels(images) -> str:
    path = images.parent / "labels.csv"
    path.write_text("".join(f"images/{n}.png;{label}\n" for n, label in LABELS.items()), encoding="utf-8")
    return str(path)


def units_of(label: str) -> list[str]:
    return [unit for unit in label.split("|") if unit]


def test_decoding_starts_before_the_model_is_loaded_and_torch_imported(model, labels, monkeypatch):
    order = []
    start, load = Executor.start_decoder, voter.load
    monkeypatch.setattr(Executor, "start_decoder", lambda *args: (order.append("decoder"), start(*args)))
    monkeypatch.setattr(voter, "load", lambda *args: (order.append("model"), load(*args))[1])
    evaluate_all([model], [str(labels)])
    # Evaluation describes the model, and the reader in this process loads it once more.
    assert order == ["decoder", "model", "model"]
    program = "import sys, raycrnn.evaluation.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_evaluation_scores_the_transcriptions_of_the_recognizer(model, images, labels, capsys):
    found = evaluate(model, [labels])
    reader = Recognizer.load(model, "cpu")
    read = {name: reader([images / f"{name}.png"])[0] for name in LABELS}
    expected = error_rates.Counts()
    for name, label in LABELS.items():
        expected += error_rates.score(units_of(label), reader.alphabet.decode(read[name].codes))
    assert found.counts == expected
    assert found.unknown == 1
    assert [line.confidence for line in found.lines] == pytest.approx(
        [each.confidence for each in read.values()], abs=1e-4
    )
    assert all(line.spans is None for line in found.lines)
    assert Evaluate.call([model, labels, "--json"], "evaluate") == 0
    out = capsys.readouterr().out
    assert "units that are missing from the model's alphabet" in out
    assert "confidence 0.9 or more" in out
    assert "not calibrated" in out
    assert json.loads(out.splitlines()[-1])["cer"] == expected.cer


def test_unreadable_images_are_left_out_of_the_score_up_to_the_limit(model, images, tmp_path, capsys):
    Image.new("L", (90, 120)).save(images / "page.png")
    (tmp_path / "labels.csv").write_text("images/0.png;abc\nimages/gone.png;abc\nimages/page.png;abc\n")
    assert Evaluate.call([model, str(tmp_path / "labels.csv")], "evaluate") == 1
    printed = capsys.readouterr().err
    assert "1 of 3 samples cannot be used" in printed
    assert "warning: 1 of 2 images are higher than wide or as large as a page" in printed
    assert "warning: 1 of 2 images are blank" in printed
    assert Evaluate.call([model, str(tmp_path / "labels.csv"), "data.max_rejected=0.5"], "evaluate") == 0
    assert "1 samples could not be read" in capsys.readouterr().out


def test_empty_labels_are_counted_and_labels_that_are_all_empty_are_refused(model, images, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("images/0.png;abc\nimages/1.png;\n")
    assert evaluate(model, [str(labels)]).empty == 1
    labels.write_text("images/0.png;\nimages/1.png;\n")
    assert Evaluate.call([model, str(labels)], "evaluate") == 1
    assert "all labels are empty" in capsys.readouterr().err


def test_a_report_has_a_page_all_lines_and_the_scores(model, images, labels, tmp_path, capsys):
    target = tmp_path / "report"
    assert Evaluate.call([model, labels, "--report", str(target), "--json"], "evaluate") == 0
    printed = capsys.readouterr()
    assert sorted(path.name for path in target.iterdir()) == sorted(FILES)
    assert f"report: {target}/index.html" in printed.err
    with (target / "lines.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    reader = Recognizer.load(model, "cpu")
    for name, label in LABELS.items():
        row, units = rows[f"images/{name}.png"], reader([images / f"{name}.png"])[0]
        assert (row["reference"], row["transcription"]) == ("".join(units_of(label)), units.text)
        counts = error_rates.score(units_of(label), reader.alphabet.decode(units.codes))
        assert (row["edits"], row["units"]) == (str(counts.unit_edits), str(counts.units))
    figures = json.loads((target / "report.json").read_text(encoding="utf-8"))
    assert json.loads(printed.out.splitlines()[-1]).items() <= figures.items()
    assert figures["unknown_units"] == {"X": 1}
    page = (target / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp") >= len(LABELS)


def test_overwrite_without_a_report_is_refused_before_images_are_read(capsys):
    assert Evaluate.call(["no model", "nowhere.csv", "--overwrite"], "evaluate") == 2
    assert "--overwrite replaces a report: name its directory with --report" in capsys.readouterr().err


def test_a_directory_in_use_is_refused_before_images_are_read(model, tmp_path, capsys):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("precious")
    arguments = ["no model", "nowhere.csv", "--report", str(tmp_path / "report")]
    assert Evaluate.call(arguments, "evaluate") == 2
    assert "--overwrite replaces the report in it" in capsys.readouterr().err
    assert Evaluate.call([*arguments, "--overwrite"], "evaluate") == 2
    assert "contains other files and no report" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["mine.txt"]
    assert Evaluate.call([model, "nowhere.csv", "--report", str(tmp_path / "new")], "evaluate") == 2
    assert not (tmp_path / "new").exists()


def test_the_labels_are_never_replaced_by_the_report(model, images, labels, tmp_path, capsys):
    target = tmp_path / "report"
    assert Evaluate.call([model, labels, "--report", str(target)], "evaluate") == 0
    mine = target / "lines.csv"
    mine.write_text(Path(labels).read_text(encoding="utf-8").replace("images/", "../images/"), encoding="utf-8")
    before = mine.read_bytes()
    assert Evaluate.call([model, str(mine), "--report", str(target), "--overwrite"], "evaluate") == 2
    assert "is one of the CSVs that are read" in capsys.readouterr().err
    assert mine.read_bytes() == before


def test_progress_is_shown(model, labels, capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    assert Evaluate.call([model, labels], "evaluate") == 0
    assert "of 4 images" in capsys.readouterr().err


def test_two_models_are_compared_on_the_same_rows(model, images, tmp_path, capsys):
    """The other model has another image height and is not trained."""
    settings = recognizer().configuration
    taller = settings.model_copy(update={"image": settings.image.model_copy(update={"input_shape": (48, 512)})})
    original = recognizer()
    network = type(original.network).from_settings(taller.model, taller.image, len(original.alphabet) + 1)
    other = str(tmp_path / "other")
    Recognizer(network, taller, original.alphabet, {"cer": 0.9}).save(Path(other))
    labels = tmp_path / "set.csv"
    labels.write_text("images/0.png;abc\nimages/gone.png;abc\nimages/1.png;ba\nimages/3.png;a\n")
    arguments = ["data.max_rejected=0.5"]
    first, second = evaluate_all([model, other], [str(labels)], arguments)
    assert [line.path for line in first.lines] == [line.path for line in second.lines]
    assert len(first.lines) == 3
    assert second.counts == evaluate(other, [str(labels)], arguments).counts
    target = tmp_path / "report"
    call = [model, str(labels), *arguments, "--against", other, "--report", str(target), "--json"]
    assert Evaluate.call(call, "evaluate") == 0
    out = capsys.readouterr().out
    assert f"compared with {other}:" in out
    assert "McNemar" in out or "exact: no difference" in out
    result = json.loads(out.splitlines()[-1])
    expected = Comparison(first, second).as_json()
    assert result == json.loads(json.dumps(expected))
    assert result["against"]["differences"]["cer"]["value"] == pytest.approx(second.counts.cer - first.counts.cer)
    assert "Comparison with another model" in (target / "index.html").read_text(encoding="utf-8")


def test_a_missing_file_of_a_model_is_named(model, capsys):
    os.unlink(f"{model}/alphabet.json")
    assert Evaluate.call([model, "nowhere.csv"], "evaluate") == 1
    assert "lacks alphabet.json" in capsys.readouterr().err
