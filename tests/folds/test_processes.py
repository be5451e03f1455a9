"""The processes that train folds, with a script in place of the command."""

import json
import logging
import signal
import sys
import threading
import time

import pytest

from raycrnn.console import StopRequest
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.folds import processes

SCRIPT = """#!{python}
import json, os, pathlib, signal, sys, time
arguments = sys.argv[1:]
assert arguments[:3] == ["-m", "raycrnn", "train"], arguments
path = pathlib.Path(arguments[3])
settings = json.loads(path.read_text())
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
print("epoch 1", file=sys.stderr)
path.with_suffix(".started").write_text(" ".join(arguments[4:]))
deadline = time.monotonic() + 60
while settings.get("waits_for") and not all(pathlib.Path(each).exists() for each in settings["waits_for"]):
    if stopped:
        sys.exit(130)
    assert time.monotonic() < deadline
    time.sleep(0.01)
if "signal" in settings:
    os.kill(os.getpid(), settings["signal"])
print("best: ...")
print(json.dumps({{"best": settings["name"]}}))
sys.exit(settings.get("code", 0))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that trains folds with these settings, some at a time."""
    script = tmp_path / "python"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(script))

    def run(folds: list[dict], at_a_time: int = 1, stop: StopRequest | None = None, address: str | None = None):
        paths = []
        for number, settings in enumerate(folds, 1):
            paths.append(tmp_path / f"{number}.json")
            paths[-1].write_text(json.dumps({"name": number, **settings}))
        return processes.run_all(paths, at_a_time, address, stop or StopRequest())

    return run


def was_started(folder, fold: int) -> bool:
    return (folder / f"{fold}.started").exists()


def test_each_fold_returns_the_last_line_that_it_prints(start, tmp_path):
    assert start([{}, {}, {}], address="1.2.3.4:5") == {1: {"best": 1}, 2: {"best": 2}, 3: {"best": 3}}
    assert (tmp_path / "1.started").read_text() == "--json --address 1.2.3.4:5"


def test_folds_run_side_by_side(start, tmp_path, caplog):
    # Each waits for the other.
    others = [{"waits_for": [str(tmp_path / "2.started")]}, {"waits_for": [str(tmp_path / "1.started")]}]
    with caplog.at_level(logging.INFO, "raycrnn"):
        assert start(others, at_a_time=2) == {1: {"best": 1}, 2: {"best": 2}}
    assert {"fold 1: epoch 1", "fold 2: epoch 1"} <= set(caplog.messages)


@pytest.mark.parametrize(("code", "error"), [(1, RaycrnnError), (2, UsageError)])
def test_after_a_failure_the_running_folds_end_and_no_other_starts(start, tmp_path, monkeypatch, code, error):
    result = processes.FoldProcess.result

    def note(process: processes.FoldProcess) -> dict | None:
        (tmp_path / f"{process.fold}.noted").touch()
        return result(process)

    monkeypatch.setattr(processes.FoldProcess, "result", note)
    # The second fold runs until the failure of the first one is known.
    folds = [{"code": code}, {"waits_for": [str(tmp_path / "1.noted")]}, {}]
    with pytest.raises(error, match="fold 1 failed, see above; restore_model=true continues") as raised:
        start(folds, at_a_time=2)
    assert raised.value.exit_code == code
    assert was_started(tmp_path, 2) and not was_started(tmp_path, 3)


@pytest.mark.parametrize(
    ("number", "text"),
    [(signal.SIGKILL, "SIGKILL (did the machine run out of memory? "), (signal.SIGSEGV, "SIGSEGV; ")],
)
def test_a_signal_that_ends_a_fold_is_named(start, number, text):
    with pytest.raises(RaycrnnError) as raised:
        start([{"signal": int(number)}])
    assert str(raised.value).startswith(f"fold 1 was ended by {text}")
    assert "restore_model=true continues" in str(raised.value)


def test_a_request_to_stop_reaches_the_running_folds_and_no_other_starts(start, tmp_path):
    stop = StopRequest()

    def request() -> None:
        while not (was_started(tmp_path, 1) and was_started(tmp_path, 2)):
            time.sleep(0.01)
        stop.request(signal.SIGTERM)

    threading.Thread(target=request).start()
    waits = {"waits_for": [str(tmp_path / "never")]}
    assert start([waits, waits, {}], at_a_time=2, stop=stop) == {1: None, 2: None}
    assert not was_started(tmp_path, 3)


def test_an_error_in_the_command_ends_its_processes(start, tmp_path, monkeypatch):
    started = []
    popen = processes.subprocess.Popen

    def remember(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    interrupted, sleep = [], time.sleep

    def interrupt(seconds: float) -> None:
        if was_started(tmp_path, 1) and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(processes.subprocess, "Popen", remember)
    monkeypatch.setattr(processes.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start([{"waits_for": [str(tmp_path / "never")]}])
    assert [process.returncode for process in started] == [130]
