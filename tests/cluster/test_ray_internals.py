"""Contracts with Ray's private names: each test fails on a Ray release that removes or changes one."""

import dataclasses
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from raycrnn.cluster import ray_internals
from raycrnn.errors import UsageError
from raycrnn.training import preemption

pytestmark = pytest.mark.ray


@pytest.fixture
def gcs_address(local_ray):
    import ray

    return ray.get_runtime_context().gcs_address


def test_the_head_has_its_resource(local_ray):
    """HEAD_RESOURCE"""
    import ray

    assert ray.cluster_resources()[ray_internals.HEAD_RESOURCE] == 1.0


RELOAD = """
import os
import ray
from ray._raylet import AuthenticationMode, get_authentication_mode
from raycrnn.cluster.ray_internals import reload_environment

assert get_authentication_mode() == AuthenticationMode.DISABLED
os.environ["RAY_AUTH_MODE"] = "token"
reload_environment()
assert get_authentication_mode() == AuthenticationMode.TOKEN
"""


def test_reload_environment_changes_the_authentication_mode():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment["RAY_AUTH_MODE"] = "disabled"
    done = subprocess.run(
        [sys.executable, "-c", RELOAD], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


UNDER_UV_RUN = """
import os
from raycrnn import cluster
cluster.set_environment({address!r})
from ray._private.runtime_env import uv_runtime_env_hook
from ray._private.worker import _maybe_modify_runtime_env

uv_runtime_env_hook._get_uv_run_cmdline = lambda: ["uv", "run", "raycrnn"]
print(_maybe_modify_runtime_env({{}}, False))
"""


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
@pytest.mark.parametrize("own", [None, "1"])
def test_under_uv_run_ray_uploads_nothing_unless_the_user_wants_it(tmp_path, address, own):
    """set_environment"""
    (tmp_path / "pyproject.toml").touch()
    variables = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": own} if own else {}
    done = subprocess.run(
        [sys.executable, "-c", UNDER_UV_RUN.format(address=address)],
        env={**os.environ, **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("py_executable" in done.stdout) == (own is not None)
    assert own or done.stdout == "{}\n"


def test_ray_finds_no_more_cpus_than_the_machine_has(monkeypatch):
    """detected_cpus"""
    from ray._private import utils

    assert 1 <= ray_internals.detected_cpus() <= os.cpu_count()
    monkeypatch.setattr(utils, "_get_docker_cpus", lambda *_, **__: 0.5)
    assert ray_internals.detected_cpus() == 1


def test_requires_token_is_false_for_a_cluster_without_authentication(gcs_address):
    assert not ray_internals.requires_token(gcs_address)


def test_requires_token_is_true_if_the_cluster_refuses_the_connection(monkeypatch):
    import ray

    def refuse(address):
        raise ray.exceptions.AuthenticationError("no token")

    monkeypatch.setattr("ray._raylet.GcsClient", refuse)
    assert ray_internals.requires_token("127.0.0.1:6379")


def test_requires_token_reports_a_cluster_that_does_not_answer(monkeypatch):
    import ray

    def fail(address):
        raise ray.exceptions.RpcError("unavailable")

    monkeypatch.setattr("ray._raylet.GcsClient", fail)
    with pytest.raises(UsageError, match=r"no Ray cluster at '127\.0\.0\.1:6379': unavailable"):
        ray_internals.requires_token("127.0.0.1:6379")


def test_resolve_address_finds_the_cluster_of_auto_and_keeps_other_addresses(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.7:6380")
    assert ray_internals.resolve_address("auto") == "203.0.113.7:6380"
    assert ray_internals.resolve_address("ray://head:10001") == "ray://head:10001"


def test_default_object_store_bytes_is_a_part_of_the_free_memory(monkeypatch):
    from ray._private import utils

    monkeypatch.setattr(utils, "estimate_available_memory", lambda: 10**9)
    assert ray_internals.default_object_store_bytes() == 3 * 10**8


def test_silence_error_messages_replaces_what_prints_them(monkeypatch, capsys):
    from ray._private import worker

    # The thread that receives errors looks the function up in its module.
    assert "print_to_stdstream" in worker.listen_error_messages.__code__.co_names
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    ray_internals.silence_error_messages()
    worker.print_to_stdstream({"lines": ["a worker died"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert capsys.readouterr().out == ""


def test_kill_at_shutdown_ends_the_processes_of_a_node_and_their_children_without_sigterm():
    from ray._private import node, worker

    assert "kill_all_processes" in inspect.unwrap(worker.shutdown).__code__.co_names
    # `ray.init` looks the class up in its module.
    assert {"node", "Node"} <= set(inspect.unwrap(worker.init).__code__.co_names)
    original = node.Node
    with ray_internals.kill_at_shutdown():
        killed = node.Node
    assert node.Node is original
    assert issubclass(killed, original)
    deaf = ["sh", "-c", "trap '' TERM; sleep 60 & echo started; wait"]
    with subprocess.Popen(deaf, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        started = killed.__new__(killed)
        info = SimpleNamespace(process=process, use_valgrind=False, use_valgrind_profiler=False)
        started.all_processes, started.removal_lock = {"raylet": [info]}, threading.Lock()
        started.kill_all_processes(check_alive=False, allow_graceful=True, wait=False)
        assert process.wait() == -signal.SIGKILL
        # The end of the pipe: no process has it open any more.
        assert process.stdout.read() == ""
    assert started.all_processes == {}


@pytest.mark.parametrize("second", [False, True])
def test_count_starting_nodes_reads_the_status_of_both_autoscalers(local_ray, monkeypatch, second):
    from ray.autoscaler.v2 import utils

    monkeypatch.setattr(utils, "is_autoscaler_v2", lambda: second)
    assert ray_internals.count_starting_nodes() == 0


def test_count_starting_nodes_counts_pending_nodes_and_launches_of_the_first_autoscaler(local_ray, monkeypatch):
    from ray.autoscaler._private.autoscaler import AutoscalerSummary
    from ray.autoscaler.v2 import utils
    from ray.experimental import internal_kv

    assert {"pending_nodes", "pending_launches"} <= {field.name for field in dataclasses.fields(AutoscalerSummary)}
    report = {"pending_nodes": [["10.0.0.2", "worker", "waiting"]], "pending_launches": {"worker": 2}}
    status = json.dumps({"autoscaler_report": report})
    monkeypatch.setattr(utils, "is_autoscaler_v2", lambda: False)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key: status)
    assert ray_internals.count_starting_nodes() == 3


def test_count_starting_nodes_counts_pending_nodes_and_launches_of_the_second_autoscaler(local_ray, monkeypatch):
    from ray.autoscaler.v2 import schema, sdk, utils

    launch = schema.LaunchRequest("worker", "worker", 2, schema.LaunchRequest.Status.PENDING, 0)
    status = schema.ClusterStatus(pending_launches=[launch], pending_nodes=[SimpleNamespace()])
    monkeypatch.setattr(utils, "is_autoscaler_v2", lambda: True)
    monkeypatch.setattr(sdk, "get_cluster_status", lambda address: status)
    assert ray_internals.count_starting_nodes() == 3


def test_attempt_number_counts_the_tries_of_a_task(local_ray):
    import ray

    def attempt():
        number = ray_internals.attempt_number()
        if number == 0:
            os._exit(1)
        return number

    assert ray.get(ray.remote(num_cpus=0, max_retries=1)(attempt).remote(), timeout=60) == 1


def test_attempt_number_counts_the_restarts_of_an_actor(local_ray):
    import ray

    class Fragile:
        def __init__(self):
            self.number = ray_internals.attempt_number()
            if self.number == 0:
                os._exit(1)

        def get(self):
            return self.number

    actor = ray.remote(num_cpus=0, max_restarts=1)(Fragile).remote()
    assert ray.get(actor.get.remote(), timeout=60) == 1


def test_preemption_notice_is_the_last_one_that_ray_train_gave_this_worker(monkeypatch):
    from ray.train import PreemptionInfo
    from ray.train.v2._internal.execution import context
    from ray.train.v2._internal.execution.preemption import PreemptionContext
    from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker

    own = SimpleNamespace(preemption_context=PreemptionContext(), get_world_rank=lambda: 0)
    monkeypatch.setattr(context, "_train_context", own)
    assert ray_internals.preemption_notice() is None
    for deadline in (10_000, None):
        notice = PreemptionInfo(deadline, {"node": [0]})
        RayTrainWorker().mark_preempt(notice)
        assert ray_internals.preemption_notice() == notice


def test_preemption_deadline_is_that_of_the_notice_or_the_time_that_ray_train_waits(monkeypatch):
    from ray.train import PreemptionInfo
    from ray.train.v2._internal.execution.controller import controller

    monkeypatch.setattr(ray_internals.time, "time", lambda: 1000.0)
    for milliseconds, seconds in ((1_060_000, 1060.0), (None, 1120.0)):
        notice = PreemptionInfo(milliseconds, {"node": [0]})
        assert ray_internals.preemption_deadline(notice) == seconds
        for after, is_over in ((-1, False), (0, True)):
            monkeypatch.setattr(controller, "time_seconds", lambda now=seconds + after: now)
            assert controller.TrainController._is_preemption_deadline_exceeded(notice, 1000.0) == is_over


def test_run_in_main_thread_lets_a_training_thread_handle_sigterm_once(local_ray):
    import ray

    class Trainer:
        def start(self):
            # The processes of a local Ray block it.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            thread = threading.Thread(target=preemption.handle_sigterm)
            thread.start()
            return os.getpid()

        def has_handler(self):
            return "raycrnn" in signal.getsignal(signal.SIGTERM).__module__

        def has_received(self):
            return preemption.SIGTERM_RECEIVED.is_set()

    actor = ray.remote(num_cpus=0)(Trainer).remote()
    pid = ray.get(actor.start.remote(), timeout=60)
    while not ray.get(actor.has_handler.remote(), timeout=60):
        time.sleep(0.01)
    assert not ray.get(actor.has_received.remote(), timeout=60)
    os.kill(pid, signal.SIGTERM)
    while not ray.get(actor.has_received.remote(), timeout=60):
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    with pytest.raises(ray.exceptions.RayActorError):
        while True:
            ray.get(actor.has_received.remote(), timeout=60)


def test_listening_address_is_that_of_the_running_serve(local_ray):
    from ray import serve

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port, "root_path": "/ocr"})
    try:
        assert ray_internals.listening_address() == ("127.0.0.1", port, "/ocr")
    finally:
        serve.shutdown()
