"""Test the tuner without running a search."""

import pickle
import signal
import time
from pathlib import Path

import pytest

from raycrnn.console import StopRequest
from raycrnn.tuning.tuner import SearchStopper, _last_failure, cause_of

TRACE = """Failure # 1 (occurred at 2026-01-01_00-00-00)
\x1b[36mray::Trial.train()\x1b[39m (pid=1, ip=127.0.0.1)
  File "trial.py", line 1, in step
    raise RuntimeError("no")
RuntimeError: training failed; the failure:
a line of it
"""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (TRACE, "RuntimeError: training failed; the failure:\na line of it"),
        (
            TRACE + "Failure # 2 (occurred at …)\nray.exceptions.ActorDiedError: gone\n",
            "ray.exceptions.ActorDiedError: gone",
        ),
        (TRACE + "Failure # 2 (occurred at …)\nThe actor died.\n\tpid: 7\nIts process died.\n", "Its process died."),
        ("unknown cause", "unknown cause"),
    ],
)
def test_the_cause_of_a_failure_is_the_last_exception(text, cause):
    assert cause_of(text) == cause


@pytest.mark.ray
def test_the_error_of_a_trial_is_read_before_tune_copies_it(local_ray, tmp_path):
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial

    storage = StorageContext(str(tmp_path), "search", trial_dir_name="trial")
    trial = Trial("nothing", stub=True, storage=storage)
    Path(trial.local_path).mkdir(parents=True)
    trial.handle_error(RuntimeError("no"))
    assert trial.get_error() is None
    assert _last_failure(trial) == "no"


def make_stopper(deadline: float | None = None) -> SearchStopper:
    return SearchStopper(deadline, StopRequest())


def test_a_search_ends_at_its_deadline_and_when_storage_fails():
    assert not make_stopper().stop_all()
    assert make_stopper(time.time() - 1).stop_all()
    assert not make_stopper(time.time() + 60).stop_all()
    full = make_stopper()
    full.problem = "disk full"
    assert full.stop_all()


def test_a_stopper_can_be_pickled_as_tune_does():
    pickle.dumps(make_stopper())


def test_ctrl_c_is_logged_once(caplog):
    stop = StopRequest()
    found = SearchStopper(None, stop)
    assert not found.stop_all()
    stop.request(signal.SIGINT)
    assert found.stop_all() and found.stop_all() and found.interrupted
    assert len(caplog.records) == 1
