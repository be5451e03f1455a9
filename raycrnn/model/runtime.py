"""PyTorch's run-time settings: precision, device placement, memory."""

import ctypes
import os
import platform
from contextlib import AbstractContextManager

import torch

from raycrnn.model.crnn import CRNN

# --- precision


def resolve_precision(precision: str, device: torch.device) -> str:
    """auto: bf16 where the hardware computes in it rather than emulating it, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if native else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def to_device(network: CRNN, device: torch.device) -> CRNN:
    """Move to a device, in the memory layout its convolutions like."""
    return network.to(device, memory_format=torch.channels_last)


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors rather than give it back to the system after every step.

    A step on the CPU else takes some 15,000 page faults for the same memory as the step before; without them it is
    10 to 15 % faster (half network, 32 × 32×100, 2 threads). Elsewhere it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold, greatest = -1, -3, 2**31 - 1
    libc = ctypes.CDLL(None)
    # The second is limited to 32 MiB.
    libc.mallopt(trim_threshold, greatest)
    libc.mallopt(mmap_threshold, 32 * 2**20)


def keep_kernels() -> None:
    """Have oneDNN keep the kernels that it compiles for each shape of a batch; to be called before the first step.

    A step takes some 50 of them, and lines of 40 to 1,000 pixels make 60 shapes of batches: with room for 1,024, its
    default, most are compiled anew each time. With room for all, such an epoch takes a tenth to a fifth less time,
    and memory does not creep up (half network, 32 × 32×48–944, 2 threads).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
