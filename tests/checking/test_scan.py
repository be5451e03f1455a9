"""The notes on single images."""

import hashlib
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from raycrnn.checking import executor, scan
from raycrnn.checking.scan import scan_block
from raycrnn.cluster import start_time
from raycrnn.data import image, image_files
from raycrnn.data.rejections import Rejected
from raycrnn.errors import StorageError
from tests.checking.faults import plant
from tests.conftest import draw


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The images of a data set with every fault."""
    return plant(tmp_path_factory.mktemp("faults")).parent / "images"


def reason_of(read) -> str | None:
    try:
        read()
    except Rejected as rejected:
        return rejected.reason
    return None


def test_notes_agree_with_the_functions_that_training_calls(images):
    paths = [*map(str, sorted(images.iterdir())), str(images / "gone.png"), "\0.png"]
    for path, row in zip(paths, scan.scan_images(paths, 1).to_pylist(), strict=True):
        measured = reason_of(lambda path=path: image.measure(path))
        decoded = reason_of(lambda path=path: image.decode(image_files.read_bytes(path)))
        assert (row["header_rejected"] or [None])[0] == measured, path
        assert (row["rejected"] or row["header_rejected"] or [None])[0] == decoded, path
        if measured is None:
            assert tuple(row["header_size"]) == image.measure(path)
        if decoded is None:
            pixels = image.to_array(image.decode(image_files.read_bytes(path)))
            assert row["size"] == [pixels.shape[1], pixels.shape[0]]
            assert row["is_blank"] == bool((pixels == pixels[0, 0]).all())


def test_the_digest_is_that_of_the_file(tmp_path):
    draw("ab").save(tmp_path / "a.png")
    [row] = scan.scan_images([str(tmp_path / "a.png")], 1).to_pylist()
    assert row["digest"] == hashlib.blake2b((tmp_path / "a.png").read_bytes(), digest_size=16).digest()


def test_a_colour_image_is_blank_only_if_all_channels_are(tmp_path):
    Image.new("RGB", (40, 32), "red").save(tmp_path / "red.png")
    with Image.new("RGB", (40, 32), "red") as picture:
        picture.putpixel((3, 3), (255, 0, 9))
        picture.save(tmp_path / "dot.png")
    table = scan.scan_images([str(tmp_path / "red.png"), str(tmp_path / "dot.png")], 3)
    assert table["is_blank"].to_pylist() == [True, False]


def test_storage_that_fails_is_no_fault_of_an_image(monkeypatch):
    def fail(paths):
        raise StorageError("no connection")

    monkeypatch.setattr(image_files, "iter_readers", fail)
    monkeypatch.setattr(executor, "_local_blocks", lambda paths, channels: iter([scan.scan_images(paths, channels)]))
    with pytest.raises(StorageError, match="no connection"):
        executor.scan_all(["s3://lines/a.png"], 1)


def die_at_bad_images(table, channels):
    """Return the notes on a block, but die at an image whose name begins with "bad"."""
    if any(Path(path).name.startswith("bad") for path in table["path"].to_pylist()):
        os.kill(os.getpid(), signal.SIGSEGV)
    return scan_block(table, channels)


def test_an_image_that_kills_its_decoder_is_one_damaged_image(tmp_path, monkeypatch):
    for name in ("a.png", "bad.png", "c.png"):
        draw(name).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in ("a.png", "bad.png", "c.png")]
    monkeypatch.setattr(scan, "scan_block", die_at_bad_images)
    first, second, third = executor.scan_all(paths, 1).to_pylist()
    assert [first, third] == scan.scan_images([paths[0], paths[2]], 1).to_pylist()
    assert second["header_rejected"] == ["damaged image", "its decoder died"]


@pytest.mark.ray
def test_ray_makes_the_same_notes_in_the_same_order(local_ray, images, monkeypatch):
    paths = list(map(str, sorted(images.iterdir())))
    alone = executor.scan_all(paths, 1)
    monkeypatch.setattr(executor, "IMAGES_PER_BLOCK", 17)
    monkeypatch.setattr(start_time, "is_worth_starting", lambda *_: True)
    assert executor.scan_all(paths, 1).equals(alone)
