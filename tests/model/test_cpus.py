"""The number of usable CPUs follows the affinity and the quota."""

import os
from pathlib import Path

import pytest
import torch

from raycrnn.model import cpus, runtime

VERSION_1 = "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n3:cpuset:/docker/1f\n0::/\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that writes control groups for a process that may run on 64 CPUs."""

    def write(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    monkeypatch.setattr(cpus, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(cpus, "OWN_CONTROL_GROUPS", Path(tmp_path, "own"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    return write


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        # Version 2: a container, without a limit, with a fraction of a CPU, and a job of a scheduler.
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 50000\n"}, 64),
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n", "job/cpu.max": "350000 100000\n"}, 3),
        # Version 1: in a container its own group is mounted at the top.
        (VERSION_1, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (VERSION_1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        (
            VERSION_1,
            {"cpu/docker/1f/cpu.cfs_quota_us": "400000\n", "cpu/docker/1f/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("0::/\n", {}, 64),
    ],
)
def test_the_quota_of_a_container_limits_the_cpus(system, own, files, expected):
    system(own, files)
    assert cpus.usable_cpus() == expected


def test_the_affinity_limits_the_cpus(system, monkeypatch):
    system("0::/\n", {"cpu.max": "400000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 7, 9}, raising=False)
    assert cpus.usable_cpus() == 3


def test_without_control_groups_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cpus, "OWN_CONTROL_GROUPS", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpus.usable_cpus() == 6


def test_pytorch_takes_no_more_threads_than_usable_cpus(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for usable, expected in ((8, 4), (2, 2)):
            monkeypatch.setattr(runtime, "usable_cpus", lambda usable=usable: usable)
            runtime.limit_threads()
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
