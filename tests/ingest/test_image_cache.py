"""The image cache: the same batches without files; when images are cached."""

import numpy as np
import pytest
import torch

from raycrnn import config
from raycrnn.data import image
from raycrnn.ingest import batches, image_cache
from raycrnn.ingest.stream import BatchStream
from tests.conftest import draw, words, write_set
from tests.ingest.test_batches import ALLOCATION, put, read, settings

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("augment", [True, False])
def test_cached_images_make_the_same_batches_and_no_file_is_read(local_ray, tmp_path, augment, monkeypatch):
    csv = write_set(tmp_path, words(30))
    tree = {"data": {"csv_files_train": str(csv)}, "augmentation": {"data_augmentation": augment}}
    configuration = config.parse({**tree, "training": {"train_batch_size": 8}})
    samples = put(configuration)
    read_from_files, _ = read(configuration, samples, 0, 8)
    published = []
    monkeypatch.setattr(image_cache, "IMAGES_PER_CHUNK", 4)
    image_cache.fill(samples, configuration, ALLOCATION, lambda cache: published.append(cache) or True)
    assert len(published[-1].chunks) == 8
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    spec = batches.train_batch_spec(configuration, samples, 0, 1)
    stream = BatchStream(spec, ALLOCATION, 0, 8, get_image_cache=lambda: published[-1])
    cached = list(stream)
    assert not stream.rejected
    for batch, expected in zip(cached, read_from_files, strict=True):
        assert torch.equal(batch.images_BCHW, expected.images_BCHW)
        assert torch.equal(batch.rows_B, expected.rows_B)


def test_an_unreadable_image_is_not_cached(local_ray, tmp_path):
    csv = write_set(tmp_path, words(5))
    configuration = settings(csv)
    samples = put(configuration)
    (tmp_path / "images" / "labels_2.png").unlink()
    published = []
    image_cache.fill(samples, configuration, ALLOCATION, lambda cache: published.append(cache) or True)
    found = [published[-1].get(index) for index in range(5)]
    assert [decoded is None for decoded in found] == [False, False, True, False, False]
    assert found[0].shape == (*np.asarray(draw(words(5)[0])).shape, 1)


def test_filling_ends_when_publish_returns_false(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "IMAGES_PER_CHUNK", 2)
    monkeypatch.setattr(image_cache, "CHUNKS_PER_EXECUTION", 1)
    configuration = settings(write_set(tmp_path, words(10)))
    published = []
    image_cache.fill(
        put(configuration),
        configuration,
        ALLOCATION,
        lambda cache: published.append(len(cache.chunks)) or len(published) < 3,
    )
    assert published == [1, 2, 3]


def test_images_are_cached_by_setting_and_size(local_ray, tmp_path, monkeypatch):
    csv = write_set(tmp_path, words(10))
    samples = put(settings(csv))
    sizes = [image.measure(str(path)) for path in (tmp_path / "images").iterdir()]
    assert samples.decoded_bytes == sum(width * height for width, height in sizes)
    for wanted, allowed, expected in [
        ("auto", 10**9, True),
        ("auto", 100, False),
        (True, 100, True),
        (False, 10**9, False),
    ]:
        monkeypatch.setattr(image_cache, "max_bytes", lambda allowed=allowed: allowed)
        data = {"csv_files_train": str(csv), "keep_decoded": wanted}
        assert image_cache.should_cache(samples, config.parse({"data": data})) == expected


def test_the_object_store_of_a_head_node_without_cpus_does_not_limit_the_cache(monkeypatch):
    gigabyte = 10.0**9
    nodes = [
        {"Alive": True, "Resources": {"object_store_memory": gigabyte / 10}},
        {"Alive": True, "Resources": {"object_store_memory": 8 * gigabyte, "CPU": 4.0}},
        {"Alive": True, "Resources": {"object_store_memory": 4 * gigabyte, "CPU": 4.0}},
        {"Alive": False, "Resources": {"object_store_memory": 1.0, "CPU": 4.0}},
    ]
    monkeypatch.setattr(image_cache.ray, "nodes", lambda: nodes)
    assert image_cache.max_bytes() == gigabyte
