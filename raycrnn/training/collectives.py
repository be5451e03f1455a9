"""Collective operations between training workers."""

import torch.distributed as dist
from torch import Tensor, nn

# --- several workers


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum over all workers, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def share_statistics(network: nn.Module) -> None:
    """Average the batch-norm statistics of all workers, so that each evaluates and saves the same network."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            all_reduce(buffer).div_(world_size())
