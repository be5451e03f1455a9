"""`raycrnn labels`: the rewritten CSV, compared with the input."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data.csv_files import read_csv
from raycrnn.tools.labels import Labels


def call(*arguments: object) -> int:
    return Labels.call([str(argument) for argument in arguments], "labels")


@pytest.fixture
def csv(tmp_path) -> Path:
    path = tmp_path / "in.csv"
    path.write_bytes(
        "path;label\r\n"
        "images/1.png;Bene [Quondam]\r\n"
        '"images/2;x.png";"é"";"\r\n'
        "\r\n"
        '"images/3.png;open\r\n'
        "images/4.png\r\n"
        "images/5.png;a;b".encode()
    )
    return path


def test_labels_are_split_at_brackets_and_all_other_lines_stay(csv, tmp_path, capsys):
    assert call(csv, tmp_path / "out.csv", "--split-brackets", "--lower-abbreviations", "--json") == 0
    assert (tmp_path / "out.csv").read_bytes() == (
        "path;label\r\n"
        "images/1.png;|B|e|n|e| |quondam|\r\n"
        '"images/2;x.png";|é|"|;|\r\n'
        "\r\n"
        '"images/3.png;open\r\n'
        "images/4.png\r\n"
        "images/5.png;|a|;|b|\r\n".encode()
    )
    printed = capsys.readouterr()
    assert f"{csv}, line 5: malformed, stays as it is: a quote is not closed on this line" in printed.err
    assert "line 2: Bene [Quondam] -> |B|e|n|e| |quondam|\n" in printed.out
    summary = json.loads(printed.out.splitlines()[-1])
    assert (summary["labels"], summary["changed"], summary["malformed"]) == (3, 3, [5])
    assert summary["units"] == {"before": 14 + 3 + 3, "after": 6 + 3 + 3}
    assert summary["steps"]["abbreviations in lower case"] == 1


def test_abbreviations_of_one_character_are_counted_because_they_become_plain_letters(tmp_path, capsys):
    (tmp_path / "in.csv").write_text("1.png;[p]ropter [quondam]\n2.png;[p][e]\n3.png;|[p]|x|\n4.png;pp\n")
    assert call(tmp_path / "in.csv", tmp_path / "out.csv", "--split-brackets", "--json") == 0
    printed = capsys.readouterr()
    assert "in.csv: abbreviations of one character, such as [p], become plain characters, 4 in all: give" in printed.err
    assert json.loads(printed.out.splitlines()[-1])["replaced"] == [["[p]", "p", 3], ["[e]", "e", 1]]
    assert call(tmp_path / "out.csv", tmp_path / "again.csv", "--split-brackets") == 0
    assert "of one character" not in capsys.readouterr().err


def test_splitting_by_an_alphabet_joins_units_first(tmp_path):
    (tmp_path / "alphabet.json").write_text(json.dumps({"q": 3, "u": 4, "quondam": 5, "é": 9}), encoding="utf-8")
    (tmp_path / "in.csv").write_text("1.png;uquondamq\n2.png;|q|u|o|n|d|a|m|\n3.png;e\u0301\n", encoding="utf-8")
    arguments = [tmp_path / "in.csv", tmp_path / "out.csv", "--split-by", tmp_path / "alphabet.json"]
    assert call(*arguments) == 0
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "1.png;|u|quondam|q|\n2.png;|quondam|\n3.png;|é|\n"


@pytest.mark.parametrize(
    ("errors", "code", "expected"),
    [("fail", 1, None), ("keep", 0, "1.png;|1|\n2.png;1x\n3.png;|2|\n"), ("drop", 0, "1.png;|1|\n3.png;|2|\n")],
)
def test_labels_that_cannot_be_split_are_named(tmp_path, capsys, errors, code, expected):
    (tmp_path / "in.csv").write_text("1.png;1\n2.png;1x\n3.png;2\n")
    output = tmp_path / "out.csv"
    assert call(tmp_path / "in.csv", output, "--split-by", "lookup_digits", "--errors", errors) == code
    assert (output.read_text() if output.exists() else None) == expected
    said = capsys.readouterr().err
    assert f"{tmp_path}/in.csv, line 2: '1x'" in said
    assert "no unit of the alphabet starts at character 2, 'x' (U+0078 LATIN SMALL LETTER X)" in said
    assert ("1 of 3 labels cannot be rewritten, and nothing is written" in said) == (errors == "fail")


def test_characters_are_replaced_and_collisions_counted(tmp_path, capsys):
    (tmp_path / "map.json").write_text(json.dumps({"ſ": "s", "¬": "", "e\u0301e": "E"}), encoding="utf-8")
    (tmp_path / "in.csv").write_text("1.png;ſoñée¬\n2.png;|ſ|é|s|\n", encoding="utf-8")
    arguments = ["--map", tmp_path / "map.json", "--drop-accents", "--json"]
    assert call(tmp_path / "in.csv", tmp_path / "out.csv", *arguments) == 0
    assert (tmp_path / "out.csv").read_text() == "1.png;sonE\n2.png;|s|e|s|\n"
    out = capsys.readouterr().out
    found = {(old, new): count for old, new, count in json.loads(out.splitlines()[-1])["replaced"]}
    assert found == {("é", "e"): 1, ("ée", "E"): 1, ("ñ", "n"): 1, ("ſ", "s"): 2, ("¬", ""): 1}
    # Labels had one s before.
    assert ["'ſ'", "->", "'s'", "2", "1"] in [line.split() for line in out.splitlines()]


def test_delimiters_and_the_encoding_are_changed(tmp_path, capsys):
    (tmp_path / "in.csv").write_bytes('a;b.png,#é#;#|\r\n"c,d.png",x,"y"\r\n'.encode("cp1252"))
    options = ["--delimiter", ",", "--to-delimiter", ";", "--split-delimiter", "#", "--encoding", "cp1252"]
    assert call(tmp_path / "in.csv", tmp_path / "out.csv", *options) == 0
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == '"a;b.png";#é#;#|\nc,d.png;x,"y"\n'
    assert "converted from cp1252 to utf-8" in capsys.readouterr().err
    options += ["--overwrite", "--to-split-delimiter"]
    assert call(tmp_path / "in.csv", tmp_path / "out.csv", *options, "¦") == 0
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == '"a;b.png";¦é¦;¦|¦\nc,d.png;x,"y"\n'
    # The label has this character as a unit.
    assert call(tmp_path / "in.csv", tmp_path / "out.csv", *options, "|") == 1
    assert "the unit '|' contains the delimiter of units '|'" in capsys.readouterr().err


def test_relative_paths_are_rewritten_for_another_folder(csv, tmp_path):
    (tmp_path / "sub").mkdir()
    assert call(csv, tmp_path / "sub" / "out.csv", "--drop-accents") == 0
    before, after = read_csv(csv), read_csv(tmp_path / "sub" / "out.csv")
    kept = [row for row in before.rows if not row.problem]
    moved = [row for row in after.rows if not row.problem]
    assert [Path(after.resolve(row)).resolve() for row in moved] == [Path(before.resolve(row)) for row in kept]
    assert (after.header.path, after.header.label) == ("path", "label")


plain = st.text(st.characters(codec="utf-8", exclude_characters='[]|"\r\n\0'), max_size=6)
abbreviation = st.text(st.characters(codec="utf-8", exclude_characters="[]|\r\n\0"), min_size=2, max_size=4)
bracketed = st.lists(st.one_of(plain, abbreviation.map("[{}]".format)), max_size=4).map("".join)


@given(st.lists(bracketed, min_size=1, max_size=4), st.sampled_from([";", ",", "\t"]))
def test_labels_survive_splitting_and_joining_and_another_delimiter(tmp_path_factory, texts, delimiter):
    folder = tmp_path_factory.mktemp("labels")
    csv, split, joined = (folder / name for name in ("in.csv", "split.csv", "joined.csv"))
    # At least one label must not be empty.
    rows = [f"images/{number}.png;{text}\n" for number, text in enumerate(["a", *texts])]
    csv.write_bytes("".join(rows).encode())
    assert call(csv, split, "--split-brackets", "--to-delimiter", delimiter, "--unicode-form", "NFC") == 0
    options = ["--delimiter", delimiter, "--to-delimiter", ";"]
    assert call(split, joined, "--add-brackets", "--join", *options) == 0
    normalised = folder / "normalised.csv"
    assert call(csv, normalised) == 0
    assert joined.read_bytes() == normalised.read_bytes()


def test_control_characters_are_printed_escaped(tmp_path, capsys):
    (tmp_path / "in.csv").write_text("1.png;a\x1b[31m\n")
    assert call(tmp_path / "in.csv", tmp_path / "out.csv", "--split-characters") == 0
    assert "line 1: 'a\\x1b[31m' -> '|a|\\x1b|[|3|1|m|'\n" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(csv, tmp_path, capsys):
    assert call(csv, tmp_path / "out.csv", "--split-brackets", "--dry-run", "--json") == 0
    assert not (tmp_path / "out.csv").exists()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["output"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split-brackets", "--split-characters"], "--split-brackets and --split-characters: use only one of them"),
        (["--add-brackets", "--drop-brackets"], "use only one of them"),
        (["--to-delimiter", "|"], "must be different characters"),
        (["--split-by", "gone.json"], "gone.json: no such alphabet file"),
        (["--map", "MAP"], "'a': 1 must be text that replaces other text"),
        (["--map", "TWO"], "two of its keys are equal after normalisation to NFC"),
        (["--encoding", "klingon"], "unknown encoding"),
        (["--delimiter", "#"], "in.csv: no row has a label; a row is path#label (--delimiter)"),
    ],
)
def test_wrong_usage_is_refused(csv, tmp_path, capsys, arguments, said):
    maps = {"MAP": '{"a": 1}', "TWO": '{"\\u00e9": "x", "e\\u0301": "y"}'}
    for name, content in maps.items():
        (tmp_path / name).write_text(content)
    arguments = [str(tmp_path / each) if each in maps else each for each in arguments]
    assert call(csv, tmp_path / "out.csv", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_an_existing_output_is_kept_unless_it_may_be_replaced(csv, capsys):
    before = csv.read_bytes()
    assert call(csv, csv, "--drop-accents") == 2
    assert "already exists" in capsys.readouterr().err
    assert csv.read_bytes() == before
    assert call(csv, csv, "--drop-accents", "--overwrite") == 0
    assert csv.read_bytes() == before.replace('"é"";"'.encode(), b'e";') + b"\r\n"


def test_an_output_in_another_unicode_normal_form_is_the_existing_file(tmp_path, capsys):
    composed, decomposed = (tmp_path / unicodedata.normalize(form, "Bücher") / "in.csv" for form in ("NFC", "NFD"))
    decomposed.parent.mkdir()
    decomposed.write_text("1.png;é\n", encoding="utf-8")
    assert call(composed, composed, "--drop-accents") == 2
    assert "already exists" in capsys.readouterr().err
    assert call(composed, composed, "--drop-accents", "--overwrite") == 0
    assert decomposed.read_text() == "1.png;e\n"
    assert list(tmp_path.iterdir()) == [decomposed.parent]


def test_files_in_object_storage_are_refused(csv, capsys):
    assert call(csv, "s3://bucket/out.csv") == 2
    assert "OUTPUT: must be a local file" in capsys.readouterr().err
