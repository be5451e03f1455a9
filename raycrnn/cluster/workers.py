"""Workers of Ray that die or fail."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from raycrnn.cluster.ray_internals import attempt_number
from raycrnn.errors import RaycrnnError

if TYPE_CHECKING:
    import ray.data

MAX_DEATHS = 8
"""How many times the process of a task or a replica may die. Ray would retry without limit."""


def check_deaths(who: str, remedy: str) -> int:
    """Return how many times the process of this task or this replica died before.

    Ray's own limits (`max_retries`, `max_restarts`) are not accepted by Ray Data from Ray 2.64 on.

    Raises:
        RaycrnnError: It died more than `MAX_DEATHS` times.
    """
    deaths = attempt_number()
    if deaths > MAX_DEATHS:
        raise RaycrnnError(f"{who} died {deaths} times; {remedy}")
    return deaths


def read_blocks(dataset: "ray.data.Dataset") -> Iterator[pa.Table]:
    """Run a data set of Ray Data and yield its blocks. Raises `RaycrnnError` if a worker fails or dies repeatedly."""
    import ray

    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayError as error:
        raise RaycrnnError(message_of_worker(error) or f"workers were lost: {error}") from None


def message_of_worker(error: Exception) -> str | None:
    """Return the message if a worker failed with an error of raycrnn. Ray passes on only the text of its traceback."""
    found = re.findall(r"^raycrnn\.errors\.\w+: (.+?)(?:\n\n|\Z)", str(error), re.MULTILINE | re.DOTALL)
    return f"in a worker: {found[-1].strip()}" if found else None
