"""Connections: addresses that do not answer, the size of the object store, tokens."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from raycrnn.bench.serve import free_port
from raycrnn.cluster import connect, connection, ray_internals
from raycrnn.cluster.connection import MAX_SOCKET_PATH, SHORT_FOLDERS, SOCKET, _short_folders, object_store_bytes
from raycrnn.console import stop_on_sigterm
from raycrnn.errors import UsageError
from tests.training.test_recovery import run_in_new_process


def test_a_host_that_does_not_answer_is_reported_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(UsageError, match=f"no Ray cluster at '127.0.0.1:{port}'"), connect(f"127.0.0.1:{port}"):
            pass
        assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("free", "expected", "message"),
    [
        (8e9, None, ""),
        # Ray would take 5 GB and place them on a disk.
        (4e9, 3.8e9, ""),
        (64e6, None, "/dev/shm has only 61 MB free"),
    ],
)
def test_the_object_store_stays_within_shared_memory(monkeypatch, capsys, free, expected, message):
    monkeypatch.setattr(ray_internals, "default_object_store_bytes", lambda: 5 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert object_store_bytes() == expected
    assert message in capsys.readouterr().err


def work_with_a_long_tmpdir(folder: str) -> None:
    """Run a task in a local Ray, and check where its files are."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(Path(folder, "scratch" * 12))
    os.mkdir(tempfile.tempdir)
    with connect("local"):
        import ray

        session = Path(ray.get(ray.remote(lambda: ray.get_runtime_context().get_session_name()).remote()))
        [temporary] = [each for short in SHORT_FOLDERS for each in Path(short).glob(f"raycrnn-*/{session}")]
        assert len(os.listdir(tempfile.tempdir)) == 1
    assert not temporary.parent.exists()
    assert os.listdir(tempfile.tempdir) == []


@pytest.mark.ray
@pytest.mark.long
def test_a_local_ray_gets_a_short_folder_where_tmpdir_is_too_long_for_sockets(tmp_path):
    run_in_new_process(work_with_a_long_tmpdir, str(tmp_path))


def test_only_a_tmpdir_that_is_too_long_for_sockets_is_replaced(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    most = MAX_SOCKET_PATH - len(f"/{SOCKET}")
    for folder, is_replaced in ((f"/{'a' * (most - 1)}", False), (f"/{'a' * most}", True), (f"/{'ä' * most}", True)):
        monkeypatch.setenv("TMPDIR", folder)
        with _short_folders() as arguments:
            assert bool(arguments) == is_replaced
            assert all(Path(each).is_dir() for each in arguments.values())
    assert not any(Path(each).exists() for each in arguments.values())


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_that_is_too_long_and_cannot_be_replaced_is_named(monkeypatch, name):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv(name, "/scratch" * 12)
    if name == "TMPDIR":
        monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=f"^{name}=/scratch.*set RAY_TMPDIR"), connect("local"):
        pass


def work_on_a_cluster(folder: str, mode: str) -> None:
    """Run a task and an actor on a cluster with this authentication mode, from a process that has a token."""
    token = Path(folder) / "token"
    token.write_text("0123456789abcdef" * 4)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    start = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=1", "--port=0"]
    start += ["--include-dashboard=false", f"--temp-dir={folder}", f"--ray-client-server-port={free_port()}"]
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, text=True) as node:
        try:
            line = next(line for line in node.stdout if "--address=" in line)
            [address] = re.findall(r"--address='([\d.:]+)'", line)
            with connect(address):
                import ray

                actor = ray.remote(num_cpus=0)(Counter).remote("aab")
                assert ray.get(ray.remote(lambda: 4).remote(), timeout=60) == 4
                assert ray.get(actor.most_common.remote(), timeout=60) == [("a", 2), ("b", 1)]
        finally:
            node.terminate()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("mode", ["token", pytest.param("disabled", marks=pytest.mark.extended)])
def test_a_token_is_used_only_with_a_cluster_that_requires_one(mode):
    # The folder holds sockets, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        run_in_new_process(work_on_a_cluster, folder, mode)


@pytest.mark.parametrize("address", ["head:63x", "head:99999", "[::1"])
def test_an_address_that_cannot_be_parsed_is_refused(address):
    with pytest.raises(UsageError, match="is no address of a Ray cluster"), connect(address):
        pass


@pytest.mark.parametrize("address", ["local", "127.0.0.1:6379"])
def test_the_handler_of_sigterm_is_kept_when_ray_sets_its_own(monkeypatch, address):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_, **__: signal.signal(signal.SIGTERM, lambda *_: sys.exit(15)))
    before = signal.getsignal(signal.SIGTERM)
    connection._init(address, address == "local", {})
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("address", ["local", "127.0.0.1:6379"])
def test_sigterm_while_ray_starts_stops_the_command(monkeypatch, address):
    import ray

    def init(*_, **__) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        # Not to the process, where another thread may receive it, and at any later time.
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(KeyboardInterrupt), stop_on_sigterm():
        connection._init(address, address == "local", {})


def test_only_the_processes_of_a_local_ray_block_sigterm(monkeypatch):
    import ray

    masks = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    connection._init("local", True, {})
    connection._init("127.0.0.1:6379", False, {})
    assert masks == [before | {signal.SIGTERM}, before]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
