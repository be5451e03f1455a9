"""What the trials of a search start from, also when it is resumed."""

import json
from pathlib import Path

import pytest

from raycrnn import config
from raycrnn.storage import Directory
from raycrnn.tuning import search_file, start

BASE = {"data": {"csv_files_train": ["train.csv"], "csv_files_eval": ["eval.csv"]}, "output_model_dir": "output"}


@pytest.mark.parametrize(
    ("key", "initial_model"),
    [("model.lstm_size", None), ("data.unicode_form", None), ("training.weight_decay", "auto")],
)
def test_a_search_that_varies_the_network_starts_from_random_weights(tmp_path: Path, key: str, initial_model: str):
    values = {"model.lstm_size": "[64, 128]", "data.unicode_form": "[NFC, NFD]", "training.weight_decay": "[0.0, 0.1]"}
    path = tmp_path / "search.yaml"
    path.write_text(f"search:\n  {key}: {{choice: {values[key]}}}\nsamples: 2\n")
    search, base = search_file.load(path, BASE)
    assert start.alike(config.parse(base), search).training.initial_model == initial_model


@pytest.mark.parametrize(
    ("before", "resumed"),
    [
        ({"training": {"initial_model": "latin", "initial_alphabet": "new"}}, ("latin", "new")),
        ({"training": {"initial_model": None}}, (None, "union")),
        # A search of an earlier version, and one without any key of the group.
        ({"training": {"n_epochs": 3}}, (None, "union")),
        ({}, (None, "union")),
    ],
)
def test_a_resumed_search_starts_from_what_it_started_from(tmp_path: Path, before: dict, resumed: tuple):
    (tmp_path / "search.json").write_text(json.dumps({"configuration": before}))
    configuration = start.as_before(config.parse(BASE), Directory(str(tmp_path)))
    assert (configuration.training.initial_model, configuration.training.initial_alphabet) == resumed
    named = config.parse({**BASE, "training": {"initial_model": "other"}})
    assert start.as_before(named, Directory(str(tmp_path))) == named


def test_the_base_records_what_it_starts_from_and_nothing_else():
    base = {**BASE, "training": {"learning_decay_rate": 0.9}}
    without = config.completed(config.parse(base), {"training.initial_model": None})
    assert start.tree_of_base(base, without) == {
        **base,
        "training": {"learning_decay_rate": 0.9, "initial_model": None},
    }
    latin = config.completed(config.parse(BASE), {"training.initial_model": "latin", "model.size": "half"})
    assert start.tree_of_base(BASE, latin) == {
        **BASE,
        "model": {"size": "half"},
        "training": {"initial_model": "latin"},
    }
