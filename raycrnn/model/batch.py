"""A batch of images with their labels."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One worker's part of a batch.

    A part without samples has length 0, but its tensors contain one blank image, so that the worker can take part in
    every training step. It has no effect on the batch-norm statistics.
    """

    images_BCHW: Tensor
    """uint8, padded on the right."""
    widths_B: Tensor
    """int64, the width of each image without padding."""
    codes_S: Tensor
    """int64, the codes of all labels, concatenated. In evaluation, they can include `csv_files.UNKNOWN`."""
    lengths_B: Tensor
    """int64, the number of units in each label."""
    rows_B: Tensor
    """int64, the row of each sample in its set."""

    def __len__(self) -> int:
        return len(self.rows_B)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; `rows_B` stays where it is."""
        return Batch(
            images_BCHW=self.images_BCHW.to(device, non_blocking=True),
            widths_B=self.widths_B.to(device, non_blocking=True),
            codes_S=self.codes_S.to(device, non_blocking=True),
            lengths_B=self.lengths_B.to(device, non_blocking=True),
            rows_B=self.rows_B,
        )

    def split(self, size: int) -> "list[Batch]":
        """Return the samples in parts of at most `size`, which are views of this batch; the padding stays as it is."""
        lengths = self.lengths_B.split(size)
        codes = self.codes_S.split([int(lengths_P.sum()) for lengths_P in lengths])
        tensors = (self.images_BCHW.split(size), self.widths_B.split(size), codes, lengths, self.rows_B.split(size))
        return [Batch(*part) for part in zip(*tensors, strict=True)]

    def labels(self) -> list[list[int]]:
        """Return the codes of each label."""
        return [codes.tolist() for codes in self.codes_S.split(self.lengths_B.tolist())]
