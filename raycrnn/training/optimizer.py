"""The optimizer and the learning-rate schedule."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from raycrnn.config import Training


def make_optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Return the optimizer that `training.optimizer` names, over all parameters of a network that are not frozen."""
    rate, groups = settings.learning_rate, _parameter_groups(network, settings)
    # On a GPU, this keeps the optimizer's step counters there, so that the GPU can decide whether a step counts.
    capturable = groups[0]["params"][0].is_cuda
    match settings.optimizer:
        case "adam":
            return torch.optim.Adam(groups, rate, betas=(0.5, 0.999), fused=True)
        case "rms":
            return torch.optim.RMSprop(groups, rate, capturable=capturable)
        case "ada":
            return torch.optim.Adadelta(groups, rate, capturable=capturable)
        case "adamw":
            return torch.optim.AdamW(groups, rate, weight_decay=settings.weight_decay, fused=True)
    raise ValueError(f"unknown optimizer {settings.optimizer!r}")


def _parameter_groups(network: nn.Module, settings: Training) -> list[dict[str, Any]]:
    """Return the parameter groups, each with the factor of its learning rate.

    A checkpoint has the optimizer's state in their order, which must not depend on settings that a resumed run may
    change.
    """
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    parts = [(1.0, list(trained.values()))]
    if settings.initial_model_sha256 is not None:
        output = [parameter for name, parameter in trained.items() if name.startswith("output.")]
        others = [parameter for name, parameter in trained.items() if not name.startswith("output.")]
        parts = [(settings.initial_layers_rate, others), (1.0, output)]
    if settings.optimizer != "adamw":
        return [{"params": parameters, "rate_factor": factor} for factor, parameters in parts]
    groups: list[dict[str, Any]] = []
    for factor, parameters in parts:
        # Biases and normalisation gains are vectors and are not decayed (Loshchilov and Hutter 2019).
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        groups.append({"params": matrices, "rate_factor": factor})
        groups.append({"params": vectors, "rate_factor": factor, "weight_decay": 0.0})
    return groups


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], factor: Tensor, clip: float | None) -> Tensor:
    """Multiply the gradients by a factor, and limit their total norm; return the norm before it is limited.

    The host does not wait for the numbers: factor and norm are tensors on the device of the parameters.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients) * factor
    if clip is not None:
        factor = factor * (clip / (norm + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factor)
    return norm


@torch.no_grad()
def step_if(optimizer: torch.optim.Optimizer, usable: Tensor) -> None:
    """Step the optimizer if `usable`, a bool on the device, is True; otherwise change neither parameters nor state.

    The host does not wait for the decision.
    """
    if optimizer.defaults.get("fused"):
        # The fused kernels read this flag, which is how `torch.amp.GradScaler` skips a step.
        optimizer.found_inf = (~usable).float()  # type: ignore[attr-defined]
        optimizer.step()
        return
    before = {tensor: tensor.clone() for tensor in _tensors(optimizer)}
    optimizer.step()
    for tensor in _tensors(optimizer):
        # The state that the first step creates starts at 0.
        tensor.copy_(torch.where(usable, tensor, before[tensor] if tensor in before else torch.zeros_like(tensor)))


def _tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters of an optimizer and the tensors of its state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return parameters + [tensor for parameter in parameters for tensor in optimizer.state[parameter].values()]


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
