"""Blocks of ranges, made by Ray Data."""

import threading
from dataclasses import replace

import pyarrow as pa
import pytest

from raycrnn.ingest.map_ranges import map_ranges
from tests.ingest.test_batches import ALLOCATION

pytestmark = pytest.mark.ray


def test_there_is_one_block_for_each_range_in_order(local_ray):
    def make(first: int, stop: int) -> pa.Table:
        return pa.table({"number": range(first, stop), "bytes": [b"x" * 1000] * (stop - first)})

    ranges = [(3 * start, 3 * start + 3) for start in range(9)] + [(27, 28)]
    blocks = map_ranges(make, ranges, replace(ALLOCATION, decode_tasks=2))
    assert [block["number"].to_pylist() for block in blocks] == [list(range(*numbers)) for numbers in ranges]


def test_blocks_after_the_last_that_is_needed_are_left_out(local_ray):
    def make(first: int, stop: int) -> pa.Table:
        return pa.table({"number": range(first, stop)})

    blocks = map_ranges(make, [(0, 1), (1, 2), (2, 3)], ALLOCATION, lambda block: block["number"][0].as_py() == 1)
    assert [block["number"].to_pylist() for block in blocks] == [[0], [1]]


def test_an_error_in_a_task_is_raised(local_ray):
    import ray

    def fail(first: int, stop: int) -> pa.Table:
        raise ValueError("no block")

    with pytest.raises(ray.exceptions.RayTaskError, match="no block"):
        map_ranges(fail, [(0, 1)], ALLOCATION)


def test_tasks_without_cpus_run_beside_the_process_that_asks(local_ray, monkeypatch):
    import ray.data

    asked = []
    own = ray.data.Dataset.map_batches

    def map_batches(self, *arguments, **options):
        asked.append(options.get("label_selector"))
        return own(self, *arguments, **options)

    def make(first: int, stop: int) -> pa.Table:
        return pa.table({"node": [ray.get_runtime_context().get_node_id()]})

    monkeypatch.setattr(ray.data.Dataset, "map_batches", map_batches)
    for cpus in (0.0, 0.25):
        [block] = map_ranges(make, [(0, 1)], replace(ALLOCATION, cpus_per_decode_task=cpus))
    here = ray.get_runtime_context().get_node_id()
    assert block["node"].to_pylist() == [here]
    assert asked == [{"ray.io/node-id": here}, None]


def test_blocks_are_made_while_less_than_one_cpu_is_free(local_ray):
    """Training workers hold the other CPUs, so a task that asks for a whole CPU would wait until training ends."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    def make(first: int, stop: int) -> pa.Table:
        return pa.table({"number": range(first, stop)})

    group = placement_group([{"CPU": ray.available_resources()["CPU"] - 0.5}])
    ray.get(group.ready(), timeout=30)
    blocks: list[pa.Table] = []
    thread = threading.Thread(target=lambda: blocks.extend(map_ranges(make, [(0, 3), (3, 5)], ALLOCATION)), daemon=True)
    try:
        thread.start()
        thread.join(60)
        assert [block["number"].to_pylist() for block in blocks] == [[0, 1, 2], [3, 4]]
    finally:
        remove_placement_group(group)
