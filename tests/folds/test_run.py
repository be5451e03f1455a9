"""A run with folds: its directories, its models that vote, its list of suspect labels, and what it refuses."""

import csv
import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from raycrnn import config
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.folds import out_of_fold, run
from raycrnn.model import model_files
from raycrnn.model.recognizer import Recognizer
from raycrnn.predict import Predict
from raycrnn.storage import Directory
from raycrnn.train import Train
from raycrnn.tune import Tune
from tests.conftest import draw, words, write_set
from tests.model.test_voter import recognizer

NETWORK = {"cnn_channels": [8, 16, 32, 32, 48, 48, 48], "lstm_size": 32, "keep_prob": 1.0}


def write_configuration(folder: Path, **training) -> Path:
    """Write lines of four books, with a label that is wrong, and a configuration; return its path."""
    if not (folder / "labels.csv").exists():
        labels = words(24)
        write_set(folder, labels)
        rows = (folder / "labels.csv").read_text().splitlines()
        text = ""
        for number, row in enumerate(rows):
            (folder / "images" / f"labels_{number}.png").rename(folder / "images" / f"b{number % 4}_{number}.png")
            text += f"images/b{number % 4}_{number}.png;{row.partition(';')[2]}\n"
        (folder / "labels.csv").write_text(text)
        write_set(folder, words(6, seed=1), "test.csv")
    tree = {
        "output_model_dir": str(folder / "output"),
        "data": {
            "csv_files_train": str(folder / "labels.csv"),
            "csv_files_eval": str(folder / "test.csv"),
            "fold_group": "(b.)_",
        },
        "model": NETWORK,
        "training": {"n_epochs": 1, "train_batch_size": 8, "precision": "fp32", "folds": 2, **training},
    }
    (folder / "config.json").write_text(json.dumps(tree))
    return folder / "config.json"


def train(path: Path, *overrides: str) -> subprocess.CompletedProcess:
    """Run the command, with a local Ray that takes the machine for one with four CPUs."""
    program = (
        "from raycrnn.cluster import connection\nconnection.usable_cpus = lambda: 4\n"
        "from raycrnn.__main__ import main\nmain()"
    )
    command = [sys.executable, "-c", program, "train", str(path), *overrides, "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.ray
@pytest.mark.long
def test_folds_are_trained_side_by_side_vote_and_resume(tmp_path):
    done = train(write_configuration(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 folds at a time" in done.stderr
    output = tmp_path / "output"
    assert {path.name for path in output.iterdir()} >= {"fold-1", "fold-2", "model", "suspects.csv", "suspects.html"}
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["model"] == str(output / "model")
    assert [fold["steps"] for fold in result["folds"]] == [2, 2]
    assert result["vote"]["samples"] == 6
    with (output / "suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["line"]) for row in rows) == list(range(1, 25))
    # The books of a fold are its evaluation set.
    for fold in (1, 2):
        books = {row["path"].partition("_")[0] for row in rows if row["fold"] == str(fold)}
        assert len(books) == 2
        settings = json.loads((output / f"fold-{fold}" / "run.json").read_text())["configuration"]
        assert settings["training"]["fold"] == fold
        card = (output / "model" / f"fold-{fold}" / "README.md").read_text()
        assert f"It is model {fold} of 2 of a cross-validation" in card
        assert Recognizer.load(output / "model" / f"fold-{fold}", "cpu").calibration.samples == 12
    assert len({Recognizer.load(each, "cpu").alphabet for each in model_files.members(output / "model")}) == 1

    # A fold that has lost its run is trained again; the other is finished.
    before = (output / "fold-1" / "metrics.jsonl").read_bytes()
    subprocess.run(["rm", "-r", str(output / "fold-2")], check=True)
    again = train(tmp_path / "config.json", "restore_model=true")
    assert again.returncode == 0, again.stderr
    assert "fold 1: " in again.stderr and "this run is finished" in again.stderr
    assert (output / "fold-1" / "metrics.jsonl").read_bytes() == before
    assert json.loads(again.stdout.splitlines()[-1])["held_back"] == result["held_back"]

    lines = tmp_path / "lines.csv"
    assert Predict.call([str(output / "model"), str(tmp_path / "images"), "-o", str(lines)], "predict") == 0
    assert len(lines.read_text().splitlines()) == 1 + 24 + 6


@pytest.mark.ray
def test_rows_of_all_folds_are_checked_before_one_is_trained(tmp_path):
    path, csv_path = write_configuration(tmp_path), tmp_path / "labels.csv"
    rows = csv_path.read_text().splitlines()
    # Three of the twelve rows of one fold are training rows of the other fold only.
    broken = [number for number in range(len(rows)) if number % 4 == 1][:3]
    csv_path.write_text("".join(f"{row}{'x' * 900 if n in broken else ''}\n" for n, row in enumerate(rows)))
    done = train(path)
    assert done.returncode == 1
    assert re.search(r"fold [12]: train set: 3 of 12 samples cannot be used, more than data.max_rejected", done.stderr)
    output = tmp_path / "output"
    assert {each.name for each in output.iterdir()} == {"rejected.csv"}
    with (output / "rejected.csv").open(newline="") as file:
        assert [int(row["line"]) for row in csv.DictReader(file)] == [number + 1 for number in broken]
    assert not run._check_output(Directory(output), {}, restore=False)


@pytest.mark.ray
@pytest.mark.parametrize("alphabet", ["union", "same"])
def test_rows_are_checked_with_the_alphabet_of_the_initial_model(tmp_path, local_ray, alphabet):
    recognizer(units="xyz").save(tmp_path / "model")
    tree = json.loads(write_configuration(tmp_path, initial_model=str(tmp_path / "model")).read_text())
    configuration = config.parse({**tree, "model": {}}, [f"training.initial_alphabet={alphabet}"])
    output = tmp_path / "output"
    output.mkdir()
    (output / "rejected.csv").touch()
    with nullcontext() if alphabet == "union" else pytest.raises(RaycrnnError, match=r"(?s)fold 1: .*unknown unit"):
        run._check_rows(configuration, Directory(output))
    assert (output / "rejected.csv").exists() == (alphabet == "same")


@pytest.mark.ray
def test_all_folds_start_from_the_model_that_suits_all_rows(tmp_path, local_ray, monkeypatch):
    """The rows of one book have too few letters for the model, those of all books have enough."""
    write_set(tmp_path, ["abcdefg", "hijklmn", "opqrstu", "vwxyzäö"])
    own: list[dict] = []

    def read(paths: list[Path], *_: object) -> dict:
        own.extend(json.loads(path.read_text()) for path in paths)
        return {}

    monkeypatch.setattr(run.processes, "run_all", read)
    tree = {
        "data": {"csv_files_train": str(tmp_path / "labels.csv")},
        "training": {"folds": 2},
        "output_model_dir": str(tmp_path / "output"),
    }
    assert run.train(config.parse(tree)) is None
    assert [each["training"]["initial_model"] for each in own] == ["latin", "latin"]
    # A run of an earlier version started from random weights, and so do its folds when it is resumed.
    record = tmp_path / "output" / run.RECORD
    for recorded, expected in (({run.CHOSEN: {"training.initial_model": "latin"}}, "latin"), ({}, None)):
        old = {key: value for key, value in json.loads(record.read_text()).items() if key != run.CHOSEN}
        record.write_text(json.dumps({**old, **recorded}))
        own.clear()
        assert run.train(config.parse({**tree, "restore_model": True})) is None
        assert [each["training"]["initial_model"] for each in own] == [expected, expected]


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        Train(config=str(path), overrides=list(overrides)).run()
    return str(error.value)


def test_fewer_groups_than_folds_are_refused(tmp_path):
    path = write_configuration(tmp_path)
    assert "have only 4 groups" in refused(path, "training.folds=5")
    assert "must match a part of every path" in refused(path, "data.fold_group=x(.)")
    assert not (tmp_path / "output").exists()


def test_an_output_directory_of_something_else_is_refused(tmp_path):
    path, output = write_configuration(tmp_path), tmp_path / "output"
    output.mkdir()
    (output / "run.json").write_text("{}")
    assert "contains no run with training.folds" in refused(path, "restore_model=true")
    (output / "run.json").unlink()
    record = {
        "training.folds": 2,
        "training.seed": 0,
        "data.fold_group": "(b.)_",
        "rows of the training CSVs": ["other"],
    }
    (output / run.RECORD).write_text(json.dumps(record))
    assert "continue the run in it with restore_model=true" in refused(path)
    message = refused(path, "restore_model=true", "training.seed=1")
    assert "because training.seed, rows of the training CSVs differ" in message


def test_a_search_over_folds_is_refused(tmp_path):
    path = write_configuration(tmp_path)
    (tmp_path / "search.yaml").write_text("search:\n  training.learning_rate: {choice: [0.1, 0.2]}\n")
    with pytest.raises(UsageError, match=r"remove training\.folds"):
        Tune(config=str(path), search=str(tmp_path / "search.yaml")).run()


def test_each_row_is_read_by_the_model_of_its_fold(tmp_path):
    for seed in (1, 2):
        recognizer(seed).save(tmp_path / f"fold-{seed}")
    texts = ["ab", "cde", "ba", "aé", "abcde" * 9]
    rows = []
    for number, text in enumerate(texts, 1):
        draw(text[:3]).save(tmp_path / f"{number}.png")
        rows.append(Row(f"{number}.png", text, number))
    rows += [Row("gone.png", "a", 6), Row("bad", None, 7, "a quote is not closed")]
    file = CsvFile(str(tmp_path / "labels.csv"), rows)
    models = [str(tmp_path / f"fold-{seed}") for seed in (1, 2)]
    lines = list(out_of_fold.read([file], [[1, 2, 2, 1, 1, 1, 2]], models))
    assert [(each.fold, each.line.number) for each in lines] == [(1, 1), (1, 4), (1, 5), (2, 2), (2, 3)]
    for each in lines:
        alone = Recognizer.load(models[each.fold - 1], "cpu")(each.line.place)[0]
        assert "".join(each.line.units) == alone.text
        assert each.log_prob >= alone.log_prob - 1e-3
    by_line = {each.line.number: each for each in lines}
    # The alphabet has no é, and line 5 is too narrow for its label.
    assert [by_line[number].score for number in (4, 5)] == [float("inf")] * 2
    assert all(0 <= by_line[number].score < float("inf") for number in (1, 2, 3))
