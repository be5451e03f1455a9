"""Which of the models that come with raycrnn a new run starts from, if its configuration leaves that open."""

import json
import logging
from pathlib import Path

import pytest

from raycrnn import config
from raycrnn.training import base_model, initial_model

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
    choice = base_model.suitable(units, rows, config.parse({**groups, "data": {"csv_files_train": "new.csv"}}))
    assert choice.name == "latin"
    assert choice.line.startswith(f"latin, a model that comes with raycrnn, has {known} of the {len(units)} units: ")


@pytest.mark.parametrize(
    ("units", "rows"),
    [(LATIN, 50_000), (DIGITS, 500), (CYRILLIC, 500), ((*LATIN, *CYRILLIC[:26]), 500)],
    ids=["many rows", "digits", "another script", "two scripts"],
)
def test_a_run_for_which_the_gain_is_unknown_starts_from_random_weights(units, rows):
    configuration = config.parse({"data": {"csv_files_train": "new.csv"}})
    assert base_model.suitable(units, rows, configuration) == base_model.Choice()


@pytest.mark.parametrize(
    ("groups", "keys"),
    [
        ({"model": {"size": "full"}}, "model.size"),
        ({"model": {"lstm_layers": 1}, "image": {"input_shape": [48, 1024]}}, "model.lstm_layers, image.input_shape"),
        ({"image": {"input_channels": 3}}, "image.input_channels"),
        # In which ſ and s are one unit.
        ({"data": {"unicode_form": "NFKC"}}, "data.unicode_form"),
    ],
)
def test_keys_that_need_another_network_are_kept_and_named(groups, keys):
    tree = {**groups, "data": {"csv_files_train": "new.csv", **groups.get("data", {})}}
    choice = base_model.suitable(LATIN, 500, config.parse(tree))
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


def test_null_means_random_weights(csv, caplog):
    caplog.set_level(logging.INFO)
    tree = {"data": {"csv_files_train": str(csv)}, "training": {"initial_model": None}}
    configuration, model, _ = initial_model.prepare_run(config.parse(tree))
    assert (configuration.training.initial_model, model, caplog.text) == (None, None, "")
