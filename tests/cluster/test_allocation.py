"""Allocations fit into the cluster and leave CPUs for decoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.cluster import allocate
from raycrnn.config import Cluster
from raycrnn.errors import UsageError


@given(workers=st.integers(1, 64), cpus=st.integers(1, 128), gpus=st.integers(0, 16))
def test_an_allocation_fits_and_leaves_cpus_for_decoding_or_is_refused(workers, cpus, gpus):
    try:
        allocation = allocate(Cluster(num_workers=workers), None, [(cpus, gpus)])
    except UsageError as error:
        assert workers > cpus or (gpus and workers > gpus)
        assert str(workers) in str(error)
        return
    left = cpus - workers * allocation.cpus_per_worker
    assert allocation.cpus_per_worker > 0
    assert left >= workers * allocation.cpus_per_decode_task * 0.99
    assert allocation.decode_tasks >= 1
    assert allocation.use_gpu == (gpus > 0)


def test_two_workers_run_on_two_cpus_with_one_thread_each():
    allocation = allocate(Cluster(num_workers=2), None, [(2, 0)])
    assert (allocation.num_workers, allocation.threads, allocation.cpus_per_worker) == (2, 1, 0.75)


def test_workers_that_leave_no_cpu_for_decoding_are_refused_with_the_remedy():
    with pytest.raises(UsageError, match=r"take all CPUs \(1 for each\).*cpus_per_worker=auto"):
        allocate(Cluster(num_workers=2, cpus_per_worker=1), None, [(2, 0)])


def test_a_cluster_without_cpus_is_refused():
    with pytest.raises(UsageError, match="the cluster has no CPUs"):
        allocate(Cluster(), None, [(0, 0)])


def test_num_gpus_sets_the_number_of_gpu_workers_and_warns_without_gpus():
    assert allocate(Cluster(num_gpus=2), None, [(8, 4)]).num_workers == 2
    allocation = allocate(Cluster(num_gpus=1), None, [(2, 0)])
    assert not allocation.use_gpu
    assert "no GPU is used: 1 worker(s) train on the CPU" in allocation.warning


def test_more_gpus_than_the_cluster_has_are_refused():
    with pytest.raises(UsageError, match="use_gpu=false"):
        allocate(Cluster(use_gpu=True), None, [(4, 0)])


def test_parallel_calls_set_the_decoding_tasks_of_a_worker():
    assert allocate(Cluster(), 3, [(16, 0)]).decode_tasks == 3


def test_no_worker_spans_two_nodes():
    assert allocate(Cluster(), None, [(4, 0), (4, 0)]).cpus_per_worker < 4
    assert allocate(Cluster(num_workers=3), None, [(4, 0), (4, 0)]).cpus_per_worker < 2
    assert allocate(Cluster(num_workers=2), None, [(2, 0), (8, 0)]).cpus_per_worker < 4


def test_num_gpus_0_uses_no_gpu_and_a_large_num_gpus_runs_on_few_cpus():
    assert not allocate(Cluster(num_gpus=0), None, [(8, 2)]).use_gpu
    assert allocate(Cluster(num_gpus=4), None, [(2, 0)]).num_workers == 2


def test_the_requested_decoding_tasks_all_fit():
    allocation = allocate(Cluster(), 4, [(2, 0)])
    assert allocation.decode_tasks == 4
    assert allocation.cpus_per_worker + 4 * allocation.cpus_per_decode_task <= 2


def test_an_elastic_run_uses_what_the_cluster_has_within_its_bounds():
    allocation = allocate(Cluster(num_workers=(1, 4)), None, [(1, 0), (1, 0)])
    assert (allocation.num_workers, allocation.scaling) == (2, (1, 4))
    # Ray starts as many workers as fit by what each reserves; more than these may not fit with their decoding.
    for cpus in (3, 4, 6, 9):
        allocation = allocate(Cluster(num_workers=(1, 16)), None, [(cpus, 0)])
        assert cpus // allocation.cpus_per_worker == allocation.num_workers
    assert allocate(Cluster(num_workers=(1, 2)), None, [(8, 0), (2, 0)]).cpus_per_worker <= 2
    assert allocate(Cluster(num_workers=(1, 4)), None, [(8, 2)]).num_workers == 2
    assert allocate(Cluster(num_workers=2), None, [(2, 0)]).scaling == 2
    with pytest.raises(UsageError, match="num_workers"):
        allocate(Cluster(num_workers=(3, 4)), None, [(2, 0)])


MIXED_NODES = [(0, 0), (8, 1), (8, 1), (16, 0), (16, 0)]
"""A head without CPUs, two nodes with a GPU, two without."""


def test_nodes_without_a_gpu_decode_for_nodes_with_one():
    allocation = allocate(Cluster(num_workers=2), None, MIXED_NODES)
    assert (allocation.use_gpu, allocation.cpus_per_worker) == (True, 1)
    assert (2 * allocation.decode_tasks, allocation.cpus_per_decode_task) == (46, 1)


def test_an_elastic_run_on_gpus_reserves_no_cpus_for_decoding():
    allocation = allocate(Cluster(num_workers=(1, 4)), None, MIXED_NODES)
    assert (allocation.scaling, allocation.num_workers, allocation.cpus_per_worker) == ((1, 4), 2, 1)


@given(
    workers=st.integers(1, 6),
    nodes=st.lists(st.tuples(st.integers(0, 16), st.integers(0, 2)), min_size=1, max_size=6),
    elastic=st.booleans(),
)
def test_on_any_nodes_the_workers_fit_and_a_decoding_task_fits_beside_them(workers, nodes, elastic):
    try:
        allocation = allocate(Cluster(num_workers=(1, workers) if elastic else workers), None, nodes)
    except UsageError:
        return
    # The workers are placed on as few nodes as possible.
    left, to_place = [], allocation.num_workers
    for cpus, gpus in sorted(nodes, reverse=True):
        most = gpus if allocation.use_gpu else cpus
        placed = min(to_place, most, int(cpus / allocation.cpus_per_worker + 1e-9))
        to_place -= placed
        left.append(cpus - placed * allocation.cpus_per_worker)
    assert to_place == 0
    assert max(left) >= allocation.cpus_per_decode_task * 0.999
    tasks = allocation.num_workers * allocation.decode_tasks
    assert tasks * allocation.cpus_per_decode_task <= sum(left) + 1e-6
