"""A search on Ray Tune: what can be told without running one."""

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
        ("nobody knows", "nobody knows"),
    ],
)
def test_of_stack_traces_the_last_cause_is_kept(text, cause):
    assert cause_of(text) == cause


@pytest.mark.ray
def test_why_a_trial_failed_is_known_before_tune_has_copied_it(local_ray, tmp_path):
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial

    storage = StorageContext(str(tmp_path), "search", trial_dir_name="trial")
    trial = Trial("nothing", stub=True, storage=storage)
    Path(trial.local_path).mkdir(parents=True)
    trial.handle_error(RuntimeError("no"))
    assert trial.get_error() is None
    assert _last_failure(trial) == "no"


def ending(deadline: float | None = None) -> SearchStopper:
    return SearchStopper(deadline, StopRequest())


def test_a_search_ends_by_its_time_by_ctrl_c_and_by_what_cannot_be_written():
    assert not ending().stop_all()
    assert ending(time.time() - 1).stop_all()
    assert not ending(time.time() + 60).stop_all()
    full = ending()
    full.problem = "disk full"
    assert full.stop_all()


def test_ctrl_c_is_logged_once(caplog):
    stop = StopRequest()
    found = SearchStopper(None, stop)
    assert not found.stop_all()
    stop.request(signal.SIGINT)
    assert found.stop_all() and found.stop_all() and found.interrupted
    assert len(caplog.records) == 1
