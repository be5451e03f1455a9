"""Which of the models that come with raycrnn a new run starts from, if its configuration leaves that open."""

import json
import logging
from pathlib import Path

import pytest

from raycrnn import config
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
    choice = base_model.suitable(units, rows, config.parse({**groups, "data": {"csv_files_train": "new.csv"}}), 32)
    assert choice.name == "latin"
    assert choice.line.startswith(
        f"latin, a model that comes with raycrnn, has {known} of the {len(units)} units of the labels: "
    )


@pytest.mark.parametrize(
    "units", [DIGITS, CYRILLIC, (*LATIN, *CYRILLIC[:26])], ids=["digits", "another script", "two scripts"]
)
def test_labels_that_the_model_does_not_suit_start_from_random_weights(units):
    configuration = config.parse({"data": {"csv_files_train": "new.csv"}})
    assert base_model.suitable(units, 500, configuration, 32) == base_model.Choice()


def test_many_rows_start_from_random_weights_and_a_line_says_so():
    configuration = config.parse({"data": {"csv_files_train": "new.csv"}})
    assert base_model.suitable(LATIN, 10_000, configuration, 32).name == "latin"
    choice = base_model.suitable(LATIN, 10_001, configuration, 32)
    assert choice.name is None
    assert choice.line.endswith("starts from random weights (training.initial_model=latin: from it)")
    # Removing the size would change nothing.
    full = config.parse({"data": {"csv_files_train": "new.csv"}, "model": {"size": "full"}})
    assert base_model.suitable(LATIN, 10_001, full, 32) == base_model.Choice()


@pytest.mark.parametrize(
    ("groups", "keys"),
    [
        ({"model": {"size": "full"}}, "model.size"),
        ({"model": {"lstm_layers": 1}, "image": {"input_channels": 3}}, "model.lstm_layers, image.input_channels"),
        ({"image": {"input_channels": 3}}, "image.input_channels"),
        # In which ſ and s are one unit.
        ({"data": {"unicode_form": "NFKC"}}, "data.unicode_form"),
    ],
)
def test_keys_that_need_another_network_are_kept_and_named(groups, keys):
    tree = {**groups, "data": {"csv_files_train": "new.csv", **groups.get("data", {})}}
    choice = base_model.suitable(LATIN, 500, config.parse(tree), 32)
    assert choice.name is None
    assert choice.line.endswith(f"for that, remove {keys}")


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


def test_lines_of_a_recipe_do_not_count_as_rows(csv, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"text": {"pattern": "[a-z]{5,9}"}}))
    files = [str(csv), str(recipe)]
    for own in (files, files[1:], files[1:] * 2, {csv: 0.5 for csv in files}):
        configuration, _, csvs = initial_model.prepare_run(config.parse({"data": {"csv_files_train": own}}))
        assert sum(len(file.rows) for file in csvs.train) >= 10_000
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
