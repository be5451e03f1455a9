"""Training on a CSV and a recipe: new looks in each epoch, and epochs of the CSV's length."""

import pytest
import torch

from raycrnn import config
from raycrnn.config import Augmentation
from raycrnn.data import csv_files, generated_lines
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.augment import EFFECTS
from raycrnn.ingest import image_cache, sample_table
from raycrnn.ingest.batches import train_batch_spec
from tests.conftest import words, write_set
from tests.ingest.test_batches import ALLOCATION, read

pytestmark = pytest.mark.ray


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(generated_lines, "LINES", 20)
    (tmp_path / "digits.json").write_text('{"text": {"pattern": "[0-9]{3,8}"}}')
    csvs = {str(write_set(tmp_path, words(24))): 3.0, str(tmp_path / "digits.json"): 1.0}
    return config.parse(
        {
            "data": {"csv_files_train": csvs},
            "augmentation": {"data_augmentation": False},
            "training": {"train_batch_size": 8},
        }
    )


def put(configuration):
    files = csv_files.read_labelled_csvs(configuration.data.train_csvs, configuration.data)
    return sample_table.put_samples(files, Alphabet(tuple("abcdefgh0123456789")), configuration)[0]


def test_an_epoch_has_the_rows_of_the_csv_and_its_share_of_new_lines(local_ray, configuration):
    samples = put(configuration)
    spec = train_batch_spec(configuration, samples, 0, 1)
    # 24 rows of the CSV and a third as many lines of the recipe.
    assert spec.batches_per_epoch == 4
    batches, _ = read(configuration, samples, 0, 4 * 10)
    looks = {}
    for batch in batches:
        for row, image, width in zip(batch.rows_B.tolist(), batch.images_BCHW, batch.widths_B, strict=True):
            looks.setdefault(row, []).append(image[..., :width].numpy().tobytes())
    assert all(len(looks[row]) == 10 and len(set(looks[row])) == 1 for row in range(24))
    assert sorted({len(looks[row]) for row in range(24, 44)}) == [4]
    assert all(len(set(looks[row])) == 4 for row in range(24, 44))


def test_only_images_that_were_seen_before_are_changed_more_strongly(local_ray, configuration):
    """At once (after 0 passes) instead of never."""
    off = {name: {"strength": 0} for name in EFFECTS if name != "rotation"}
    batches = []
    for passes in (0, None):
        augmentation = Augmentation.model_validate(
            {
                **off,
                "elastic_distortion": {"strength": 0.5, "share": 1},
                "data_augmentation_max_rotation": 0,
                "share": 1,
                "stronger_after_passes": passes,
            }
        )
        augmented = configuration.model_copy(update={"augmentation": augmentation})
        batches.append(read(augmented, put(augmented), 0, 4)[0])
    same = {
        row: torch.equal(image, other)
        for stronger, plain in zip(*batches, strict=True)
        for row, image, other in zip(stronger.rows_B.tolist(), stronger.images_BCHW, plain.images_BCHW, strict=True)
    }
    assert not any(same[row] for row in range(24))
    assert all(is_same for row, is_same in same.items() if row >= 24) and max(same) >= 24


def test_generated_lines_are_not_kept_in_memory(local_ray, configuration):
    samples = put(configuration)
    caches = []
    image_cache.fill(samples, configuration, ALLOCATION, lambda cache: caches.append(cache) or True)
    assert [caches[-1].get(row) is None for row in range(44)] == [False] * 24 + [True] * 20
