"""The devices on which tests run: always the CPU, and a GPU where there is one (`make test-gpu`)."""

import pytest
import torch

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)

DEVICES = ["cpu", CUDA]
