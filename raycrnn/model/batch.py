"""A batch of fitted images with their labels."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One worker's share of a batch. Without samples (`len` 0) the tensors still hold one blank image, so that
    every worker takes every step."""

    images_BCHW: Tensor
    """uint8"""
    widths_B: Tensor
    """int64, each image's own width"""
    codes_S: Tensor
    """int64, the labels' codes, one label after the other; `UNKNOWN` may occur in evaluation"""
    lengths_B: Tensor
    """int64, units of each label"""
    rows_B: Tensor
    """int64, index of each sample in its set"""

    def __len__(self) -> int:
        return len(self.rows_B)

    def to(self, device: torch.device) -> "Batch":
        tensors = (self.images_BCHW, self.widths_B, self.codes_S, self.lengths_B)
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors), rows_B=self.rows_B)

    def labels(self) -> list[list[int]]:
        return [codes.tolist() for codes in self.codes_S.split(self.lengths_B.tolist())]
