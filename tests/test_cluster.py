"""What of a cluster a run takes: never more than there is, always something to decode with."""

import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.cluster import connect, plan
from raycrnn.config import Cluster
from raycrnn.errors import UsageError


@given(workers=st.integers(1, 64), cpus=st.integers(1, 128), gpus=st.integers(0, 16))
def test_an_automatic_plan_fits_and_leaves_room_to_decode_or_is_refused(workers, cpus, gpus):
    try:
        found = plan(Cluster(num_workers=workers), None, [(cpus, gpus)])
    except UsageError as error:
        assert workers > cpus or (gpus and workers > gpus)
        assert str(workers) in str(error)
        return
    left = cpus - workers * found.cpus_per_worker
    assert found.cpus_per_worker > 0
    assert left >= workers * found.cpus_per_decode_task * 0.99
    assert found.decode_tasks >= 1
    assert found.use_gpu == (gpus > 0)


def test_two_workers_run_on_two_cpus_with_a_thread_each():
    found = plan(Cluster(num_workers=2), None, [(2, 0)])
    assert (found.num_workers, found.threads, found.cpus_per_worker) == (2, 1, 0.75)


def test_workers_that_leave_nothing_to_decode_with_are_refused_and_told_why():
    with pytest.raises(UsageError, match=r"take all CPUs \(1 for each\).*cpus_per_worker=auto"):
        plan(Cluster(num_workers=2, cpus_per_worker=1), None, [(2, 0)])


def test_the_seeds_num_gpus_means_gpu_workers_and_warns_where_there_is_none():
    assert plan(Cluster(num_gpus=2), None, [(8, 4)]).num_workers == 2
    found = plan(Cluster(num_gpus=1), None, [(2, 0)])
    assert not found.use_gpu
    assert "no GPU" in found.warning


def test_gpus_asked_for_and_not_there_are_refused():
    with pytest.raises(UsageError, match="use_gpu=false"):
        plan(Cluster(use_gpu=True), None, [(4, 0)])


def test_parallel_calls_are_the_decoding_tasks_of_a_worker():
    assert plan(Cluster(), 3, [(16, 0)]).decode_tasks == 3


def test_workers_fit_on_nodes_and_not_only_into_the_sum_of_them():
    assert plan(Cluster(), None, [(4, 0), (4, 0)]).cpus_per_worker < 4
    found = plan(Cluster(num_workers=3), None, [(4, 0), (4, 0)])
    assert found.cpus_per_worker < 2
    assert plan(Cluster(num_workers=2), None, [(2, 0), (8, 0)]).cpus_per_worker < 4


def test_num_gpus_zero_keeps_off_the_gpu_and_more_than_the_cpus_does_not_refuse():
    assert not plan(Cluster(num_gpus=0), None, [(8, 2)]).use_gpu
    assert plan(Cluster(num_gpus=4), None, [(2, 0)]).num_workers == 2


def test_decoding_tasks_asked_for_all_fit():
    found = plan(Cluster(), 4, [(2, 0)])
    assert found.decode_tasks == 4
    assert found.cpus_per_worker + 4 * found.cpus_per_decode_task <= 2


def test_a_host_that_does_not_answer_is_told_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(UsageError, match=f"no Ray cluster at '127.0.0.1:{port}'"), connect(f"127.0.0.1:{port}"):
            pass
        assert time.monotonic() - start < 30


def test_an_elastic_run_takes_what_the_cluster_has_between_its_bounds():
    found = plan(Cluster(num_workers=(1, 4)), None, [(1, 0), (1, 0)])
    assert (found.num_workers, found.scaling) == (2, (1, 4))
    # Ray counts workers by what each reserves: more than these may not fit beside their decoding.
    for cpus in (3, 4, 6, 9):
        found = plan(Cluster(num_workers=(1, 16)), None, [(cpus, 0)])
        assert cpus // found.cpus_per_worker == found.num_workers
    assert plan(Cluster(num_workers=(1, 2)), None, [(8, 0), (2, 0)]).cpus_per_worker <= 2
    assert plan(Cluster(num_workers=(1, 4)), None, [(8, 2)]).num_workers == 2
    assert plan(Cluster(num_workers=2), None, [(2, 0)]).scaling == 2
    with pytest.raises(UsageError, match="num_workers"):
        plan(Cluster(num_workers=(3, 4)), None, [(2, 0)])
