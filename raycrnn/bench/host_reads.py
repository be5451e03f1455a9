"""Count how often the host waits for numbers that a device computes."""

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from torch.autograd.profiler_util import FunctionEvent
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

OPERATORS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::unique_dim",
    "aten::_unique2",
}
"""Operators whose result, or its shape, a GPU must have computed before the host can go on."""

CPU_KERNELS = {"aten::_fused_adam_", "aten::_fused_adamw_"}
"""Operators that read tensors on the host only if they run on a CPU: step counters, which GPUs read themselves."""

METHODS = {"tolist", "numpy", "cpu", "__array__"}
"""Methods that wait for a GPU without calling one of `OPERATORS` on a CPU."""


class HostReads(TorchFunctionMode):
    """Counts the reads in a `with` block. It also works on a CPU, where reading does not take time."""

    def __init__(self) -> None:
        super().__init__()
        self._methods = 0
        self._profile = profile(activities=[ProfilerActivity.CPU])

    @property
    def count(self) -> int:
        """The number of reads in the block."""
        reads = [event for event in self.events if event.name in OPERATORS]
        return self._methods + sum(CPU_KERNELS.isdisjoint(_callers(event)) for event in reads)

    @property
    def events(self) -> Sequence[FunctionEvent]:
        """The calls of operators in the block, including calls by other operators."""
        return self._profile.events() or []

    def __enter__(self) -> "HostReads":
        self._profile.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._profile.__exit__(kind, error, traceback)

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._methods += getattr(func, "__name__", "") in METHODS
        return func(*args, **(kwargs or {}))


def _callers(event: FunctionEvent) -> Iterator[str]:
    caller = event.cpu_parent
    while caller is not None:
        yield caller.name
        caller = caller.cpu_parent
