"""Dropout (Srivastava et al. 2014)."""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """Dropout that is faster on CPUs than `torch.nn.Dropout`, which draws a random number of 32 bits for each value.

    A byte decides about a value, so the probability is a multiple of 1/256.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Set values to 0 at random, and scale the others so that the expectation stays the same."""
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        kept = max(1, round(256 * (1 - self.p)))
        words = torch.empty(-(-input.numel() // 8), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        keep = words.view(torch.uint8)[: input.numel()].view(input.shape) < kept
        return input * (keep.to(input.dtype) * (256 / kept))
