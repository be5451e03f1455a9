"""What PyTorch says about the GPU."""

import re

import pytest
import torch

from raycrnn.model import runtime

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


@pytest.mark.parametrize(
    ("cuda", "error", "expected"),
    [
        (None, None, r"built without CUDA: install a build with CUDA \(https"),
        ("13.0", TOO_OLD, r"cannot use the GPU: The NVIDIA driver on your system is too old.*nvidia-smi"),
        ("13.0", "Found no NVIDIA driver on your system.\nMore", r"Found no NVIDIA driver on your system\. Check"),
        ("13.0", None, "it finds no GPU.*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_the_reason_why_pytorch_cannot_use_the_gpu_is_named(monkeypatch, cuda, error, expected):
    def init() -> None:
        if error:
            raise RuntimeError(error)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    assert re.search(expected, runtime.why_no_cuda())


def test_a_usable_gpu_has_no_problem(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.why_no_cuda() is None
