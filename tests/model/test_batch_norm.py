"""Batch normalisation: equal to PyTorch's on the pixels without padding, precise, and without effect on padding."""

import copy

import pytest
import torch
from torch import Tensor

from raycrnn.model.batch_norm import MaskedBatchNorm
from tests.devices import DEVICES

WIDTHS = [7, 12, 3]
MASK = (torch.arange(12) < torch.tensor(WIDTHS)[:, None])[:, None, None, :]


def values(mean: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return [3, 5, 4, 12], with noise as padding that must have no influence."""
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(3, 5, 4, 12, generator=generator) + mean * torch.arange(5)[:, None, None]
    return x_BCHW.to(dtype).contiguous(memory_format=torch.channels_last)


def pixels(x_BCHW: Tensor) -> Tensor:
    """Return the values without padding, [N, C]."""
    return x_BCHW.permute(0, 2, 3, 1)[MASK.expand(-1, -1, 4, -1)[:, 0]]


def norms() -> tuple[MaskedBatchNorm, torch.nn.BatchNorm1d]:
    """Return the normalisation, and PyTorch's for comparison, with the same parameters."""
    torch.manual_seed(0)
    own, reference = MaskedBatchNorm(5), torch.nn.BatchNorm1d(5)
    own.weight.data.uniform_(0.5, 1.5)
    own.bias.data.normal_()
    own.running_mean.normal_()
    reference.load_state_dict(own.state_dict())
    return own, reference


def test_it_equals_that_of_torch_on_the_pixels_without_padding():
    own, reference = norms()
    x, gradient = values().requires_grad_(), torch.randn(3, 5, 4, 12)
    own(x, MASK).backward(gradient * MASK)
    y, x_gradient = own(x, MASK), x.grad
    x.grad = None
    expected = reference(pixels(x))
    expected.backward(pixels(gradient))
    reference(pixels(x))
    assert torch.allclose(pixels(y), expected, atol=3e-5)
    assert torch.allclose(x_gradient, x.grad, atol=1e-5)
    for name, tensor in reference.state_dict().items():
        assert torch.allclose(own.state_dict()[name].to(tensor.dtype), tensor, atol=1e-5), name
    for name, parameter in reference.named_parameters():
        assert torch.allclose(own.get_parameter(name).grad, parameter.grad, atol=1e-4), name
    assert torch.equal(own.eval()(x), torch.nn.functional.batch_norm(x, *statistics(own), own.weight, own.bias))


def statistics(norm: MaskedBatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def test_its_gradients_are_those_of_its_result():
    norm = norms()[0].double()
    x = values(dtype=torch.float64).requires_grad_()
    norm.momentum = 0.0
    parameters = (norm.weight, norm.bias)
    assert torch.autograd.gradcheck(lambda *inputs: call(norm, *inputs), (x, *parameters), fast_mode=True)


def call(norm: MaskedBatchNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x, MASK)) * MASK


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_statistics_are_precise_if_the_mean_is_much_larger_than_the_deviation(dtype):
    """A difference of sums of squares in float32 would have no correct digit here."""
    norm = MaskedBatchNorm(5)
    norm.momentum = 1.0
    x = values(mean=1000.0, dtype=dtype)
    for _ in range(2):
        norm(x, MASK)
    mean, variance = statistics(norm)
    expected = pixels(x).double()
    # torch sums float32 numbers in float32, on each thread those of its share; the fewer threads, the larger the error.
    assert torch.allclose(mean.double(), expected.mean(0), rtol=5e-6, atol=1e-6)
    assert torch.allclose(variance.double(), expected.var(0), rtol=1e-4)


def test_the_result_in_bfloat16_is_that_in_float32_rounded():
    x = values(dtype=torch.bfloat16)
    norm, _ = norms()
    exact, rounded = norm(x.float(), MASK), norm(x, MASK)
    assert rounded.dtype == torch.bfloat16
    assert torch.allclose(pixels(rounded).float(), pixels(exact), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_gpus_compute_what_cpus_do(device, dtype, tolerance):
    norm, _ = norms()
    gradient = torch.randn(3, 5, 4, 12) * MASK
    results = []
    for used in ("cpu", device):
        copied = copy.deepcopy(norm).to(used)
        x = values(dtype=dtype).to(used).requires_grad_()
        y = copied(x, MASK.to(used))
        y.backward(gradient.to(used, dtype))
        tensors = [pixels(y.cpu()), x.grad, copied.weight.grad, copied.bias.grad, *statistics(copied)]
        results.append([tensor.detach().float().cpu() for tensor in tensors])
    for on_cpu, on_gpu in zip(*results, strict=True):
        assert torch.allclose(on_cpu, on_gpu, rtol=tolerance, atol=tolerance)


def test_a_batch_without_pixels_changes_no_statistics():
    norm, _ = norms()
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    x = values().requires_grad_()
    norm(x, torch.zeros_like(MASK)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.equal(norm.state_dict()[name], tensor) for name, tensor in before.items())


def test_values_that_overflow_do_not_stay_in_the_statistics():
    norm, _ = norms()
    norm(torch.full((3, 5, 4, 12), torch.inf), MASK)
    assert all(torch.isfinite(buffer).all() for buffer in norm.buffers())
