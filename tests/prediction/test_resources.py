"""The allocation of replicas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn import cluster, config
from raycrnn.cluster import gpus
from raycrnn.errors import UsageError
from raycrnn.prediction import resources
from raycrnn.prediction.job import PredictionJob


def job(replicas: int | None = None, shape: tuple[int, int] = (32, 1024)) -> PredictionJob:
    return PredictionJob("model", config.Image(input_shape=shape), replicas=replicas)


@pytest.mark.parametrize(
    ("nodes", "images", "asked", "expected"),
    [
        ([(2, 0)], 10**6, None, resources.ReplicaAllocation(2, 0.75, 0, 1, 0.25, 1024)),
        ([(2, 0)], 10**6, 1, resources.ReplicaAllocation(1, 1.5, 0, 2, 0.25, 1024)),
        ([(2, 0)], 800, None, resources.ReplicaAllocation(2, 0.75, 0, 1, 0.25, 100)),
        ([(2, 0)], 3, None, resources.ReplicaAllocation(1, 1.5, 0, 2, 0.25, 64)),
        ([(4, 0), (4, 0)], 10**6, 1, resources.ReplicaAllocation(1, 3, 0, 4, 0.25, 1024)),
        ([(16, 1)], 10**6, None, resources.ReplicaAllocation(1, 0.5, 1, 1, 1, 1024)),
        ([(16, 2)], 10**6, 4, resources.ReplicaAllocation(4, 0.5, 0.5, 1, 1, 1024)),
    ],
)
def test_replicas_and_decoding_share_the_cluster(monkeypatch, nodes, images, asked, expected):
    monkeypatch.setattr(cluster, "list_nodes", lambda: nodes)
    monkeypatch.setattr(gpus, "_find_problem", lambda: None)
    assert resources.allocate_replicas(images, job(asked)) == expected


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=4),
    st.integers(1, 10**7),
    st.none() | st.integers(1, 64),
)
def test_every_allocation_fits_the_cluster(nodes, images, asked):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "list_nodes", lambda: [(float(cpus), float(gpus)) for cpus, gpus in nodes])
        patch.setattr(gpus, "_find_problem", lambda: None)
        try:
            allocation = resources.allocate_replicas(images, job(asked))
        except UsageError:
            assert asked > sum(cpus for cpus, _ in nodes)
            return
    places = [int(cpus / allocation.cpus + 1e-9) for cpus, _ in nodes]
    if allocation.gpus:
        places = [
            min(place, int(gpus / allocation.gpus + 1e-9)) for place, (_, gpus) in zip(places, nodes, strict=True)
        ]
    assert sum(places) >= allocation.count
    # A decoding task fits on some node, wherever the replicas are.
    left = [cpus - place * allocation.cpus for place, (cpus, _) in zip(places, nodes, strict=True)]
    average = (sum(cpus for cpus, _ in nodes) - allocation.count * allocation.cpus) / len(nodes)
    assert max(*left, average) >= allocation.decode_cpus - 1e-9


def test_gpus_that_pytorch_cannot_use_get_no_replicas(monkeypatch):
    monkeypatch.setattr(cluster, "list_nodes", lambda: [(2.0, 1.0)])
    monkeypatch.setattr(gpus, "_find_problem", lambda: "PyTorch is built without CUDA")
    assert resources.allocate_replicas(10**6, job()) == resources.ReplicaAllocation(2, 0.75, 0, 1, 0.25, 1024)


def test_blocks_of_very_wide_images_are_smaller():
    images = resources.images_per_block(10**6, 2, config.Image(input_shape=(128, 8192), input_channels=3))
    assert images * 128 * 8192 * 3 <= resources.MAX_BYTES_PER_BLOCK


@given(st.integers(0, 20_000), st.integers(1, 1024), st.integers(0, 20_000))
def test_blocks_cover_all_images_once_and_are_small_at_the_start(images, per_block, first):
    bounds = resources.block_bounds(images, per_block)
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(images))
    rest = resources.block_bounds(images, per_block, first)
    assert [row for start, stop in rest for row in range(start, stop)] == list(range(first, images))
    assert rest[1:] == bounds[len(bounds) - len(rest) + 1 :]
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes, default=0) <= per_block
    assert max(sizes[: resources.SMALL_BLOCKS], default=0) <= resources.MIN_IMAGES_PER_BLOCK
    assert set(sizes[resources.SMALL_BLOCKS : -1]) <= {per_block}
