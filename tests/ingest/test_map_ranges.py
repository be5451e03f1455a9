"""Blocks of ranges, made by Ray Data."""

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


def test_an_error_in_a_task_is_raised(local_ray):
    import ray

    def fail(first: int, stop: int) -> pa.Table:
        raise ValueError("no block")

    with pytest.raises(ray.exceptions.RayTaskError, match="no block"):
        map_ranges(fail, [(0, 1)], ALLOCATION)
