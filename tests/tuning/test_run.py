"""What a search decides before its trials start."""

from pathlib import Path

import pytest

from raycrnn import config
from raycrnn.tuning import run, search_file

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
    assert run._start_alike(config.parse(base), search).training.initial_model == initial_model
