"""The optimizer and the learning-rate schedule."""

import math
from typing import Any

import torch
from torch import nn

from raycrnn.config import Training


def make_optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Return the optimizer that `training.optimizer` names, over all parameters of a network."""
    rate = settings.learning_rate
    parameters = list(network.parameters())
    match settings.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, rate, betas=(0.5, 0.999))
        case "rms":
            return torch.optim.RMSprop(parameters, rate)
        case "ada":
            return torch.optim.Adadelta(parameters, rate)
        case "adamw":
            # Biases and normalisation gains are vectors and are not decayed (Loshchilov and Hutter 2019).
            matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
            vectors = [parameter for parameter in parameters if parameter.ndim < 2]
            groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
            return torch.optim.AdamW(groups, rate, weight_decay=settings.weight_decay)
    raise ValueError(f"unknown optimizer {settings.optimizer!r}")


def learning_rate(settings: Training, step: int, progress: float) -> float:
    """Return the learning rate of a step.

    Args:
        step: Number of the step, from 0.
        progress: Completed fraction of the schedule, from 0 to 1.
    """
    peak = settings.learning_rate
    match settings.schedule:
        case "constant":
            return peak
        case "exponential":
            return peak * settings.learning_decay_rate ** (step // settings.learning_decay_steps)
        case "one_cycle":
            if progress < settings.warm_up:
                return peak * (0.04 + 0.96 * progress / settings.warm_up)
            falling = (progress - settings.warm_up) / max(1e-9, 1 - settings.warm_up)
            return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))
    raise ValueError(f"unknown schedule {settings.schedule!r}")
