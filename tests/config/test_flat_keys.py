"""The flat keys of tf-crnn."""

import json

import pytest

from raycrnn import config
from tests.config.samples import FLAT, LEAF_OF_FLAT_KEY, LEAST, leaf, nested, refusal


def flat_values() -> dict:
    """Yield the key and value of every leaf of `FLAT`."""
    return {k: v for k, v in FLAT.items() if k != "training_params"} | FLAT["training_params"]


@pytest.fixture
def flat_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(FLAT).replace("10000.0", "1e4"), encoding="utf-8")
    return path


def test_every_flat_key_is_tested():
    assert flat_values().keys() == LEAF_OF_FLAT_KEY.keys()
    assert config.GROUP_OF_FLAT_KEY.keys() <= LEAF_OF_FLAT_KEY.keys()


@pytest.mark.parametrize("key", LEAF_OF_FLAT_KEY)
def test_a_flat_key_sets_its_grouped_key(key, flat_file):
    path, value = LEAF_OF_FLAT_KEY[key], flat_values()[key]
    expected = (value,) if key == "csv_files_eval" else tuple(value) if isinstance(value, list) else value
    assert leaf(config.load(flat_file), path) == expected
    assert leaf(config.parse(LEAST), path) != expected, "a value that is the default shows nothing"


def test_augmentation_can_be_switched_off_by_the_flat_key():
    flat = {"csv_files_train": "a.csv", "data_augmentation": False}
    assert config.parse(flat).augmentation.data_augmentation is False


@pytest.mark.parametrize("keep_prob", [0.25, 0.5, 1, 1.0])
def test_the_flat_keep_prob_sets_the_one_of_the_model(keep_prob):
    assert config.parse({"csv_files_train": "a.csv", "keep_prob": keep_prob}).model.keep_prob == keep_prob


def test_flat_and_grouped_keys_can_be_mixed():
    found = config.parse(
        {
            "csv_files_train": "a.csv",
            "data": {"csv_delimiter": ","},
            "training_params": {"n_epochs": 3},
            "training": {"seed": 5},
            "keep_prob": 0.9,
            "model": {"size": "half"},
        }
    )
    assert found.data.csv_files_train == ("a.csv",)
    assert found.data.csv_delimiter == ","
    assert (found.training.n_epochs, found.training.seed) == (3, 5)
    assert (found.model.keep_prob, found.model.size) == (0.9, "half")


def test_overrides_apply_after_flat_keys_are_grouped():
    found = config.parse(FLAT, ["training.n_epochs=7", "model.keep_prob=0.5"])
    assert (found.training.n_epochs, found.model.keep_prob) == (7, 0.5)


@pytest.mark.parametrize("key", [key for key, path in LEAF_OF_FLAT_KEY.items() if "." in path])
def test_a_key_given_flat_and_in_its_group_is_refused(key):
    path, value = LEAF_OF_FLAT_KEY[key], flat_values()[key]
    in_params = key in FLAT["training_params"]
    flat = {"training_params": {key: value}} if in_params else {key: value}
    message = refusal(tree={**flat, **nested(path, value)})
    assert f"{path} is given twice" in message
    assert message.startswith("mine.json")


@pytest.mark.parametrize(
    "tree", [{"training_params": 5}, {"training": 5, "training_params": {}}, {"keep_prob": 1, "model": []}]
)
def test_a_group_that_is_not_an_object_is_refused_before_flat_keys_are_grouped(tree):
    assert "must be a JSON object" in refusal(tree=tree)
