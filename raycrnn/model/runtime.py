"""PyTorch's run-time settings: precision, device and memory; copies that do not wait for a device."""

import ctypes
import os
import platform
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from raycrnn.model.cpus import usable_cpus
from raycrnn.model.crnn import CRNN


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision that a setting means on a device: auto is bf16 if the hardware supports it, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if native else "fp32"


def why_no_cuda() -> str | None:
    """Return why PyTorch cannot use the GPU of this machine, with the remedy; None if it can."""
    with warnings.catch_warnings():
        # PyTorch warns of what `init` raises.
        warnings.simplefilter("ignore")
        if torch.cuda.is_available():
            return None
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"PyTorch {torch.__version__} is built without CUDA: install a build with CUDA "
            "(https://pytorch.org/get-started/locally)"
        )
    try:
        torch.cuda.init()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
    else:
        reason = "it finds no GPU"
    return (
        f"PyTorch {torch.__version__} cannot use the GPU: {reason.rstrip('.')}. Check the driver with nvidia-smi, and "
        "the environment variable CUDA_VISIBLE_DEVICES"
    )


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return a context in which PyTorch computes in a precision: bf16 or fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def to_device(network: CRNN, device: torch.device) -> CRNN:
    """Move a network to a device, in the memory layout that is fastest for its convolutions."""
    # PyTorch's stub lacks the parameter.
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def to_device_async(values: Sequence[float], device: torch.device) -> Tensor:
    """Return numbers as float64 on a device, without waiting for it."""
    pinned = torch.tensor(values, dtype=torch.float64, pin_memory=device.type == "cuda")
    return pinned.to(device, non_blocking=True)


class HostCopy:
    """A copy of a tensor in the memory of the host, which is available once the device has computed the tensor."""

    def __init__(self, tensor: Tensor):
        self._copy = tensor.to("cpu", non_blocking=True)
        self._ready: torch.cuda.Event | None = None
        if tensor.is_cuda:
            # A blocking event lets the thread sleep, which leaves its CPU to the decoding of images.
            self._ready = torch.cuda.Event(blocking=True)
            self._ready.record()

    def read(self) -> list[float]:
        """Wait for the device, and return the numbers of the tensor, which has one axis."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._copy.tolist()


def limit_threads() -> None:
    """Have PyTorch use no more threads than there are usable CPUs.

    By default it takes one for each core of the machine, whatever the quota of a container. Threads beyond the quota
    make all of them wait.
    """
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))


def keep_freed_memory() -> None:
    """Configure glibc to keep the memory of freed tensors instead of returning it to the system after every step.

    By default, a step on the CPU causes about 15,000 page faults for memory that the step before has freed; without
    them, it is 10 to 15 % faster (half network, 32 images of 32 × 100, 2 threads). With another C library, nothing
    changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
    # The greatest value that glibc accepts.
    libc.mallopt(m_mmap_threshold, 32 * 2**20)


def keep_kernels() -> None:
    """Configure oneDNN to cache all kernels that it compiles. Call it before the first step.

    A step uses about 50 kernels, and lines 40 to 1,000 pixels wide result in batches of 60 shapes, or up to 150 with
    `training.batch_by=area`, so the default cache of 1,024 kernels is too small and most of them are compiled again.
    With a larger cache, such an epoch takes 10 to 20 % less time, and memory use does not grow (half network, 32 images
    of 32 × 48 to 944, 2 threads).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
