"""Dropout: how many values it drops, what becomes of the others, and where the gradient goes."""

import pytest
import torch

from raycrnn.model.dropout import Dropout
from tests.devices import DEVICES


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_it_drops_the_share_and_keeps_the_expectation(p: float, device: str):
    torch.manual_seed(0)
    x = torch.ones(1000, 333, device=device)
    y = Dropout(p)(x)
    dropped = (y == 0).double()
    assert dropped.mean() == pytest.approx(p, abs=0.004)
    assert y.mean() == pytest.approx(1, abs=0.01)
    assert len(y.unique()) == 2
    # Neighbours are independent: both are dropped in p² of the pairs.
    assert (dropped[:, 1:] * dropped[:, :-1]).mean() == pytest.approx(p * p, abs=0.006)
    assert dropped.mean(dim=0).std() == pytest.approx((p * (1 - p) / 1000) ** 0.5, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_goes_where_the_values_go(dtype: torch.dtype):
    x = torch.linspace(1, 2, 3 * 5 * 7).view(3, 5, 7).to(dtype).requires_grad_()
    y = Dropout(0.3)(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert torch.equal(y, x * x.grad)
    assert 0 < (x.grad == 0).sum() < x.numel()


def test_the_seed_decides():
    x, first, second = torch.ones(100), Dropout(0.5), Dropout(0.5)
    torch.manual_seed(1)
    one = first(x)
    torch.manual_seed(1)
    assert torch.equal(one, second(x))
    assert not torch.equal(one, second(x))


@pytest.mark.parametrize("dropout", [Dropout(0.0), Dropout(0.5).eval()], ids=["p=0", "evaluation"])
def test_it_changes_nothing(dropout: Dropout):
    x = torch.randn(4, 3)
    assert torch.equal(dropout(x), x)
