"""cluster.yaml and deploy/cluster-onprem.yaml: Ray's validators, security, and which machines and containers start."""

import json
import os
import re
import shlex
import stat
import subprocess
from typing import Any

import pytest
from ray.autoscaler._private import util
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind
from ray.scripts import scripts

from raycrnn.serving import proxy_middleware
from tests.deploy.cluster_files import (
    AWS,
    EVERY,
    ONPREM,
    TOKEN,
    container_command,
    prepared,
    read,
    text_of,
)

# --- Ray's own validators


@pytest.mark.parametrize("choices", [False, True])
@pytest.mark.parametrize("name", [AWS, ONPREM])
def test_ray_accepts_the_file(name, choices):
    cluster = prepared(read(name, choices))
    assert cluster["cluster_name"] == "raycrnn"


def test_the_optional_lines_do_what_the_comments_say():
    types, chosen = (read(AWS, choices)["available_node_types"] for choices in (False, True))
    assert set(chosen) - set(types) == {"gpu_spot"}
    assert [name for name, each in types.items() if "InstanceMarketOptions" in each["node_config"]] == []
    spot = {name for name, each in chosen.items() if each["node_config"].get("InstanceMarketOptions")}
    assert spot == {"gpu_spot", "decode"}
    assert set(read(ONPREM, True)["file_mounts"]) - set(read(ONPREM)["file_mounts"]) == {"~/.aws/credentials"}


@pytest.mark.parametrize("name", [AWS, ONPREM])
def test_ray_refuses_a_misspelt_key(name):
    with pytest.raises(Exception, match="Additional properties"):
        prepared({**read(name), "idle_timeout": 5})


# --- security


@pytest.mark.parametrize("name", EVERY)
def test_no_file_contains_a_key_or_a_token(name):
    text = text_of(name)
    assert not re.search(r"AKIA[0-9A-Z]{12}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{32,}\b|RAY_AUTH_TOKEN=", text)


@pytest.mark.parametrize("name", [AWS, ONPREM])
def test_the_dashboard_listens_on_loopback_and_the_head_has_no_cpus_for_tasks(name):
    cluster = prepared(read(name))
    options = start_options(cluster["head_start_ray_commands"])
    assert (options["head"], options["dashboard_host"], options["dashboard_port"]) == (True, "127.0.0.1", 8265)
    assert options["disable_usage_stats"]
    if name == AWS:
        head = cluster["available_node_types"][cluster["head_node_type"]]
        assert (head["resources"], head["max_workers"]) == ({"CPU": 0, "GPU": 0}, 0)
        assert options["num_cpus"] is None, "the type's resources, which Ray passes on, say it"
    else:
        assert (options["num_cpus"], options["num_gpus"]) == (0, 0)


@pytest.mark.parametrize("name", [AWS, ONPREM])
def test_workers_join_at_the_port_of_the_head_with_all_their_resources(name):
    cluster = prepared(read(name))
    head, worker = (start_options(cluster[f"{kind}_start_ray_commands"]) for kind in ("head", "worker"))
    assert worker["address"].endswith(f":{head['port']}")
    assert (worker["head"], worker["num_cpus"], worker["num_gpus"]) == (False, None, None)


def start_options(start_commands: list[str]) -> dict[str, Any]:
    """Return the options of `ray start`, parsed by Ray's own command."""
    assert start_commands[0] == "ray stop"
    (line,) = [part for part in start_commands[1].split(";") if "ray start" in part]
    arguments = shlex.split(line)
    assert arguments[:2] == ["ray", "start"]
    return scripts.cli.commands["start"].make_context("start", arguments[2:]).params


@pytest.mark.parametrize("name", [AWS, ONPREM])
def test_ray_up_does_not_limit_workers_to_one_thread(name):
    # Ray's launcher exports OMP_NUM_THREADS=1 before each of its commands.
    for kind in ("head", "worker"):
        command = prepared(read(name))[f"{kind}_start_ray_commands"][1]
        prefix = command.partition("ray start")[0]
        script = f'export OMP_NUM_THREADS=1; {prefix} echo "[$OMP_NUM_THREADS]"'
        shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert shell.stdout.strip() == "[]"


# --- your own machines


def test_the_environment_of_own_machines(tmp_path):
    """Run the set-up commands in an empty home directory, twice, as a second `ray up` does."""
    (tmp_path / ".ray").mkdir(mode=0o755)
    token = tmp_path / ".ray" / "auth_token"
    token.write_text(TOKEN)
    token.chmod(0o644)
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for command in 2 * read(ONPREM, choices=True)["setup_commands"]:
        subprocess.run(["bash", "-c", f"true && ({command})"], env=environment, check=True, timeout=20)
    assert (stat.S_IMODE(token.stat().st_mode), stat.S_IMODE(token.parent.stat().st_mode)) == (0o600, 0o700)
    assert (tmp_path / ".bashrc").read_text().count("raycrnn_env") == 1

    script = "source ~/.bashrc; env"
    shell = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    seen = dict(line.split("=", 1) for line in shell.stdout.splitlines() if "=" in line)
    assert seen["PATH"] == f"/opt/raycrnn/bin:{environment['PATH']}"
    assert seen["RAY_AUTH_MODE"] == "token"
    assert seen["RAY_USAGE_STATS_ENABLED"] == "0"
    assert seen["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == proxy_middleware.IMPORT_PATH
    assert float(seen["RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION"]) == 0.4
    assert seen["AWS_ENDPOINT_URL"] == "http://storage.example:9000"
    assert TOKEN not in shell.stdout


def test_own_machines_use_the_autoscaler_that_supports_them():
    # Ray exports its choice of the second autoscaler before the command, so the command must override it.
    command = util.with_envs(read(ONPREM)["head_start_ray_commands"], {"RAY_enable_autoscaler_v2": "1"})[1]
    script = command.partition("ray start")[0] + "echo $RAY_enable_autoscaler_v2"
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout.strip() == "0"


def test_own_machines_are_all_started_at_once():
    cluster = prepared(read(ONPREM))
    (machines,) = cluster["available_node_types"].values()
    assert machines["min_workers"] == machines["max_workers"] == len(cluster["provider"]["worker_ips"])


# --- AWS: which machines are started


def launched(choices: bool, asked: list[dict[str, float]], failed: str | None = None) -> dict[str, int]:
    """Return how many machines of each type Ray's autoscaler would start for the resources that a run requests."""
    scaling = AutoscalingConfig(read(AWS, choices), skip_content_hash=True)
    head = Instance(instance_id="1", instance_type="head", status=Instance.ALLOCATED, node_kind=NodeKind.HEAD)
    requests = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(bundle) for bundle in asked])
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=scaling.get_node_type_configs(),
        max_num_nodes=scaling.get_max_num_nodes(),
        cluster_resource_constraints=[ClusterResourceConstraint(resource_requests=requests)] if asked else [],
        current_instances=[AutoscalerInstance(im_instance=head)],
        recoverable_resource_availabilities={failed: 0.0} if failed else {},
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert not reply.infeasible_cluster_resource_constraints
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_no_worker_is_started_without_a_request():
    assert launched(False, []) == {}


def test_training_gets_the_machines_that_it_requests():
    assert launched(False, [{"CPU": 1, "GPU": 1}] * 2) == {"gpu": 2}


def test_spot_machines_are_preferred_and_on_demand_ones_used_if_there_are_none():
    asked = [{"CPU": 1, "GPU": 1}] * 3
    assert launched(True, asked) == {"gpu_spot": 3}
    assert launched(True, asked, failed="gpu_spot") == {"gpu": 3}


def test_requests_for_cpus_start_no_gpu_machines():
    assert launched(True, [{"CPU": 4}] * 8) == {"decode": 2}


def test_the_number_of_machines_is_limited():
    cluster = prepared(read(AWS, choices=True))
    assert all(each["max_workers"] <= cluster["max_workers"] for each in cluster["available_node_types"].values())


# --- AWS: the containers


@pytest.mark.parametrize("node_type", ["head", "gpu", "gpu_spot", "decode"])
def test_each_container_gets_the_path_of_the_token_but_not_the_token(node_type):
    words = container_command(read(AWS, choices=True), node_type)
    environment = dict(words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "-e")
    assert environment["RAY_AUTH_MODE"] == "token"
    mounted = {word.split(":")[1] for at, word in enumerate(words) if words[at - 1] == "-v"}
    assert mounted == {environment["RAY_AUTH_TOKEN_PATH"], "/config"}
    assert environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == proxy_middleware.IMPORT_PATH
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert "RAY_AUTH_TOKEN" not in environment
    assert ("--gpus" in words) == ("gpu" in node_type)


def test_nothing_is_installed_on_the_machines():
    cluster = prepared(read(AWS))
    assert [cluster[f"{kind}setup_commands"] for kind in ("", "head_", "worker_")] == [[], [], []]
    assert not re.search(r"pip install|apt-get", json.dumps(cluster))
