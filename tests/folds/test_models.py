"""The directory with the models of all folds."""

import pytest

from raycrnn import Voter, storage
from raycrnn.folds import models
from raycrnn.metrics.error_rates import Counts
from raycrnn.model import model_files
from tests.conftest import draw
from tests.model.test_voter import recognizer


@pytest.mark.parametrize("in_storage", [False, True])
def test_the_models_of_all_folds_are_copied_with_a_card(tmp_path, request, in_storage):
    folders = []
    for seed in (1, 2):
        recognizer(seed).save(tmp_path / f"run-{seed}" / "model")
        folders.append(str(tmp_path / f"run-{seed}" / "model"))
        if in_storage:
            place = storage.join(request.getfixturevalue("bucket"), f"run-{seed}", "model")
            for file in (tmp_path / f"run-{seed}" / "model").iterdir():
                storage.upload(file, storage.join(place, file.name))
            folders[-1] = place
    counts = Counts(samples=1200, exact=900, unit_edits=25, units=1000, word_edits=1, words=10)
    for _ in range(2):
        models.write(tmp_path / "model", folders, "(b.)_", counts)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "fold-1",
        "fold-2",
        "models.json",
    ]
    assert model_files.file_digests(tmp_path / "model") == model_files.file_digests(folders)
    line = draw("abba")
    assert Voter.load(tmp_path / "model", "cpu")(line) == Voter.load(folders, "cpu")(line)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "2 models" in card and "`(b.)_`" in card and "1,200 rows" in card
    assert "| Character error rate (CER) | 2.50% |" in card
