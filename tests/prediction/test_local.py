"""When a command goes on with Ray."""

import pyarrow as pa
import pytest

from raycrnn import config
from raycrnn.cluster import start_time
from raycrnn.prediction import local
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.local import LocalReader


class Passing:
    """Stands in for the decoder: it returns the blocks as they are."""

    def decode_ahead(self, blocks):
        return iter(blocks)


@pytest.mark.parametrize(
    ("images", "seconds", "read"),
    [
        (500, [5.0] + [0.1] * 7, 500),  # 7 blocks at 0.1 s each
        (500, [11.0] + [0.1] * 7, 64),  # The first one alone took longer than Ray's start.
        (500, [5.0, 4.0], 128),  # 372 images at 4 s for 64; a second CPU saves half of it.
        (500, [1.0, 3.4] + [1.0] * 6, 500),  # The others take 19.8 s.
        (100_000, [0.5, 0.05], 128),
        (64, [60.0], 64),
    ],
)
def test_ray_takes_over_when_it_saves_more_than_its_start_takes(monkeypatch, images, seconds, read):
    clock = 0.0
    blocks = iter(seconds)

    class Transcriber:
        def __init__(self, *_):
            pass

        def __call__(self, block):
            nonlocal clock
            clock += next(blocks)
            return block

    monkeypatch.setattr(local, "Transcriber", Transcriber)
    monkeypatch.setattr(local.time, "monotonic", lambda: clock)
    monkeypatch.setattr(start_time, "estimate_start_seconds", lambda _: 10.0)
    monkeypatch.setattr(start_time, "usable_cpus", lambda: 2)
    monkeypatch.setattr(local.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(local, "usable_cpus", lambda: 2)
    inputs = pa.table({"path": pa.array([b"x"] * images), "problem": pa.nulls(images, pa.string())})
    reader = LocalReader(PredictionJob("model", config.Image()), Passing())
    assert sum(map(len, reader.read_blocks(inputs))) == read


def test_a_gpu_reads_only_few_images_here(monkeypatch):
    monkeypatch.setattr(local, "Transcriber", lambda *_: lambda block: block)
    monkeypatch.setattr(local.torch.cuda, "device_count", lambda: 1)
    for images, read in [(local.MAX_IMAGES_ON_GPU, local.MAX_IMAGES_ON_GPU), (local.MAX_IMAGES_ON_GPU + 1, 0)]:
        inputs = pa.table({"path": pa.array([b"x"] * images), "problem": pa.nulls(images, pa.string())})
        reader = LocalReader(PredictionJob("model", config.Image()), Passing())
        assert sum(map(len, reader.read_blocks(inputs))) == read
