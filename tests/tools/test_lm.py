"""`raycrnn lm`: build and show."""

import json

import pytest

from raycrnn.language import model_files
from raycrnn.tools.lm import LanguageModelTool


def call(*arguments: object) -> int:
    return LanguageModelTool.call([str(argument) for argument in arguments], "lm")


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "a.txt").write_text("das ist\nein Haus\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("1.png;das Haus\n2.png;ist\n", encoding="utf-8")
    return tmp_path / "a.txt", tmp_path / "b.csv"


def test_a_model_is_built_from_texts_and_csvs_and_shown(tmp_path, sources, capsys):
    output = tmp_path / "model.arpa"
    assert call("build", *sources, "-o", output, "--order", 3, "--json") == 0
    printed = capsys.readouterr().out
    assert f"{output}: " in printed
    assert "up to order 3, from 4 lines with 26 units (10 different), ltr" in printed
    built = json.loads(printed.splitlines()[-1])
    assert built["lines"] == 4
    assert "<space>" in output.read_text(encoding="utf-8")

    (tmp_path / "c.txt").write_text("das Xist\n", encoding="utf-8")
    assert call("show", output, tmp_path / "c.txt", "--json") == 0
    printed = capsys.readouterr().out
    shown = json.loads(printed.splitlines()[-1])
    assert shown["n_grams"] == built["n_grams"]
    assert shown["unknown"] == ["X"]
    assert shown["perplexity"] == pytest.approx(model_files.read(output).perplexity([tuple("das Xist")]))
    assert "units of the texts that the model lacks (1): 'X'" in printed


def test_a_compressed_model_is_the_same(tmp_path, sources):
    assert (
        call("build", *sources, "-o", tmp_path / "m.arpa") == call("build", *sources, "-o", tmp_path / "m.arpa.gz") == 0
    )
    assert (tmp_path / "m.arpa.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert call("build", *sources, "-o", tmp_path / "M.ARPA.GZ") == 0
    assert (tmp_path / "M.ARPA.GZ").read_bytes() == (tmp_path / "m.arpa.gz").read_bytes()
    assert model_files.read(tmp_path / "m.arpa").digest == model_files.read(tmp_path / "m.arpa.gz").digest


def test_lines_are_split_by_an_alphabet(tmp_path, sources, capsys):
    (tmp_path / "alphabet.json").write_text(json.dumps({unit: code for code, unit in enumerate([*"dasiten ", "Haus"])}))
    arguments = ["build", sources[0], "-o", tmp_path / "m.arpa", "--split-by", tmp_path / "alphabet.json"]
    assert call(*arguments) == 0
    assert "Haus" in model_files.read(tmp_path / "m.arpa").ids
    (sources[0]).write_text("das\nXY\n", encoding="utf-8")
    assert call(*arguments, "--overwrite") == 0
    assert "1 of 2 lines are left out, the first of them 'XY': no unit of the alphabet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "data.csv_delimiter=,", "-o", "new.arpa"], "name a text file or a CSV"),
        (["build", "missing.txt", "-o", "new.arpa"], "missing.txt: no such text file"),
        (["build", "a.txt", "-o", "old.arpa"], "old.arpa: already exists; use --overwrite"),
        (["build", "a.txt", "-o", "./a.txt", "--overwrite"], "a.txt: is one of the inputs; name another file"),
        (["build", "b.csv", "--split-by", "old.arpa", "-o", "old.arpa", "--overwrite"], "is one of the inputs"),
        (["build", "a.txt", "-o", "new.arpa", "--order", "10"], "--order: input should be less than or equal to 9"),
        (["build", "a.txt", "-o", "new.arpa", "training.seed=1"], "training.seed=1: only data.* concerns how"),
        (["show", "missing.arpa"], "missing.arpa: no such language model"),
        (["show", "a.txt"], "a.txt: not an ARPA file"),
        (["draw"], "unknown command 'draw'"),
    ],
)
def test_wrong_usage_is_explained(tmp_path, sources, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.arpa").write_text("")
    try:
        code = call(*arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == (1 if message.endswith("ARPA file") else 2)
    assert message in capsys.readouterr().err
