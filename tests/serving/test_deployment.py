"""The settings and the threads of a replica."""

import pytest

from raycrnn.cluster import ray_internals
from raycrnn.serving import deployment
from raycrnn.serving.deployment import Replica, Settings


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


def test_the_home_directory_stands_for_a_tilde_in_settings(monkeypatch):
    """A shell does not expand it in `serve run raycrnn.serve:app model=~/model`."""
    monkeypatch.setenv("HOME", "/home/me")
    settings = Settings(model="~/model", token_file="~/token")
    assert (settings.model, settings.token_file) == ("/home/me/model", "/home/me/token")
    assert Settings(model="s3://b/~/model").token_file is None


@pytest.mark.parametrize("model", ["latin", ["latin", "latin"]])
def test_replicas_are_told_the_name_of_a_model(model):
    application = deployment.app(Settings(model=model))
    assert application._bound_deployment.init_args[0]["model"] == model
