"""The CPUs that a process may use. This module does not need PyTorch."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CONTROL_GROUPS = Path("/sys/fs/cgroup")

OWN_CONTROL_GROUPS = Path("/proc/self/cgroup")
"""Lists the control groups of this process, of version 1 and 2; see cgroups(7)."""


def usable_cpus() -> int:
    """Return how many CPUs this process may use by its affinity and by the CPU quota of its container.

    Fractions of a quota are dropped, as Ray does, but the result is at least 1.
    """
    by_affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([by_affinity, *_quotas()])))


def _quotas() -> Iterator[float]:
    """Yield the quotas, in CPUs, of the control groups of this process and of the groups that contain them."""
    try:
        lines = OWN_CONTROL_GROUPS.read_text().splitlines()
    except OSError:
        # Another system than Linux.
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Only version 1 names controllers, each of which has a hierarchy of its own.
        hierarchy = CONTROL_GROUPS / "cpu" if controllers else CONTROL_GROUPS
        # In a container, the path may be that of the host, of which only the top is mounted.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            yield from _quota(hierarchy / group.relative_to("/"))


def _quota(group: Path) -> Iterator[float]:
    try:
        if (limits := group / "cpu.max").exists():
            quota, period = limits.read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return
    # Without a limit, version 2 says "max" and version 1 says -1.
    if quota not in ("max", "-1"):
        yield int(quota) / int(period)
