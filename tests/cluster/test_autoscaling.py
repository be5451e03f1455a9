"""Nodes that an autoscaler starts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = "f" * 51 + "00000"
"""ID of the head in Ray's provider of simulated nodes."""


def train_on_nodes_to_be_started(folder: str) -> None:
    """Train on a head without CPUs and on nodes that its autoscaler starts. Runs in namespaces of its own.

    The autoscaler is Ray's first one: Ray's wheel lacks a file that the second one needs for simulated nodes.
    """
    from raycrnn.training.run import train
    from tests.test_train import configuration

    node = {"node_config": {}, "min_workers": 0}
    autoscaling = Path(folder) / "autoscaling.json"
    cluster = {
        "cluster_name": "simulated",
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
    cluster |= {f"{name}_commands": [] for name in commands} | {"file_mounts": {}, "cluster_synced_files": []}
    autoscaling.write_text(json.dumps(cluster))
    own = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    ray_command = Path(sys.executable).with_name("ray")
    start = [ray_command, "start", "--head", "--num-cpus=0", "--port=6379", f"--autoscaling-config={autoscaling}"]
    output = subprocess.run(start, env={**os.environ, **own}, check=True, capture_output=True, text=True).stdout
    [address] = re.findall(r"--address='([\d.:]+)'", output)
    settings = configuration(Path(folder), cluster={"num_workers": 2})
    assert train(settings, address)["steps"] == 6


@pytest.mark.ray
@pytest.mark.cluster
def test_nodes_are_requested_from_the_autoscaler_and_waited_for(tmp_path):
    # Ray's provider of simulated nodes requires the head at port 6379.
    unshare = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    unshare += ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs network and process namespaces: unshare and ip, as root")
    call = f"from tests.cluster.test_autoscaling import train_on_nodes_to_be_started as call; call({str(tmp_path)!r})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [*unshare, sys.executable, "-c", call],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "waiting for nodes: 0 of 2 CPUs are up" in done.stderr
