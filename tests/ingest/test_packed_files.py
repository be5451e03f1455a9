"""Training from packed data sets: the same samples as from the CSV, from a disk and from object storage."""

import dataclasses

import pytest
import torch

from raycrnn import config
from raycrnn.bench.object_store import ObjectStore
from raycrnn.cluster import nodes
from raycrnn.data import csv_files, packed_images
from raycrnn.errors import StorageError
from raycrnn.ingest import image_cache, packed_files, sample_table
from tests.conftest import words, write_set
from tests.data.test_packed_images import pack_csv
from tests.ingest.test_batches import ALLOCATION, ALPHABET, read

pytestmark = pytest.mark.ray


@pytest.fixture
def csv(tmp_path):
    """A CSV whose images are of different widths, with a row that cannot be used."""
    csv = write_set(tmp_path / "csv", words(30))
    with csv.open("a") as file:
        file.write("images/labels_3.png;unknown\n")
    return csv


def settings(place, **data):
    return config.parse(
        {"data": {"csv_files_train": str(place), "max_rejected": 1, **data}, "training": {"train_batch_size": 8}}
    )


def put(configuration):
    files = csv_files.read_labelled_csvs(configuration.data.train_csvs, configuration.data)
    return sample_table.put_samples(files, ALPHABET, configuration)[0]


def batches_of(configuration, samples):
    batches, stream = read(configuration, samples, 0, 8)
    assert stream.problem is None
    return [dataclasses.astuple(batch) for batch in batches]


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(batch, other, strict=True))


@pytest.fixture
def expected(local_ray, csv):
    configuration = settings(csv)
    return batches_of(configuration, put(configuration))


def test_a_packed_set_makes_the_same_batches_as_its_csv(local_ray, csv, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_images, "ROW_GROUP_ROWS", 4)
    files = pack_csv(csv, tmp_path / "packed", shard_bytes=5000)
    assert len(files) > 2
    configuration = settings(tmp_path / "packed")
    samples = put(configuration)
    assert [(each.reason, each.line) for each in samples.rejections] == [("unknown unit", 31)]
    assert_same(expected, batches_of(configuration, samples))


def test_files_in_object_storage_are_read_once(local_ray, csv, expected, tmp_path):
    (file,) = pack_csv(csv, tmp_path / "bucket")
    with ObjectStore(tmp_path) as store:
        configuration = settings(store.uri("bucket", file.name))
        samples = put(configuration)
        before = store.requests
        assert_same(expected, batches_of(configuration, samples))
        chunks = []
        image_cache.fill(samples, configuration, ALLOCATION, lambda cache: chunks.append(cache) or True)
        assert [chunks[-1].get(row) is not None for row in range(30)] == [True] * 30
        assert store.requests == before


def test_files_larger_than_the_memory_are_read_by_range(local_ray, csv, expected, tmp_path, monkeypatch):
    (file,) = pack_csv(csv, tmp_path / "bucket")
    monkeypatch.setattr(nodes, "smallest_object_store", lambda: 4.0 * file.stat().st_size - 4)
    with ObjectStore(tmp_path) as store:
        configuration = settings(store.uri("bucket", file.name))
        samples = put(configuration)
        assert samples.packed == {}
        assert_same(expected, batches_of(configuration, samples))


def test_storage_that_fails_is_named(local_ray, csv, tmp_path):
    (file,) = pack_csv(csv, tmp_path / "bucket")
    with ObjectStore(tmp_path) as store:
        configuration = settings(store.uri("bucket", file.name))
        files = csv_files.read_labelled_csvs(configuration.data.train_csvs, configuration.data)
        store.fault = lambda path: "denied"
        with pytest.raises(StorageError, match=r"00000\.parquet.*cannot be read"):
            packed_files.put([files[0].resolve(row) for row in files[0].rows])
