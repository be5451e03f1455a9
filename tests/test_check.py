"""The verb check: arguments, exit codes, files and errors."""

import json
import signal

import pytest
from PIL import Image

from raycrnn.check import Check
from raycrnn.checking import scan
from tests.checking.faults import plant
from tests.conftest import write_set

TEXTS = [f"{one}{other}" for one in "abcdefgh" for other in "hgfedcba"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("faults"))


def check(*arguments) -> int:
    return Check.call(list(map(str, arguments)), "check")


def test_a_clean_csv_exits_with_0(tmp_path, capsys):
    assert check(write_set(tmp_path, TEXTS)) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("Result: nothing was found.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "labels.csv"]


def test_findings_that_cost_no_samples_exit_with_0(tmp_path, capsys):
    assert check(write_set(tmp_path, ["ab", "ba"])) == 0
    assert "no row is left out; 1 finding to look at" in capsys.readouterr().out


def test_a_configuration_with_faults_exits_with_3_and_writes_all_files(planted, tmp_path, capsys):
    files = [tmp_path / name for name in ("left.csv", "page.html", "sheet.png")]
    left, page, sheet = files
    assert check(planted, "--left-out", left, "--report", page, "--augmentations", sheet, "--json") == 3
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    lines = left.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file,line,path,reason,detail" and len(lines) == 1 + len(result["left_out"]) == 13
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert Image.open(sheet).format == "PNG"
    assert check(planted, "--report", page) == 2
    assert f"{page}: already exists; --overwrite replaces it" in capsys.readouterr().err
    assert check(planted, "--report", page, "--overwrite") == 3


def test_settings_and_evaluation_csvs_may_be_given_on_the_command_line(tmp_path, capsys):
    train = write_set(tmp_path, TEXTS)
    train.write_text(train.read_text().replace(";", "\t"))
    evaluation = write_set(tmp_path, ["ax"], "eval.csv")
    evaluation.write_text(evaluation.read_text().replace(";", "\t"))
    assert check(train, "data.csv_delimiter=tab", "--eval", evaluation, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [result["samples"][name]["used"] for name in ("train", "eval")] == [64, 1]
    assert [finding["kind"] for finding in result["findings"]] == ["unit not in training"]


def test_a_flat_configuration_is_read_and_its_sets_may_be_replaced(tmp_path, capsys):
    train, evaluation = write_set(tmp_path, TEXTS), write_set(tmp_path, TEXTS[:3], "eval.csv")
    flat = {"csv_files_train": "missing.csv", "csv_files_eval": "missing.csv", "input_shape": [32, 512]}
    (tmp_path / "flat.json").write_text(json.dumps({**flat, "training_params": {"n_epochs": 3}}))
    override = f"data.csv_files_train={train}"
    assert check(tmp_path / "flat.json", override, "--eval", evaluation, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["sizes"]["input_shape"] == [32, 512]
    assert result["csvs"] == [str(train), str(evaluation)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.csv"], "gone.csv: no such CSV file"),
        (["gone.json"], "gone.json: no such file"),
        (["a.json", "b.csv"], "name one configuration, or CSVs"),
        (["data.encoding=utf-8"], "name at least one"),
        (["labels.csv", "image.input_shape=[20,30]"], "a multiple of 16"),
        (["labels.csv", "--report", "gone/page.html"], "there is no folder gone"),
        (["labels.csv", "--report", "images"], "is a directory"),
        (["labels.csv", "--left-out", "labels.csv"], "is one of the inputs"),
        (["labels.csv", "--left-out", "s3://bucket/x.csv"], "must be a local file"),
        (["labels.csv", "--left-out", "x", "--report", "x"], "different files"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path, monkeypatch, capsys, arguments, message):
    write_set(tmp_path, ["ab"])
    monkeypatch.chdir(tmp_path)
    assert check(*arguments) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_ends_it_with_130_and_writes_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(scan, "start_decoder", interrupt)
    assert check(write_set(tmp_path, ["ab"]), "--report", tmp_path / "page.html") == 130
    assert capsys.readouterr().err.endswith("raycrnn check: stopped\n")
    assert not (tmp_path / "page.html").exists()
