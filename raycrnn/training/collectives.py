"""Collective operations of training workers, which all of them must call."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from raycrnn.errors import StorageError

T = TypeVar("T")


def world_size() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this worker, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over all workers, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def from_worker_0(number: int, device: torch.device) -> int:
    """Return the number of worker 0 on all workers. All workers must call it."""
    return int(all_reduce(torch.tensor(number if rank() == 0 else 0, dtype=torch.int64, device=device)))


def gather(value: T) -> list[T]:
    """Return the values of all workers in the order of their ranks. All workers must call it."""
    values: list[T] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def raise_if_storage_failed(problem: str | None) -> None:
    """Raise a `StorageError` if object storage did not deliver the images of a worker. All workers must call it."""
    problems = [problem for problem in gather(problem) if problem is not None]
    if problems:
        raise StorageError(
            f"{problems[0].rstrip('.')}. The last checkpoint and the model are unchanged: continue with "
            "restore_model=true once the storage responds"
        )
