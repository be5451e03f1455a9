"""`raycrnn words`: sets, the contact sheet, and refusals."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycrnn.cluster import start_time
from raycrnn.data.csv_files import read_csv, split_label
from raycrnn.data.synthetic import recipe
from raycrnn.data.synthetic.generator import LineGenerator
from raycrnn.tools import word_sets
from raycrnn.tools.words import Words

PLATES = "text.pattern=[A-Z]{2}-[0-9]{2}"


def call(*arguments: object) -> int:
    return Words.call([str(argument) for argument in arguments], "words")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def files_of(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_set_is_what_the_generator_draws(capsys):
    assert call("set", PLATES, "--count", 30, "--eval-count", 10, "--seed", 3, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    settings = recipe.load(None, [PLATES])
    labels = {}
    for part, count in (("train", 30), ("eval", 10)):
        rows = read_csv(f"set/{part}.csv").rows
        made = LineGenerator(settings, 3, part)
        assert [row.label for row in rows] == [made.label(row) for row in range(count)]
        for number, row in enumerate(rows):
            assert re.fullmatch("[A-Z]{2}-[0-9]{2}", row.label)
            with Image.open(f"set/{row.path}") as image:
                assert np.array_equal(np.asarray(image), np.asarray(made.draw(number)))
        labels[part] = {row.label for row in rows}
        assert result[part] == {
            "file": f"set/{part}.csv",
            "lines": count,
            "texts": len(labels[part]),
            "characters": len(set("".join(labels[part]))),
        }
    assert not labels["train"] & labels["eval"]
    assert set(os.listdir()) == {"set"}


def test_the_same_command_gives_the_same_files():
    for folder in ("a", "b"):
        assert call(folder, PLATES, "--count", 5, "--eval-count", 2) == 0
    assert files_of("a") == files_of("b")


def test_an_evaluation_set_alone_has_the_same_lines_as_beside_a_training_set():
    assert call("both", PLATES, "--count", 3, "--eval-count", 4) == 0
    assert call("alone", PLATES, "--count", 0, "--eval-count", 4) == 0
    assert files_of("alone") == {name: data for name, data in files_of("both").items() if "eval" in name}


def test_labels_with_delimiters_and_quotes_are_read_back():
    assert call("set", 'text.pattern=[;"a|]{1,4}', "--count", 100, "--eval-count", 0) == 0
    made = LineGenerator(recipe.load(None, ['text.pattern=[;"a|]{1,4}']), 0)
    rows = read_csv("set/train.csv").rows
    assert [split_label(row.label) for row in rows] == [tuple(made.label(row)) for row in range(100)]
    with open("set/train.csv", encoding="utf-8", newline="") as file:
        others = [row[1] for row in csv.reader(file, delimiter=";", strict=True)]
    assert others == [row.label for row in rows]
    assert not os.path.exists("set/eval.csv")


@pytest.mark.ray
def test_ray_draws_the_same_lines(local_ray, monkeypatch):
    assert call("here", PLATES, "--count", 25, "--eval-count", 3) == 0
    monkeypatch.setattr(start_time, "is_worth_starting", lambda *_: True)
    monkeypatch.setattr(word_sets, "ROWS_PER_TASK", 4)
    assert call("there", PLATES, "--count", 25, "--eval-count", 3) == 0
    assert files_of("here") == files_of("there")


def test_the_contact_sheet_is_one_picture_and_no_set():
    assert call("--contact-sheet", "look.png", PLATES) == 0
    assert os.listdir() == ["look.png"]
    with Image.open("look.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.height > 24 * 32
    before = Path("look.png").read_bytes()
    assert call("--contact-sheet", "look.png", PLATES, "--seed", 1) == 2
    assert Path("look.png").read_bytes() == before
    assert call("--contact-sheet", "look.png", PLATES, "--seed", 1, "--overwrite") == 0
    assert Path("look.png").read_bytes() != before


def test_a_set_is_replaced_only_on_request_and_nothing_else_is():
    assert call("set", PLATES, "--count", 3, "--eval-count", 1) == 0
    before = files_of("set")
    assert call("set", PLATES, "--count", 2, "--eval-count", 0) == 2
    assert files_of("set") == before
    assert call("set", PLATES, "--count", 2, "--eval-count", 0, "--overwrite") == 0
    assert set(files_of("set")) == {"train.csv", "images/train_000000.png", "images/train_000001.png"}
    Path("set/notes.txt").write_text("mine")
    assert call("set", PLATES, "--count", 2, "--overwrite") == 2
    assert Path("set/notes.txt").read_text() == "mine"


def test_words_that_cannot_be_drawn_are_reported(capsys):
    Path("book.txt").write_text("good words\nЖук\n", encoding="utf-8")
    options = ("text.eval_share=0", "--count", 4, "--eval-count", 0, "--json")
    assert call("set", "text.files=book.txt", *options) == 0
    out, err = capsys.readouterr()
    assert "1 word is left out: no font has 'Ж' (U+0416 CYRILLIC CAPITAL LETTER ZHE) (1)" in err
    assert json.loads(out.splitlines()[-1])["left_out"]["examples"] == ["Жук"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set",), "give text.files, text.language or text.pattern"),
        ((PLATES,), "name one directory"),
        (("a", "b", PLATES), "not a, b"),
        (("a", "x.json", "y.json"), "one recipe at a time"),
        (("a", PLATES, "--count", "0", "--eval-count", "0"), "both 0"),
        (("a", "missing.json"), "missing.json: no such file"),
        (("a", PLATES, "txt.language=en"), "txt: unknown key; did you mean text?"),
        (("a", PLATES, "fonts.files=nowhere"), "nowhere: no such file or folder"),
        (("a", "text.pattern=[0-9]", "--eval-count", "0", "text.characters=5"), "length 1, not 5 to 5"),
        (("a", "text.pattern=x"), "reserved for evaluation"),
        (("a", PLATES, "--contact-sheet", "look.png"), "leave the directory out"),
        ((PLATES, "--contact-sheet", "look.jpg"), "ends in .png"),
    ],
)
def test_mistakes_are_refused_and_leave_nothing_behind(arguments, message, capsys):
    assert call(*arguments) == 2
    assert message in capsys.readouterr().err
    assert os.listdir() == []


def test_a_write_that_fails_leaves_nothing_behind(monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(word_sets, "_write", full)
    assert call("set", PLATES, "--count", 3) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert os.listdir() == []
