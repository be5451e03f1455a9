"""What of a cluster a run takes: never more than there is, always something to decode with."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.bench.serve import free_port
from raycrnn.cluster import allocate, connect
from raycrnn.cluster.connection import object_store_bytes
from raycrnn.cluster.ray_internals import count_starting_nodes
from raycrnn.config import Cluster
from raycrnn.errors import UsageError
from tests.training.test_recovery import apart


@given(workers=st.integers(1, 64), cpus=st.integers(1, 128), gpus=st.integers(0, 16))
def test_an_automatic_plan_fits_and_leaves_room_to_decode_or_is_refused(workers, cpus, gpus):
    try:
        found = allocate(Cluster(num_workers=workers), None, [(cpus, gpus)])
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
    found = allocate(Cluster(num_workers=2), None, [(2, 0)])
    assert (found.num_workers, found.threads, found.cpus_per_worker) == (2, 1, 0.75)


def test_workers_that_leave_nothing_to_decode_with_are_refused_and_told_why():
    with pytest.raises(UsageError, match=r"take all CPUs \(1 for each\).*cpus_per_worker=auto"):
        allocate(Cluster(num_workers=2, cpus_per_worker=1), None, [(2, 0)])


def test_the_seeds_num_gpus_means_gpu_workers_and_warns_where_there_is_none():
    assert allocate(Cluster(num_gpus=2), None, [(8, 4)]).num_workers == 2
    found = allocate(Cluster(num_gpus=1), None, [(2, 0)])
    assert not found.use_gpu
    assert "no GPU" in found.warning


def test_gpus_asked_for_and_not_there_are_refused():
    with pytest.raises(UsageError, match="use_gpu=false"):
        allocate(Cluster(use_gpu=True), None, [(4, 0)])


def test_parallel_calls_are_the_decoding_tasks_of_a_worker():
    assert allocate(Cluster(), 3, [(16, 0)]).decode_tasks == 3


def test_workers_fit_on_nodes_and_not_only_into_the_sum_of_them():
    assert allocate(Cluster(), None, [(4, 0), (4, 0)]).cpus_per_worker < 4
    found = allocate(Cluster(num_workers=3), None, [(4, 0), (4, 0)])
    assert found.cpus_per_worker < 2
    assert allocate(Cluster(num_workers=2), None, [(2, 0), (8, 0)]).cpus_per_worker < 4


def test_num_gpus_zero_keeps_off_the_gpu_and_more_than_the_cpus_does_not_refuse():
    assert not allocate(Cluster(num_gpus=0), None, [(8, 2)]).use_gpu
    assert allocate(Cluster(num_gpus=4), None, [(2, 0)]).num_workers == 2


def test_decoding_tasks_asked_for_all_fit():
    found = allocate(Cluster(), 4, [(2, 0)])
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
    found = allocate(Cluster(num_workers=(1, 4)), None, [(1, 0), (1, 0)])
    assert (found.num_workers, found.scaling) == (2, (1, 4))
    # Ray counts workers by what each reserves: more than these may not fit beside their decoding.
    for cpus in (3, 4, 6, 9):
        found = allocate(Cluster(num_workers=(1, 16)), None, [(cpus, 0)])
        assert cpus // found.cpus_per_worker == found.num_workers
    assert allocate(Cluster(num_workers=(1, 2)), None, [(8, 0), (2, 0)]).cpus_per_worker <= 2
    assert allocate(Cluster(num_workers=(1, 4)), None, [(8, 2)]).num_workers == 2
    assert allocate(Cluster(num_workers=2), None, [(2, 0)]).scaling == 2
    with pytest.raises(UsageError, match="num_workers"):
        allocate(Cluster(num_workers=(3, 4)), None, [(2, 0)])


# Nodes of several kinds


HEAD = "f" * 51 + "00000"
"""The number of a head in Ray's provider of made-up nodes."""

CLOUD = [(0, 0), (8, 1), (8, 1), (16, 0), (16, 0)]
"""A head that does nothing, two nodes with a GPU, two to decode on."""


def test_nodes_without_a_gpu_decode_for_those_that_have_one():
    found = allocate(Cluster(num_workers=2), None, CLOUD)
    assert (found.use_gpu, found.cpus_per_worker) == (True, 1)
    assert 2 * found.decode_tasks == 46 and found.cpus_per_decode_task == 1


def test_an_elastic_run_on_gpus_takes_no_more_cpus_than_another():
    found = allocate(Cluster(num_workers=(1, 4)), None, CLOUD)
    assert (found.scaling, found.num_workers, found.cpus_per_worker) == ((1, 4), 2, 1)


@given(
    workers=st.integers(1, 6),
    nodes=st.lists(st.tuples(st.integers(0, 16), st.integers(0, 2)), min_size=1, max_size=6),
    elastic=st.booleans(),
)
def test_on_any_nodes_workers_fit_and_a_decoding_task_fits_beside_them(workers, nodes, elastic):
    try:
        found = allocate(Cluster(num_workers=(1, workers) if elastic else workers), None, nodes)
    except UsageError:
        return
    # As close together as they can stand.
    left, to_place = [], found.num_workers
    for cpus, gpus in sorted(nodes, reverse=True):
        most = gpus if found.use_gpu else cpus
        here = min(to_place, most, int(cpus / found.cpus_per_worker + 1e-9))
        to_place -= here
        left.append(cpus - here * found.cpus_per_worker)
    assert to_place == 0
    assert max(left) >= found.cpus_per_decode_task * 0.999
    assert found.num_workers * found.decode_tasks * found.cpus_per_decode_task <= sum(left) + 1e-6


def train_where_nodes_must_come(folder: str) -> None:
    """Called in a process with its own process numbers: a head without CPUs, and nodes that its autoscaler starts.

    That is Ray's first one: its wheel lacks a file that the second one wants for made-up nodes.
    """
    from raycrnn.training.run import train
    from tests.test_train import configuration

    node = {"node_config": {}, "min_workers": 0}
    autoscaling = Path(folder) / "autoscaling.json"
    made = {
        "cluster_name": "made-up",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "provider": {"type": "fake_multinode", "launch_multiple": True, "head_node_id": HEAD},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0, **node},
            "decoder": {"resources": {"CPU": 1}, "max_workers": 2, **node},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    made |= {f"{name}_commands": [] for name in commands} | {"file_mounts": {}, "cluster_synced_files": []}
    autoscaling.write_text(json.dumps(made))
    own = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    ray_command = Path(sys.executable).with_name("ray")
    start = [ray_command, "start", "--head", "--num-cpus=0", "--port=6379", f"--autoscaling-config={autoscaling}"]
    said = subprocess.run(start, env={**os.environ, **own}, check=True, capture_output=True, text=True).stdout
    [address] = re.findall(r"--address='([\d.:]+)'", said)
    settings = configuration(Path(folder), cluster={"num_workers": 2})
    assert train(settings, address)["steps"] == 6


@pytest.mark.ray
@pytest.mark.parametrize("second", [False, True])
def test_both_of_rays_autoscalers_tell_how_many_nodes_are_starting(local_ray, monkeypatch, second):
    from ray.autoscaler.v2 import utils

    monkeypatch.setattr(utils, "is_autoscaler_v2", lambda: second)
    assert count_starting_nodes() == 0


@pytest.mark.ray
@pytest.mark.long
def test_nodes_that_the_autoscaler_must_start_are_asked_for_and_waited_for(tmp_path):
    # Ray's provider of made-up nodes wants the head at port 6379.
    unshare = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    unshare += ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network and process numbers of its own cannot be had here: unshare and ip, as root")
    call = f"from tests.cluster.test_cluster import train_where_nodes_must_come as call; call({str(tmp_path)!r})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    found = subprocess.run(
        [*unshare, sys.executable, "-c", call],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env=environment,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "waiting for nodes: 2 CPUs wanted" in found.stderr


@pytest.mark.ray
@pytest.mark.parametrize(
    ("free", "expected", "said"),
    [
        (8e9, None, ""),
        # Ray would take 5 GB, and put them on a disk.
        (4e9, 3.8e9, ""),
        (64e6, None, "--shm-size"),
    ],
)
def test_the_object_store_stays_within_shared_memory(local_ray, monkeypatch, capsys, free, expected, said):
    from ray._private import utils

    monkeypatch.setattr(utils, "resolve_object_store_memory", lambda memory: 5 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert object_store_bytes() == expected
    assert said in capsys.readouterr().err


def work_on_a_cluster(folder: str, mode: str) -> None:
    """A task and an actor on a cluster that wants a token or none, from where there is a token."""
    token = Path(folder) / "token"
    token.write_text("0123456789abcdef" * 4)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    start = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=1", "--port=0"]
    start += ["--include-dashboard=false", f"--temp-dir={folder}", f"--ray-client-server-port={free_port()}"]
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, text=True) as node:
        try:
            said = next(line for line in node.stdout if "--address=" in line)
            [address] = re.findall(r"--address='([\d.:]+)'", said)
            with connect(address):
                import ray

                actor = ray.remote(num_cpus=0)(Counter).remote("aab")
                assert ray.get(ray.remote(lambda: 4).remote(), timeout=60) == 4
                assert ray.get(actor.most_common.remote(), timeout=60) == [("a", 2), ("b", 1)]
        finally:
            node.terminate()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_token_is_shown_only_to_a_cluster_that_wants_one(mode):
    # Sockets are in there, whose names must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        apart(work_on_a_cluster, folder, mode)
