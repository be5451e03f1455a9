"""A search on Ray Tune: what can be told without running one."""

import time

import pytest

from raycrnn.tuning import Ending, cause_of

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
        ("nobody knows", "nobody knows"),
    ],
)
def test_of_stack_traces_the_last_cause_is_kept(text, cause):
    assert cause_of(text) == cause


def test_a_search_ends_by_its_time_by_ctrl_c_and_by_what_cannot_be_written():
    assert not Ending(None).stop_all()
    assert Ending(time.time() - 1).stop_all()
    assert not Ending(time.time() + 60).stop_all()
    for name, value in (("interrupted", True), ("problem", "disk full")):
        ending = Ending(None)
        setattr(ending, name, value)
        assert ending.stop_all()
