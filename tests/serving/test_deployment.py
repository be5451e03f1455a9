"""The threads of a replica."""

import pytest

from raycrnn.cluster import ray_internals
from raycrnn.serving import deployment
from raycrnn.serving.deployment import Replica


@pytest.mark.parametrize(
    ("settings", "usable", "detected", "expected"),
    [
        # A container with a quota of 2 CPUs on a machine with 64.
        ({}, 2, 64, 2),
        ({}, 64, 2, 2),
        ({"threads": 5}, 2, 2, 5),
        ({"replicas": 2, "cpus": 3}, 64, 64, 3),
    ],
)
def test_a_replica_takes_no_more_threads_than_the_quota(monkeypatch, settings, usable, detected, expected):
    monkeypatch.setattr(deployment, "usable_cpus", lambda: usable)
    monkeypatch.setattr(ray_internals, "detected_cpus", lambda: detected)
    assert len(Replica({"model": "any", **settings}, None).service._readers) == expected
