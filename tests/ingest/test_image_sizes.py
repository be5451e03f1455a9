"""Sizes of the images of a run: measured once, kept in its output directory, also after an outage."""

import logging

import pytest

from raycrnn import storage
from raycrnn.data import image, image_heads
from raycrnn.data.image_files import SIZES_FILE
from raycrnn.data.rejections import Rejected
from raycrnn.errors import StorageError
from raycrnn.ingest import image_sizes
from raycrnn.ingest.image_sizes import ImageSizes
from raycrnn.storage import Directory
from tests.conftest import draw


@pytest.fixture
def images(tmp_path) -> list[str]:
    """URIs of images of different widths; the third is missing."""
    (tmp_path / "images").mkdir()
    for number in range(8):
        draw("a" * (number + 1)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "2.png").unlink()
    return [f"file://{tmp_path}/images/{number}.png" for number in range(8)]


@pytest.fixture
def output(tmp_path) -> Directory:
    (tmp_path / "output").mkdir()
    return Directory(tmp_path / "output")


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The URIs that are measured from now on."""
    uris, measure = [], image_heads.measure
    monkeypatch.setattr(image_heads, "measure", lambda uri: (uris.append(uri), measure(uri))[1])
    return uris


def test_images_behind_uris_are_measured_once_and_local_ones_each_time(images, output, measured):
    local = [uri.removeprefix("file://") for uri in images]
    mixed = [*images, *local, *images]
    first = ImageSizes(output).measure(mixed)
    for path, size in zip(mixed, first, strict=True):
        if path.endswith("2.png"):
            assert isinstance(size, Rejected) and size.reason == "no such file"
        else:
            assert size == image.measure(path.removeprefix("file://"))
    assert sorted(measured) == images
    # Also what was replaced: the batches of a run must stay the same. What is missing may be there again.
    draw("a long line of text").save(local[0])
    draw("a").save(local[2])
    again = ImageSizes(output).measure(mixed)
    assert measured[8:] == [images[2]]
    assert again[:2] == first[:2] and again[2] == image.measure(local[2]) and again[8] == image.measure(local[0])


def test_sizes_measured_before_an_outage_are_kept(images, output, monkeypatch):
    measure = image_heads.measure

    def fail(uri: str) -> image_sizes.Size:
        if uri == images[5]:
            raise StorageError(f"{uri}: object storage does not deliver it: SLOW_DOWN")
        return measure(uri)

    monkeypatch.setattr(image_heads, "measure", fail)
    with pytest.raises(StorageError, match="SLOW_DOWN"):
        ImageSizes(output).measure(images)
    left = []
    monkeypatch.setattr(image_heads, "measure", lambda uri: (left.append(uri), measure(uri))[1])
    ImageSizes(output).measure(images)
    assert sorted(left) == [images[2], *images[5:]]


def test_a_trial_uses_the_sizes_of_its_search(images, output, tmp_path, measured):
    ImageSizes(output).measure(images[3:])
    (tmp_path / "trial").mkdir()
    measured.clear()
    ImageSizes(Directory(tmp_path / "trial"), output).measure(images)
    assert sorted(measured) == images[:3]


@pytest.mark.parametrize("content", [b"", b"no Parquet"])
def test_a_damaged_file_is_reported_and_written_again(content, images, output, measured, caplog):
    ImageSizes(output).measure(images[3:])
    (output.path / SIZES_FILE).write_bytes(content)
    measured.clear()
    with caplog.at_level(logging.WARNING, "raycrnn"):
        ImageSizes(output).measure(images[3:])
    assert sorted(measured) == images[3:] and "the images are measured again" in caplog.text
    measured.clear()
    ImageSizes(output).measure(images[3:])
    assert measured == []


def test_sizes_are_kept_in_object_storage(images, bucket, measured):
    run = storage.join(bucket, "run")
    ImageSizes(Directory(run)).measure(images[3:])
    measured.clear()
    ImageSizes(Directory(run)).measure(images[3:])
    assert measured == [] and Directory(run).entries() == {SIZES_FILE}


def test_a_file_that_cannot_be_written_is_only_a_warning(images, tmp_path, caplog):
    (tmp_path / "output").write_text("a file")
    assert all(ImageSizes(Directory(tmp_path / "output")).measure(images[3:]))
    assert "cannot be written" in caplog.text


def test_nothing_is_written_for_local_images(images, output):
    ImageSizes(output).measure([uri.removeprefix("file://") for uri in images])
    assert output.entries() == set()
