"""Short Ray Data executions that make one block of each of several ranges of numbers."""

from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa
import ray.data

from raycrnn.cluster import TrainingAllocation
from raycrnn.cluster.nodes import yield_to_training

Range = tuple[int, int]
"""First number and the one after the last."""
MakeBlock = Callable[[int, int], pa.Table]
"""Makes the block of a range."""


def map_ranges(
    make: MakeBlock,
    ranges: Sequence[Range],
    allocation: TrainingAllocation,
    is_last: Callable[[pa.Table], bool] = lambda block: False,
) -> list[pa.Table]:
    """Make the blocks of some ranges in Ray's decoding tasks, one task for each range.

    The execution runs to its end before this function returns. If a consumer were slower than the tasks, Ray would
    pause them, and while it does so its executor spins and takes half a core from training. A consumer therefore asks
    for a few blocks at a time.

    Args:
        make: Makes a block; must be picklable.
        ranges: The ranges.
        allocation: CPUs of the decoding tasks.
        is_last: Returns whether the blocks after a block are not needed.

    Returns:
        The blocks, in the order of the ranges, mapped from the object store. Empty blocks are left out.
    """
    # A task without a CPU of its own uses those of the process that asks, as in a trial of a search. Ray would also run
    # it on a head node that offers no CPUs.
    here = None if allocation.cpus_per_decode_task else {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    # Up to 0.1 s pass between the end of a task and the start of the next one. With twice as many tasks, the CPUs are
    # busy in between: on two cores 10,700 images/s instead of 8,100.
    factor = 2 if allocation.decode_tasks > 1 else 1
    items = [{"first": first, "stop": stop} for first, stop in ranges]
    # Not `from_arrow`: it runs a task that asks for a whole CPU, which is never free while several workers train.
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        partial(_decode_range, make=make),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        concurrency=min(factor * allocation.decode_tasks, len(ranges)),
        num_cpus=allocation.cpus_per_decode_task / factor,
        label_selector=here,
    )
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True
    # A block is a range, however large it is.
    dataset.context.target_max_block_size = None
    blocks = []
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=len(ranges)):
        blocks.append(block)
        if is_last(block):
            break
    return blocks


def _decode_range(row: pa.Table, make: MakeBlock) -> pa.Table:
    yield_to_training()
    return make(row["first"][0].as_py(), row["stop"][0].as_py())
