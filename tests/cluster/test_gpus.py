"""GPUs that Ray counts and PyTorch cannot use."""

import logging

import pytest

from raycrnn import cluster
from raycrnn.cluster import gpus, nodes
from raycrnn.config import Cluster
from raycrnn.errors import UsageError
from raycrnn.model import runtime

NODES = [(2.0, 0.0), (8.0, 1.0)]
BUILD = "PyTorch 2.13.0+cpu is built without CUDA"


@pytest.fixture
def torch_without_cuda(monkeypatch):
    monkeypatch.setattr(nodes, "is_local", lambda: True)
    monkeypatch.setattr(runtime, "why_no_cuda", lambda: BUILD)


@pytest.mark.parametrize("settings", [Cluster(), Cluster(num_gpus=1)])
def test_with_auto_the_reason_is_logged_and_no_gpu_is_used(torch_without_cuda, caplog, settings):
    caplog.set_level(logging.WARNING)
    found = cluster.with_usable_gpus(settings, NODES)
    assert found == [(2.0, 0.0), (8.0, 0.0)]
    assert [record.message for record in caplog.records] == [f"no GPU is used: {BUILD}"]
    assert not cluster.allocate(settings, None, found).use_gpu


def test_with_use_gpu_the_run_is_refused_with_the_reason(torch_without_cuda):
    with pytest.raises(UsageError, match=r"^cluster.use_gpu=true: PyTorch .* without CUDA.*use_gpu=auto"):
        cluster.with_usable_gpus(Cluster(use_gpu=True), NODES)
    with pytest.raises(UsageError, match=r"^cluster.use_gpu=true: PyTorch .* without CUDA.*use_gpu=auto"):
        cluster.require_gpu()


@pytest.mark.parametrize(
    ("settings", "found"), [(Cluster(), [(8.0, 0.0)]), (Cluster(use_gpu=False), NODES), (Cluster(num_gpus=0), NODES)]
)
def test_pytorch_is_not_asked_where_no_gpu_would_be_used(monkeypatch, settings, found):
    monkeypatch.setattr(gpus, "_find_problem", lambda: pytest.fail("asked"))
    assert cluster.with_usable_gpus(settings, found) == found


def test_usable_gpus_are_used(monkeypatch):
    monkeypatch.setattr(gpus, "_find_problem", lambda: None)
    assert cluster.with_usable_gpus(Cluster(use_gpu=True), NODES) == NODES


def test_a_node_is_asked_in_a_new_process_that_sees_its_gpus(monkeypatch):
    # As Ray sets it for a task without a GPU.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = gpus._probe()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert answer == (runtime.why_no_cuda() or "")


@pytest.mark.ray
def test_each_node_with_a_gpu_is_asked(local_ray, monkeypatch):
    import ray

    [node] = ray.nodes()
    monkeypatch.setattr(nodes, "is_local", lambda: False)
    monkeypatch.setattr(ray, "nodes", lambda: [{**node, "Resources": {"CPU": 1.0, "GPU": 1.0}}])
    monkeypatch.setattr(gpus, "_probe", _probe_without_cuda)
    assert gpus._find_problem() == f"node {node['NodeManagerAddress']}: {BUILD}"


def _probe_without_cuda() -> str:
    return BUILD
