"""`raycrnn alphabet`: build, show, merge and diff."""

import json
from pathlib import Path

import pytest

from raycrnn import config
from raycrnn.data.alphabet import Alphabet
from raycrnn.tools.alphabet import COMMANDS, AlphabetTool
from tests.conftest import write_set
from tests.model.test_recognizer import ALPHABET, recognizer


def call(*arguments: object) -> int:
    return AlphabetTool.call([str(argument) for argument in arguments], "alphabet")


def write(folder: Path, name: str, table: dict[str, int]) -> Path:
    path = folder / name
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def table_of(path: Path) -> dict[str, int]:
    return json.loads(path.read_text(encoding="utf-8"))


# --- build


def test_old_units_keep_their_codes_and_new_ones_follow_by_source(tmp_path, capsys):
    old = write(tmp_path, "old.json", {"x": 97, "a": 3})
    (tmp_path / "units.txt").write_text("quondam\nb\nquondam\n", encoding="utf-8")
    (tmp_path / "a.csv").write_text("1.png,|d|a|\n2.png,cc\n", encoding="utf-8")
    output = tmp_path / "new.json"
    sources = [tmp_path / "a.csv", "data.csv_delimiter=,", "--units", tmp_path / "units.txt", "--characters", "zxb"]
    assert call("build", *sources, "--from", old, "-o", output, "--json") == 0
    assert table_of(output) == {"a": 3, "x": 97, "quondam": 98, "b": 99, "z": 100, "c": 101, "d": 102}
    assert Alphabet.load(output).units == ("a", "x", "quondam", "b", "z", "c", "d")
    printed = capsys.readouterr()
    assert "more than one line has 'quondam'" in printed.err
    assert printed.out.startswith(f"{output}: 7 units from 2 labels, 2 of them with their codes in {old}\n")
    assert json.loads(printed.out.splitlines()[-1])["new"] == 5


def test_a_built_alphabet_is_that_of_the_training_labels(tmp_path):
    csv = write_set(tmp_path, ["bad", "cafe", "a(b)"])
    assert call("build", csv, "-o", tmp_path / "alphabet.json") == 0
    assert Alphabet.load(tmp_path / "alphabet.json") == Alphabet.from_labels(["bad", "cafe", "a(b)"])
    assert config.parse({"data": {"csv_files_train": str(csv), "lookup_alphabet_file": "alphabet.json"}})


def test_rare_units_and_rows_without_a_label_are_named(tmp_path, capsys):
    (tmp_path / "a.csv").write_text('1.png;aab\n2.png;ab\n3.png;ac\n4.png;\n"5.png;z\n', encoding="utf-8")
    assert call("build", tmp_path / "a.csv", "--min-count", 2, "-o", tmp_path / "b.json", "--json") == 0
    assert table_of(tmp_path / "b.json") == {"a": 0, "b": 1}
    printed = capsys.readouterr()
    assert f"{tmp_path}/a.csv: 2 of 5 rows are malformed or have no label" in printed.err
    assert "left out, with fewer than 2 occurrences: 'c' 1" in printed.out
    summary = json.loads(printed.out.splitlines()[-1])
    assert (summary["rare"], summary["left_out"]) == ({"c": 1}, {"empty label": 1, "malformed row": 1})
    # A unit of another source is not left out.
    arguments = ["--min-count", 2, "--characters", "c", "-o", tmp_path / "c.json"]
    assert call("build", tmp_path / "a.csv", *arguments) == 0
    assert table_of(tmp_path / "c.json") == {"c": 0, "a": 1, "b": 2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no units: name CSVs with labels"),
        (["gone.csv"], "gone.csv: no such CSV file"),
        (["old.json"], "old.json: not a CSV: name an alphabet with --from"),
        (["training.seed=3"], "only data.* concerns how CSVs are read"),
        (["data.csv_delimiter=ab"], "data.csv_delimiter"),
        (["--from", "list.json"], "list.json"),
        (["--from", "twice.json"], "have the same code 1"),
        (["--units", "empty.txt"], "empty.txt: has no units"),
        (["bare.csv"], "bare.csv: no row has a label; a row is path;label"),
    ],
)
def test_sources_that_cannot_be_used_are_refused(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "old.json", {"a": 0})
    Path("list.json").write_text("[1]")
    Path("twice.json").write_text('{"a": 1, "b": 1}')
    Path("empty.txt").write_text("\n\n")
    Path("bare.csv").write_text("a.png\nb.png\n")
    assert call("build", *arguments, "-o", "new.json") == 2
    assert said in capsys.readouterr().err
    assert not Path("new.json").exists()


def test_an_existing_alphabet_is_kept_unless_it_may_be_replaced(tmp_path, capsys):
    old = write(tmp_path, "old.json", {"a": 0})
    assert call("build", "--characters", "b", "-o", old) == 2
    assert "already exists; use --overwrite" in capsys.readouterr().err
    assert table_of(old) == {"a": 0}
    assert call("build", "--characters", "b", "--from", old, "-o", old, "--overwrite") == 0
    assert table_of(old) == {"a": 0, "b": 1}


@pytest.mark.parametrize("arguments", [["a.csv"], ["--units", "a.csv"]])
def test_an_alphabet_does_not_replace_the_labels_or_units_that_it_is_built_from(
    tmp_path, monkeypatch, capsys, arguments
):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("1.png;a\n")
    assert call("build", *arguments, "-o", "./a.csv", "--overwrite") == 2
    assert "a.csv: is one of the inputs; name another file" in capsys.readouterr().err
    assert Path("a.csv").read_text() == "1.png;a\n"


# --- show


def test_the_units_of_a_model_are_shown_with_their_counts(tmp_path, capsys):
    recognizer().save(tmp_path / "model")
    (tmp_path / "a.csv").write_text("1.png;|a|ſt|X|\n2.png;e\u0301\u00a0a\n", encoding="utf-8")
    assert call("show", tmp_path / "model", tmp_path / "a.csv", "--json") == 0
    out = capsys.readouterr().out
    assert (
        "     3         1  ſt       U+017F U+0074   Ll Ll    LATIN SMALL LETTER LONG S, LATIN SMALL LETTER T; " in out
    )
    assert "not in the alphabet, but in the labels: 'X' 1, '\\xa0' 1\n" in out
    values = json.loads(out.splitlines()[-1])
    assert [(each["unit"], each["code"], each["count"]) for each in values["units"]] == list(
        zip(ALPHABET.units, range(5), (2, 0, 0, 1, 1), strict=True)
    )
    assert values["units"][3]["notes"] == ["2 characters"]
    assert values["unknown"] == {"X": 1, "\u00a0": 1}


def test_a_model_that_comes_with_raycrnn_is_named_like_a_directory(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("1.png;|ſ|京|\n", encoding="utf-8")
    assert call("show", "latin", tmp_path / "a.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["unknown"] == {"京": 1}
    assert call("diff", "latin", "latin48") == 0


def test_units_that_look_alike_are_shown(tmp_path, capsys):
    path = write(tmp_path, "a.json", {"A": 0, "Α": 1, "b": 2})
    assert call("show", path, "--json") == 0
    *_, line, values = capsys.readouterr().out.splitlines()
    assert line == "look alike: 'A' and 'Α', Latin beside Greek"
    assert json.loads(values)["look_alikes"] == [["A", "Α", "Latin beside Greek"]]


def test_units_that_nobody_sees_are_escaped(tmp_path, capsys):
    path = write(tmp_path, "a.json", {" ": 0, "\t": 1, "\u0301": 2, "\u200b": 3})
    assert call("show", path) == 0
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert shown == ["'", "'\\t'", "'\u0301'", "'\\u200b'"]


# --- merge and diff


def test_merging_keeps_the_codes_of_the_first_and_names_those_that_differ(tmp_path, capsys):
    first = write(tmp_path, "first.json", {"a": 5, "b": 2})
    second = write(tmp_path, "second.json", {"d": 9, "b": 1, "c": 0})
    third = write(tmp_path, "third.json", {"c": 6, "e": 7})
    assert call("merge", first, second, third, "-o", tmp_path / "all.json", "--json") == 0
    assert table_of(tmp_path / "all.json") == {"b": 2, "a": 5, "c": 6, "d": 7, "e": 8}
    out = capsys.readouterr().out
    assert f"other codes than in {second}: 'b' 1 -> 2, 'c' 0 -> 6, 'd' 9 -> 7\n" in out
    assert json.loads(out.splitlines()[-1])["other_codes"][str(third)] == {"e": [8, 7]}


@pytest.mark.parametrize(
    ("other", "code", "lines"),
    [
        ({"a": 0, "b": 1}, 0, ["the same units in the same order"]),
        ({"a": 10, "b": 20}, 0, ["other codes (2): 'a' 0 | 10, 'b' 1 | 20", "the same units in the same order"]),
        ({"a": 1, "b": 0}, 1, ["other codes (2): 'a' 0 | 1, 'b' 1 | 0"]),
        ({"a": 0, "c": 1}, 1, ["only in one.json (1): 'b'", "only in other.json (1): 'c'"]),
    ],
)
def test_alphabets_differ_if_the_order_of_their_codes_does(tmp_path, monkeypatch, capsys, other, code, lines):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "one.json", {"a": 0, "b": 1})
    write(tmp_path, "other.json", other)
    assert call("diff", "one.json", "other.json") == code
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(lines)
    assert all(line.startswith(start) for line, start in zip(printed, lines, strict=True))
    assert call("diff", "one.json", "gone.json") == 2


# --- the command line


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_its_arguments(name, capsys):
    with pytest.raises(SystemExit) as exit:
        call(name, "--help")
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: raycrnn alphabet {name} ")
    for field in COMMANDS[name][0].model_fields.values():
        assert " ".join(field.description.split())[:60] in text


def test_a_command_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as exit:
        call("bild")
    assert exit.value.code == 2
    assert "raycrnn alphabet: unknown command 'bild'; did you mean build?" in capsys.readouterr().err
