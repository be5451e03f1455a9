"""Batch normalisation (Ioffe and Szegedy 2015) with the statistics of the global batch, without padding.

Tensor names end in their shape, as in `raycrnn.model.crnn`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SumOverWorkers = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers, in place, and returns it. All workers call it equally often."""


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose statistics in training are those of the pixels of all workers' images.

    Parameters, buffers and evaluation are those of `torch.nn.BatchNorm2d`. Unlike `torch.nn.SyncBatchNorm`, it excludes
    padding, runs on any device, and accepts a share without pixels.
    """

    sum_over_workers: SumOverWorkers | None = None
    """None: there is one worker."""

    def forward(self, input: Tensor, mask_B11W: Tensor | None = None) -> Tensor:
        """Normalise [B, C, H, W].

        Args:
            input: The values, float32 or bfloat16.
            mask_B11W: bool, False for padding. Only training needs it. The result for padding is finite, and no
                gradient goes back to it.
        """
        if not self.training or mask_B11W is None:
            return super().forward(input)
        assert self.running_mean is not None
        shift_C = self.running_mean.to(input.dtype)
        # Padding becomes equal to the shift, so that it contributes nothing to sums of deviations from the shift.
        x_BCHW = torch.where(mask_B11W, input, shift_C[:, None, None])
        pixels, mean_C, variance_C = self._statistics(x_BCHW, shift_C, mask_B11W.sum() * input.shape[2])
        self._update_running_statistics(pixels, mean_C, variance_C)
        return _Normalise.apply(
            x_BCHW, self.weight, self.bias, mean_C, variance_C, pixels, self.eps, self.sum_over_workers
        )

    @torch.no_grad()
    def _statistics(self, x_BCHW: Tensor, shift_C: Tensor, own_pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the number of pixels of all workers, and their mean and biased variance."""
        assert self.running_mean is not None
        # On CPUs, bfloat16 values have float32 statistics only beside float32 running statistics.
        unused_C = torch.zeros_like(self.running_mean)
        mean_C, variance_C = torch.batch_norm_update_stats(x_BCHW, unused_C, unused_C.clone(), 0.0)
        # Float64 sums of deviations from the running mean, which is close to the mean and the same on all workers: the
        # difference of squares then has no cancellation, even if the mean is much larger than the deviation.
        size, offset_C = x_BCHW.numel() // x_BCHW.shape[1], mean_C.double() - shift_C.double()
        squares_C = variance_C.double() + offset_C.square()
        sums = torch.cat([own_pixels.double()[None], size * offset_C, size * squares_C])
        if self.sum_over_workers is not None:
            sums = self.sum_over_workers(sums)
        # There are no pixels if all images of a batch were rejected.
        pixels = sums[0].clamp(min=1)
        offset_C, squares_C = (sums[1:] / pixels).chunk(2)
        mean_C = (shift_C.double() + offset_C).to(mean_C.dtype)
        return sums[0], mean_C, (squares_C - offset_C.square()).clamp(min=0).to(mean_C.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, pixels: Tensor, mean_C: Tensor, variance_C: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        unbiased_C = variance_C * (pixels / (pixels - 1).clamp(min=1)).to(variance_C.dtype)
        # Training skips a step whose values overflow; its statistics would spoil all later ones.
        usable_C = (pixels > 0) & torch.isfinite(mean_C) & torch.isfinite(unbiased_C)
        for running_C, batch_C in ((self.running_mean, mean_C), (self.running_var, unbiased_C)):
            running_C.copy_(torch.where(usable_C, running_C.lerp(batch_C, self.momentum), running_C))
        self.num_batches_tracked += pixels > 0


class _Normalise(torch.autograd.Function):
    """Normalise by the statistics of the global batch, which depend on the input."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        mean_C: Tensor,
        variance_C: Tensor,
        pixels: Tensor,
        eps: float,
        sum_over_workers: SumOverWorkers | None,
    ) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, variance_C, pixels)
        ctx.eps, ctx.sum_over_workers = eps, sum_over_workers
        return F.batch_norm(x_BCHW, mean_C, variance_C, weight_C, bias_C, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_C, mean_C, variance_C, pixels = ctx.saved_tensors
        (gradient_BCHW,) = gradients
        # The gradients of weight and bias. Those of the mean and the variance are multiples of them.
        _, weight_gradient_C, bias_gradient_C = torch.ops.aten.native_batch_norm_backward(
            gradient_BCHW, x_BCHW, weight_C, mean_C, variance_C, None, None, False, ctx.eps, [False, True, True]
        )
        sums_2C = torch.stack([weight_gradient_C, bias_gradient_C])
        if ctx.sum_over_workers is not None:
            sums_2C = ctx.sum_over_workers(sums_2C)
        by_variance_C, by_mean_C = sums_2C / pixels.clamp(min=1).to(sums_2C.dtype)
        # scale × (gradient − by_mean − by_variance × (x − mean) × inverse), as a linear function of gradient and x.
        inverse_C = (variance_C + ctx.eps).rsqrt()
        scale_C = weight_C * inverse_C
        slope_C = -scale_C * by_variance_C * inverse_C
        intercept_C = -scale_C * by_mean_C - slope_C * mean_C
        x_gradient_BCHW = torch.addcmul(intercept_C[:, None, None], x_BCHW, slope_C[:, None, None])
        x_gradient_BCHW.addcmul_(gradient_BCHW, scale_C[:, None, None])
        return x_gradient_BCHW.to(x_BCHW.dtype), weight_gradient_C, bias_gradient_C, None, None, None, None, None
