"""Sizes of images behind URIs: the same as those of the whole files, from as few requests as possible."""

import io

import numpy as np
import pytest
from PIL import Image

from raycrnn.bench.object_store import ObjectStore
from raycrnn.data import image, image_files, image_heads
from raycrnn.data.rejections import Rejected
from tests.data.image_samples import COLOURS_HWC, WHOLE, encoded

NOISE_HWC = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)


def turned(file_format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(COLOURS_HWC), file_format, exif=exif)


FILES = WHOLE | {f"turned {name}": turned(name) for name in ("JPEG", "PNG", "TIFF", "WEBP")}


@pytest.mark.parametrize("name", FILES)
def test_the_size_is_that_of_the_whole_file_however_little_is_read_first(name, monkeypatch):
    data = FILES[name]
    monkeypatch.setattr(image_files, "read_head", lambda uri, count: (data[:count], len(data)))
    monkeypatch.setattr(image_files, "read_bytes", lambda uri: data)
    expected = image.size_of(io.BytesIO(data))
    for count in [*range(1, 200, 7), *range(200, len(data), 97), len(data), len(data) + 1]:
        monkeypatch.setattr(image_heads, "HEAD_BYTES", count)
        assert image_heads.measure("s3://bucket/line") == expected, count


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "PPM"])
def test_only_the_head_of_a_large_file_is_read(file_format, tmp_path):
    data = encoded(Image.fromarray(NOISE_HWC), file_format, **({"quality": 100} if file_format == "JPEG" else {}))
    assert len(data) > image_heads.HEAD_BYTES
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "a").write_bytes(data)
    with ObjectStore(tmp_path) as store:
        assert image_heads.measure(store.uri("lines", "a")) == (200, 120)
        assert store.requests == 2


def test_a_rejection_gives_the_size_of_the_whole_file(tmp_path):
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "a").write_bytes(b"no image" * 10_000)
    with ObjectStore(tmp_path) as store:
        with pytest.raises(Rejected) as remote:
            image_heads.measure(store.uri("lines", "a"))
        assert store.requests == 2
    with pytest.raises(Rejected) as local:
        image.measure(str(tmp_path / "lines" / "a"))
    assert str(remote.value) == str(local.value)
