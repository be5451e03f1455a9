"""Which of the models that come with raycrnn a new run starts from, if its configuration leaves that open."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from raycrnn import config
from raycrnn.data import generated_lines, image
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.training import base_model, initial_model, resume

LATIN = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789.,ſé")
DIGITS = tuple("0123456789")
CYRILLIC = tuple("абвгдежзийклмнопрстуфхцчшщъыьэюя")


@pytest.mark.parametrize(
    ("units", "rows", "groups", "known"),
    [
        (LATIN, 500, {}, len(LATIN)),
        ((*LATIN, "☃"), 500, {}, len(LATIN)),
        # Number plates: Latin letters, digits and some Chinese characters.
        ((*LATIN[:34], *"京沪粤浙苏皖闽赣湘鄂"), 500, {}, 34),
        (LATIN, 500, {"model": {"size": "half"}, "image": {"input_shape": [32, 2000]}}, len(LATIN)),
    ],
)
def test_a_run_starts_from_a_model_that_has_most_of_its_units(units, rows, groups, known):
    configuration = config.parse({**groups, "data": {"csv_files_train": "new.csv"}})
    choice = base_model.suitable(units, rows, configuration, lambda: 32)
    assert choice.name == "latin"
    assert choice.line.startswith(
        f"latin, a model that comes with raycrnn, has {known} of the {len(units)} units of the labels: "
    )


@pytest.mark.parametrize(
    "units", [DIGITS, CYRILLIC, (*LATIN, *CYRILLIC[:26])], ids=["digits", "another script", "two scripts"]
)
def test_labels_that_the_model_does_not_suit_start_from_random_weights(units):
    configuration = config.parse({"data": {"csv_files_train": "new.csv"}})
    assert base_model.suitable(units, 500, configuration, lambda: 32) == base_model.Choice()


def test_many_rows_start_from_random_weights_and_a_line_says_so():
    configuration = config.parse({"data": {"csv_files_train": "new.csv"}})
    assert base_model.suitable(LATIN, 10_000, configuration, lambda: 32).name == "latin"
    choice = base_model.suitable(LATIN, 10_001, configuration, lambda: 32)
    assert choice.name is None
    assert choice.line.endswith("starts from random weights (training.initial_model=latin: from it)")
    # Removing the size would change nothing.
    full = config.parse({"data": {"csv_files_train": "new.csv"}, "model": {"size": "full"}})
    assert base_model.suitable(LATIN, 10_001, full, lambda: 32) == base_model.Choice()


@pytest.mark.parametrize(
    ("groups", "keys"),
    [
        ({"model": {"size": "full"}}, "model.size"),
        ({"model": {"lstm_layers": 1}, "image": {"input_channels": 3}}, "model.lstm_layers, image.input_channels"),
        ({"image": {"input_channels": 3}}, "image.input_channels"),
        ({"image": {"input_shape": [80, 1024]}}, "image.input_shape"),
        # In which ſ and s are one unit.
        ({"data": {"unicode_form": "NFKC"}}, "data.unicode_form"),
    ],
)
def test_keys_that_need_another_network_are_kept_and_named(groups, keys):
    tree = {**groups, "data": {"csv_files_train": "new.csv", **groups.get("data", {})}}
    choice = base_model.suitable(LATIN, 500, config.parse(tree), lambda: 32)
    assert choice.name is None
    assert choice.line.endswith(f"for that, remove {keys}")


FEWER_ERRORS = r"; the median height of the images is 300 pixels: with.* scaled to 48 instead of 32"
MORE_ERRORS = r"; it scales images to a height of 48 pixels, because .* is (39|300): training.initial_model=latin"


@pytest.mark.parametrize(
    ("height", "rows", "shape", "name", "remark"),
    [
        (None, 500, None, "latin", ""),
        (38, 500, None, "latin", ""),
        (39, 500, None, "latin48", MORE_ERRORS),
        (300, 2_500, None, "latin48", MORE_ERRORS),
        (300, 2_501, None, "latin", FEWER_ERRORS),
        # A height that the user sets decides alone.
        (300, 500, [32, 1000], "latin", FEWER_ERRORS),
        (300, 2_501, [32, 1000], "latin", ""),
        (20, 5_000, [48, 1000], "latin48", ""),
        (300, 500, [64, 1000], "latin48", ""),
    ],
)
def test_higher_images_start_from_the_model_for_them(height, rows, shape, name, remark):
    groups = {"image": {"input_shape": shape}} if shape else {}
    configuration = config.parse({"data": {"csv_files_train": "new.csv"}, **groups})
    choice = base_model.suitable(LATIN, rows, configuration, lambda: height)
    assert choice.name == name
    assert re.search(r"starts from it \(training.initial_model=null: from random weights\)" + remark, choice.line)
    assert remark or choice.line.endswith("weights)")


@pytest.mark.parametrize(
    ("units", "rows", "groups"),
    [(CYRILLIC, 500, {}), (LATIN, 10_001, {}), (LATIN, 500, {"model": {"size": "full"}})],
    ids=["another script", "many rows", "another network"],
)
def test_images_are_not_measured_if_their_height_does_not_matter(units, rows, groups):
    configuration = config.parse({"data": {"csv_files_train": "new.csv"}, **groups})
    assert base_model.suitable(units, rows, configuration, lambda: pytest.fail("measured")).name is None


def csv_of(tmp_path: Path, sizes: list[tuple[int, int]], name: str) -> CsvFile:
    """Return rows of images with some sizes, one of which is missing, and a malformed row."""
    rows = []
    for number, size in enumerate(sizes):
        Image.new("L", size).save(tmp_path / f"{name}{number}.png")
        rows.append(Row(str(tmp_path / f"{name}{number}.png"), "a", number + 1))
    rows += [Row(str(tmp_path / "missing.png"), "a", 100), Row("no label", None, 101, problem="no label")]
    return CsvFile(str(tmp_path / f"{name}.csv"), rows)


def test_measuring_does_not_import_ray(tmp_path):
    """Its environment would come too late."""
    csv_of(tmp_path, [(300, 60)], "a")
    code = f"""
import sys
from raycrnn import config
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.training import base_model
rows = [Row({str(tmp_path / "a0.png")!r}, "a", 1)]
print(base_model.usual_height([CsvFile("a.csv", rows)], config.parse({{"data": {{"csv_files_train": "a.csv"}}}})))
print([name for name in ("ray", "torch") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["60", "[]"]


def test_the_usual_height_is_the_median_after_the_turn(tmp_path):
    files = [csv_of(tmp_path, [(300, 20), (200, 30), (5, 90)], "a"), csv_of(tmp_path, [(100, 41), (70, 50)], "b")]
    assert base_model.usual_height(files, config.parse({"data": {"csv_files_train": "new.csv"}})) == 41
    columns = config.parse({"data": {"csv_files_train": "new.csv", "line_orientation": "top_to_bottom"}})
    assert base_model.usual_height(files, columns) == 100
    known = Row("packed.parquet", "a", 1, reference="packed.parquet#0", size=(400, 60))
    files.append(CsvFile("packed.parquet", [known]))
    assert base_model.usual_height(files, config.parse({"data": {"csv_files_train": "new.csv"}})) == 45.5
    assert base_model.usual_height([csv_of(tmp_path, [], "c")], columns) is None


def test_the_usual_height_of_many_images_needs_few_of_them_whatever_their_order(tmp_path, monkeypatch):
    heights = [10, 50, 50] * 100
    measured = []
    monkeypatch.setattr(image, "measure", lambda path: measured.append(path) or (9, heights[int(Path(path).stem)]))
    rows = [Row(f"{number}.png", "a", number) for number in range(300)]
    configuration = config.parse({"data": {"csv_files_train": "new.csv"}})
    found = [
        base_model.usual_height([CsvFile("new.csv", part) for part in parts], configuration)
        for parts in ([rows], [rows[200:], rows[:200]])
    ]
    assert found == [50, 50] and len(set(measured)) == base_model.MOST_MEASURED


@pytest.fixture
def csv(tmp_path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text("".join(f"{number}.png;{unit}\n" for number, unit in enumerate(LATIN)), encoding="utf-8")
    return path


def test_the_model_and_its_network_are_those_of_a_run_without_keys(csv, caplog):
    caplog.set_level(logging.INFO)
    configuration, model, csvs = initial_model.prepare_run(config.parse({"data": {"csv_files_train": str(csv)}}))
    assert (configuration.training.initial_model, configuration.model.size) == ("latin", "half")
    assert model.sha256 == configuration.training.initial_model_sha256
    assert csvs.more_units == model.alphabet.units
    assert "training starts from it (training.initial_model=null: from random weights)" in caplog.text


def test_higher_images_get_the_height_of_their_model_also_if_they_are_folds_or_resumed(csv, caplog):
    caplog.set_level(logging.INFO)
    for number in range(len(LATIN)):
        Image.new("L", (90, 60)).save(csv.with_name(f"{number}.png"))
    tree = {"data": {"csv_files_train": str(csv)}}
    configuration, model, _ = initial_model.prepare_run(config.parse(tree))
    assert (configuration.training.initial_model, configuration.image.input_shape[0]) == ("latin48", 48)
    assert "adapted" not in caplog.text
    for fold in (1, 2):
        folds, _, _ = initial_model.prepare_run(config.parse({**tree, "training": {"folds": 2, "fold": fold}}))
        assert folds.training.initial_model_sha256 == model.sha256
    # A run of a version that had one model.
    before, _, _ = initial_model.prepare_run(config.parse({**tree, "training": {"initial_model": "latin"}}))
    progress = {"identity": before.identity(), "initial_model": "latin"}
    assert resume.complete(config.parse(tree), progress).identity() == before.identity()


def test_an_alphabet_of_the_user_stays_as_it_is(csv, tmp_path):
    alphabet = tmp_path / "alphabet.json"
    alphabet.write_text(json.dumps({unit: code for code, unit in enumerate(LATIN)}), encoding="utf-8")
    data = {"csv_files_train": str(csv), "lookup_alphabet_file": str(alphabet)}
    configuration, model, csvs = initial_model.prepare_run(config.parse({"data": data}))
    assert configuration.training.initial_model == "latin" and model is not None
    assert csvs.alphabet.units == LATIN
    progress = {"identity": configuration.identity(), "initial_model": "latin"}
    resumed = resume.complete(config.parse({"data": data}), progress)
    assert resumed.identity() == configuration.identity()
    union = {"data": data, "training": {"initial_alphabet": "union"}}
    _, model, csvs = initial_model.prepare_run(config.parse(union))
    assert csvs.alphabet.units == tuple(dict.fromkeys((*LATIN, *model.alphabet.units)))


def test_a_fold_that_is_trained_alone_starts_like_the_others(csv, caplog):
    tree = {"data": {"csv_files_train": str(csv), "fold_group": "(.)"}, "training": {"folds": 2}}
    rows = csv.read_text(encoding="utf-8").splitlines()
    # Fold 1 is trained on letters or on the other units, but not on both.
    text = "".join(f"{'a' if row.split(';')[1] in LATIN[:18] else 'b'}{row}\n" for row in rows)
    csv.write_text(text, encoding="utf-8")
    for fold in (1, 2):
        own = config.parse({**tree, "training": {"folds": 2, "fold": fold}})
        configuration, _, csvs = initial_model.prepare_run(own)
        assert configuration.training.initial_model == "latin"
        assert {unit for file in csvs.train for row in file.rows for unit in row.label} < set(LATIN)


def test_lines_of_a_recipe_do_not_count_as_rows(csv, tmp_path, monkeypatch):
    monkeypatch.setattr(generated_lines, "LINES", 200)
    monkeypatch.setattr(base_model, "MOST_ROWS", 200)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"text": {"pattern": "[a-z]{5,9}"}}))
    files = [str(csv), str(recipe)]
    for own in (files, files[1:], files[1:] * 2, {csv: 0.5 for csv in files}):
        configuration, _, csvs = initial_model.prepare_run(config.parse({"data": {"csv_files_train": own}}))
        assert sum(len(file.rows) for file in csvs.train) >= 200
        assert configuration.training.initial_model == "latin"


def test_columns_are_read_after_the_turn_without_a_warning(csv, caplog):
    data = {"csv_files_train": str(csv), "line_orientation": "top_to_bottom"}
    configuration, _, _ = initial_model.prepare_run(config.parse({"data": data}))
    assert configuration.training.initial_model == "latin"
    assert "line_orientation" not in caplog.text


def test_null_means_random_weights(csv, caplog):
    caplog.set_level(logging.INFO)
    tree = {"data": {"csv_files_train": str(csv)}, "training": {"initial_model": None}}
    configuration, model, _ = initial_model.prepare_run(config.parse(tree))
    assert (configuration.training.initial_model, model, caplog.text) == (None, None, "")
