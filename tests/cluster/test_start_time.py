"""When it pays to start a local Ray."""

import pytest

from raycrnn.cluster import start_time


@pytest.mark.parametrize(("import_seconds", "expected"), [(1.0, 10.0), (6.0, 24.0)])
def test_ray_starts_slower_where_imports_are_slower(import_seconds, expected):
    assert start_time.estimate_start_seconds(import_seconds) == expected


@pytest.mark.parametrize(
    ("cpus", "seconds_left", "pays"), [(1, 1e9, False), (2, 19.9, False), (2, 20.1, True), (16, 10.6, False)]
)
def test_ray_saves_the_share_of_the_other_cpus(monkeypatch, cpus, seconds_left, pays):
    monkeypatch.setattr(start_time, "usable_cpus", lambda: cpus)
    assert start_time.is_worth_starting(seconds_left, 10.0) == pays
