"""Test cluster.yaml and the files in deploy/ with Ray, EC2, CloudFormation and Kubernetes, without a cloud.

EC2 and CloudFormation are simulated by moto; manifests are validated with the published models of Kubernetes.
"""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import boto3
import cfnlint.api
import click
import moto
import msgspec
import pytest
import ray
import yaml
from lightkube.models import core_v1, networking_v1
from pydantic import BaseModel, ConfigDict, Field
from ray._private.runtime_env import packaging
from ray.autoscaler._private import commands, util
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws import utils as aws_utils
from ray.autoscaler._private.docker import docker_start_cmds
from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind
from ray.dashboard.modules.job.cli import job_cli_group
from ray.scripts import scripts
from ray.serve._private.utils import call_function_from_import_path
from ray.serve.schema import ServeDeploySchema

from raycrnn import config, storage
from raycrnn.serving import deployment, proxy_middleware, run

ROOT = Path(__file__).parents[1]
AWS, ONPREM = "cluster.yaml", "deploy/cluster-onprem.yaml"
ACCOUNT = "deploy/aws-account.yaml"
KUBERNETES = ["deploy/rayjob.yaml", "deploy/rayservice.yaml"]
EVERY = [AWS, ONPREM, ACCOUNT, *KUBERNETES, "deploy/serve_config.yaml"]
TOKEN = "0123456789abcdef" * 4
REGION = "us-east-1"
MY_ADDRESS = "203.0.113.7/32"


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def with_options(text: str) -> str:
    """Return the file with all optional lines uncommented, which are those with no space after the `#`."""
    return re.sub(r"^( *)#(?=[^\s#])", r"\1", text, flags=re.MULTILINE)


def read(name: str, choices: bool = False) -> dict[str, Any]:
    return yaml.safe_load(with_options(text_of(name)) if choices else text_of(name))


def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster as at the start of `ray up`: with Ray's defaults, and validated by its schema."""
    with_defaults = util.prepare_config(cluster)
    util.validate_config(with_defaults)
    return with_defaults


def commented_commands(name: str) -> list[str]:
    """Return the commands in a file's comments, each on one line."""
    comments = "\n".join(line.lstrip().removeprefix("#") for line in text_of(name).splitlines() if "#" in line[:7])
    joined = re.sub(r"\\\n\s*", "", comments)
    found = re.findall(r"^ {4,}((?:aws|docker|raycrnn|ray|kubectl|helm|sudo|\(umask).*)$", joined, re.MULTILINE)
    # The text after the command explains it.
    return [re.sub(r"\s{2,}#.*", "", command) for command in found]


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


def container_command(cluster: dict[str, Any], node_type: str) -> list[str]:
    """Return the arguments of the `docker run` with which Ray starts the container on a machine of a type."""
    docker = AutoscalingConfig(cluster, skip_content_hash=True).get_docker_config(node_type)
    own = docker.get("head_run_options" if node_type == "head" else "worker_run_options", [])
    mounts, options = cluster["file_mounts"], docker["run_options"] + own
    line = docker_start_cmds("ubuntu", docker["image"], mounts, "raycrnn", options, "raycrnn", "/home/u", "docker")
    return shlex.split(line)


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


# --- AWS: the account and the machines, simulated by moto


@dataclass
class Account:
    """An account after `ray up`."""

    group: str
    cluster: dict[str, Any]
    key: Path
    machines: dict[str, dict[str, Any]]
    """Descriptions of the machines by EC2, by type."""
    requests: dict[str, str]
    """Requests that EC2 received, by type."""


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """An account from deploy/aws-account.yaml, with a machine of each type of cluster.yaml with all optional lines."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("HOME", str(home))
        # They would hand on clients of another account.
        for cached in (aws_utils.resource_cache, aws_utils.client_cache, aws_config._get_subnets_or_die):
            cached.cache_clear()
        with moto.mock_aws():
            group = make_account()
            cluster = bootstrapped(group)
            started = {name: start(cluster, name) for name in cluster["available_node_types"]}
            machines, requests = ({name: each[part] for name, each in started.items()} for part in (0, 1))
            yield Account(group, cluster, home / ".ssh" / "raycrnn.pem", machines, requests)


def make_account() -> str:
    """Create the stack of deploy/aws-account.yaml and return the ID of its security group."""
    parameters = {"SshFrom": MY_ADDRESS, "Bucket": "lines"}
    formation = boto3.client("cloudformation", REGION)
    formation.create_stack(
        StackName="raycrnn",
        TemplateBody=text_of(ACCOUNT),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    (stack,) = formation.describe_stacks(StackName="raycrnn")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    (output,) = stack["Outputs"]
    return output["OutputValue"]


def bootstrapped(group: str) -> dict[str, Any]:
    """Return the cluster as `ray up` continues: with names resolved in the account and an SSH key."""
    filled_in = with_options(text_of(AWS)).replace("sg-FILL-IN", group)
    return commands._bootstrap_config(yaml.safe_load(filled_in), no_config_cache=True)


def start(cluster: dict[str, Any], node_type: str) -> tuple[dict[str, Any], str]:
    """Start a machine of a type with Ray's provider; return its description by EC2 and the request that was sent."""
    provider = commands._get_node_provider(cluster["provider"], cluster["cluster_name"])
    sent = []

    def note(params: dict[str, Any], **_: Any) -> None:
        sent.append(json.dumps(params))

    events = provider.ec2_fail_fast.meta.client.meta.events
    events.register("provide-client-params.ec2.RunInstances", note)
    is_head = node_type == cluster["head_node_type"]
    tags = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD if is_head else NODE_KIND_WORKER, TAG_RAY_USER_NODE_TYPE: node_type}
    # Ray adds `head_node` only for the head: a role with all permissions, unless the file names one.
    added = cluster["head_node"] if is_head else {}
    node_config = {**added, **cluster["available_node_types"][node_type]["node_config"]}
    (machine_id,) = provider.create_node(node_config, tags, 1)
    events.unregister("provide-client-params.ec2.RunInstances", note)
    (request,) = sent
    return described(machine_id), request


def described(machine_id: str) -> dict[str, Any]:
    ec2 = boto3.client("ec2", REGION)
    (machine,) = ec2.describe_instances(InstanceIds=[machine_id])["Reservations"][0]["Instances"]
    (volume,) = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [machine_id]}])["Volumes"]
    data = ec2.describe_instance_attribute(InstanceId=machine_id, Attribute="userData")["UserData"].get("Value", "")
    return {**machine, "Volume": volume, "UserData": data}


@pytest.mark.parametrize(
    ("node_type", "instance_type", "role", "spot"),
    [
        ("head", "m6i.xlarge", "raycrnn-head", False),
        ("gpu", "g6.xlarge", "raycrnn-worker", False),
        ("gpu_spot", "g6.xlarge", "raycrnn-worker", True),
        ("decode", "c6i.4xlarge", "raycrnn-worker", True),
    ],
)
def test_machines_on_aws_have_their_type_role_and_price_model(account, node_type, instance_type, role, spot):
    machine = account.machines[node_type]
    assert machine["InstanceType"] == instance_type
    assert [each["GroupId"] for each in machine["SecurityGroups"]] == [account.group]
    assert machine["IamInstanceProfile"]["Arn"].endswith(f"/{role}")
    volume = machine["Volume"]
    assert (volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (150, "gp3", True)
    assert machine["MetadataOptions"]["HttpTokens"] == "required"
    assert (machine.get("InstanceLifecycle") == "spot") == spot


def test_ec2_receives_no_key_and_no_token(account):
    key = account.key.read_text().strip()
    assert stat.S_IMODE(account.key.stat().st_mode) == 0o600
    for node_type, request in account.requests.items():
        assert account.machines[node_type]["UserData"] == ""
        assert json.loads(request).keys().isdisjoint({"UserData"})
        assert TOKEN not in request
        assert json.dumps(key) not in request
    assert TOKEN not in json.dumps(account.cluster), "this is copied to the head as ~/ray_bootstrap_config.yaml"


def test_only_ssh_from_one_address_and_the_group_itself_are_allowed_in(account):
    groups = boto3.client("ec2", REGION).describe_security_groups()["SecurityGroups"]
    (group,) = [each for each in groups if each["GroupId"] == account.group]
    rules = {rule["IpProtocol"]: rule for rule in group["IpPermissions"]}
    assert len(rules) == len(group["IpPermissions"]) == 2
    ssh, within = rules["tcp"], rules["-1"]
    assert (ssh["FromPort"], ssh["ToPort"]) == (22, 22)
    assert [each["CidrIp"] for each in ssh["IpRanges"]] == [MY_ADDRESS]
    assert (ssh["Ipv6Ranges"], ssh["UserIdGroupPairs"]) == ([], [])
    assert [each["GroupId"] for each in within["UserIdGroupPairs"]] == [account.group]
    assert (within["Ipv6Ranges"], within["IpRanges"]) == ([], [])
    # Ray created no group of its own, which would allow SSH from everywhere.
    assert not [each for each in groups if each["GroupName"].startswith("ray-autoscaler")]


@pytest.mark.usefixtures("account")
def test_the_group_must_be_filled_in(capsys):
    with pytest.raises((click.ClickException, AssertionError)):
        aws_config.bootstrap_aws(prepared(read(AWS)))
    assert "SecurityGroupIds" in "".join(capsys.readouterr())


@pytest.mark.usefixtures("account")
def test_types_declare_the_resources_of_their_machines():
    """CPUs and GPUs are as EC2 lists them; /dev/shm fits the object store of Ray and leaves half of the memory."""
    types = read(AWS, choices=True)["available_node_types"]
    names = sorted({each["node_config"]["InstanceType"] for each in types.values()})
    listed = boto3.client("ec2", REGION).describe_instance_types(InstanceTypes=names)["InstanceTypes"]
    machines = {each["InstanceType"]: each for each in listed}
    for name, each in types.items():
        machine = machines[each["node_config"]["InstanceType"]]
        if name != "head":
            gpus = sum(gpu["Count"] for gpu in machine.get("GpuInfo", {}).get("Gpus", []))
            assert each["resources"] == {"CPU": machine["VCpuInfo"]["DefaultVCpus"], **({"GPU": gpus} if gpus else {})}
        words = container_command(read(AWS, choices=True), name)
        (shm,) = (int(word.removeprefix("--shm-size=").removesuffix("g")) for word in words if "--shm-size" in word)
        memory = machine["MemoryInfo"]["SizeInMiB"] / 1024
        (share,) = (float(word.partition("=")[2]) for word in words if "OBJECT_STORE_MEMORY_PROPORTION" in word)
        assert share * memory < shm <= memory / 2


class RecordedCommands:
    """Replaces `subprocess` in `ray up`: records the commands and answers like a machine without a container."""

    CalledProcessError = subprocess.CalledProcessError
    ANSWERS: ClassVar = {
        ".Config.Env": b'["HOME=/home/raycrnn"]',
        "printenv HOME": b"/home/raycrnn",
        "command -v docker": b"/usr/bin/docker",
    }

    def __init__(self):
        self.commands: list[str] = []

    def check_call(self, command: list[str], **_: Any) -> int:
        self.commands.append(" ".join(command))
        return 0

    def check_output(self, command: list[str], **_: Any) -> bytes:
        self.check_call(command)
        return next((answer for asked, answer in self.ANSWERS.items() if asked in self.commands[-1]), b"")


@pytest.mark.extended
def test_ray_up_copies_the_token_as_a_file_and_puts_it_in_no_command(account, tmp_path, monkeypatch):
    """Run all of `ray up` except what runs on the machine itself."""
    (tmp_path / "config").mkdir()
    monkeypatch.chdir(tmp_path)
    notes = RecordedCommands()
    commands.set_using_login_shells(True)
    commands.get_or_create_head_node(account.cluster, AWS, False, False, True, None, _runner=notes)
    assert not [command for command in notes.commands if TOKEN in command]
    steps = [
        r"rsync .*/\.ray/auth_token ubuntu@.*/secrets/auth_token",
        r"rsync .* config/ ubuntu@.*/config/",
        r"aws ecr get-login-password .*docker login",
        r"docker pull .*/raycrnn:",
        r"docker run .*:/secrets/auth_token .*-e RAY_AUTH_MODE=token .*--net=host",
        r'RAY_OVERRIDE_RESOURCES=.*"CPU":0,"GPU":0.*ray start --head .*--dashboard-host=127\.0\.0\.1',
    ]
    at = [next(n for n, command in enumerate(notes.commands) if re.search(step, command)) for step in steps]
    assert at == sorted(at)
    assert at[-1] == len(notes.commands) - 1


# --- AWS: permissions of the roles


def test_the_template_is_valid_for_cloudformation():
    """Check with AWS's linter that resources, properties and actions exist and the YAML is accepted."""
    assert cfnlint.api.lint(text_of(ACCOUNT), config=cfnlint.api.ManualArgs(regions=[REGION])) == []


def statements(resource: str) -> list[dict[str, Any]]:
    """Return the statements of a policy, or of a role's own policies."""
    properties = read(ACCOUNT)["Resources"][resource]["Properties"]
    policies = properties.get("Policies", [properties] if "PolicyDocument" in properties else [])
    return [each for policy in policies for each in policy["PolicyDocument"]["Statement"]]


def actions(statement: dict[str, Any]) -> list[str]:
    return [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]


def test_workers_may_only_use_the_bucket_and_pull_the_image():
    for statement in statements("UseBucket"):
        assert all(action.startswith("s3:") and "*" not in action for action in actions(statement))
        assert statement["Resource"]["Fn::Sub"].startswith("arn:aws:s3:::${Bucket}")
    assert statements("WorkerRole") == []
    worker, head = (read(ACCOUNT)["Resources"][role]["Properties"] for role in ("WorkerRole", "HeadRole"))
    pull = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly"
    assert worker["ManagedPolicyArns"] == head["ManagedPolicyArns"] == [{"Ref": "UseBucket"}, pull]


def test_the_head_may_terminate_only_machines_of_its_cluster_and_pass_only_the_workers_role():
    by_action = {action: each for each in statements("HeadRole") for action in actions(each)}
    ends = by_action["ec2:TerminateInstances"]["Condition"]["StringEquals"]
    assert ends == {"ec2:ResourceTag/ray-cluster-name": read(AWS)["cluster_name"]}
    assert by_action["iam:PassRole"]["Resource"] == {"Fn::GetAtt": ["WorkerRole", "Arn"]}
    assert not {"*", "ec2:*", "iam:*", "s3:*"} & set(by_action)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("203.0.113.7/32", True), ("203.0.113.0/24", True), ("0.0.0.0/0", False), ("10.0.0.0/8", False), ("::/0", False)],
)
def test_ssh_cannot_be_allowed_from_everywhere(address, allowed):
    pattern = read(ACCOUNT)["Parameters"]["SshFrom"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, address)) == allowed


def test_the_roles_of_the_account_are_those_of_the_cluster():
    resources = read(ACCOUNT)["Resources"].values()
    made = {each["Properties"].get("InstanceProfileName") for each in resources} - {None}
    types = read(AWS, choices=True)["available_node_types"].values()
    assert {each["node_config"]["IamInstanceProfile"]["Name"] for each in types} == made


# --- Kubernetes


class Part(BaseModel):
    """A part of KubeRay's API (ray.io/v1), with only the fields that the files use."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Part):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=47)]


class Auth(Part):
    mode: Literal["token", "disabled"]
    secretName: str


class Autoscaler(Part):
    idleTimeoutSeconds: int
    securityContext: dict
    resources: dict


class Group(Part):
    rayStartParams: dict[str, str]
    template: dict


class HeadGroup(Group):
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"]


class WorkerGroup(Group):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int


class RayCluster(Part):
    rayVersion: str
    authOptions: Auth
    enableInTreeAutoscaling: bool
    autoscalerOptions: Autoscaler
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class JobSpec(Part):
    entrypoint: str
    backoffLimit: int
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    activeDeadlineSeconds: int
    submitterPodTemplate: dict
    rayClusterSpec: RayCluster


class ServiceSpec(Part):
    excludeHeadPodFromServeSvc: bool
    serveConfigV2: str
    rayClusterConfig: RayCluster


class RayJob(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


class RayService(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: ServiceSpec


def objects(name: str) -> dict[str, dict[str, Any]]:
    """Return the Kubernetes objects of a file, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(text_of(name))}


def ray_cluster(name: str) -> RayCluster:
    if "rayjob" in name:
        return RayJob.model_validate(objects(name)["RayJob"]).spec.rayClusterSpec
    return RayService.model_validate(objects(name)["RayService"]).spec.rayClusterConfig


def pod_templates(name: str) -> dict[str, dict[str, Any]]:
    """Return the pod templates of a file, by group."""
    cluster = ray_cluster(name)
    templates = {"head": cluster.headGroupSpec.template}
    templates |= {group.groupName: group.template for group in cluster.workerGroupSpecs}
    if "rayjob" in name:
        templates["submitter"] = objects(name)["RayJob"]["spec"]["submitterPodTemplate"]
    return templates


def known_to_kubernetes(data: dict[str, Any], kind: type) -> bool:
    """Return whether Kubernetes knows every field. Raises if a value has the wrong type."""
    return msgspec.to_builtins(msgspec.convert(data, kind)) == data


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_knows_every_field(name):
    found = objects(name)
    assert known_to_kubernetes(found["NetworkPolicy"], networking_v1.NetworkPolicy)
    if "ConfigMap" in found:
        assert known_to_kubernetes(found["ConfigMap"], core_v1.ConfigMap)
    for group, template in pod_templates(name).items():
        assert known_to_kubernetes(template, core_v1.PodTemplateSpec), group
    options = ray_cluster(name).autoscalerOptions
    assert known_to_kubernetes(options.resources, core_v1.ResourceRequirements)
    assert known_to_kubernetes(options.securityContext, core_v1.SecurityContext)


def test_a_misspelt_field_is_noticed():
    template = pod_templates(KUBERNETES[0])["head"]
    assert not known_to_kubernetes({**template, "sepc": {}}, core_v1.PodTemplateSpec)


@pytest.mark.parametrize("name", KUBERNETES)
def test_pods_have_no_privileges_and_request_what_they_may_use(name):
    for group, template in pod_templates(name).items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, group
        assert pod["securityContext"]["runAsUser"] == 1000, "the Dockerfile's user"
        if group != "head":
            # The head's autoscaler asks Kubernetes for pods.
            assert pod["automountServiceAccountToken"] is False, group
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert (rights["allowPrivilegeEscalation"], rights["capabilities"]) == (False, {"drop": ["ALL"]})
            requests, limits = (container["resources"][part] for part in ("requests", "limits"))
            assert {"cpu", "memory"} <= set(requests) == set(limits)


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_cluster_is_not_reachable_from_outside(name):
    cluster = ray_cluster(name)
    assert cluster.headGroupSpec.serviceType == "ClusterIP"
    assert (cluster.authOptions.mode, cluster.authOptions.secretName) == ("token", "raycrnn-token")
    policy = objects(name)["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    chosen = policy["podSelector"]["matchLabels"].items()
    for group, template in pod_templates(name).items():
        assert chosen <= template["metadata"]["labels"].items(), group
    for rule in policy["ingress"]:
        assert rule["from"], "an empty list would be everybody"
        within = rule["from"] == [{"podSelector": policy["podSelector"]}]
        assert within or {port["port"] for port in rule["ports"]} <= {8265, 8000}


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_head_runs_no_tasks_and_the_version_of_ray_is_the_tested_one(name):
    cluster = ray_cluster(name)
    assert cluster.headGroupSpec.rayStartParams == {"num-cpus": "0", "num-gpus": "0"}
    assert f"ray=={cluster.rayVersion}\n" in text_of("constraints.txt")
    assert all(group.minReplicas <= group.replicas <= group.maxReplicas for group in cluster.workerGroupSpecs)


def test_the_job_has_a_training_worker_for_each_gpu_pod():
    spec = RayJob.model_validate(objects(KUBERNETES[0])["RayJob"]).spec
    groups = {group.groupName: group for group in spec.rayClusterSpec.workerGroupSpecs}
    assert set(groups) == {"gpu", "decode"}
    assert groups["gpu"].template["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in groups["decode"].template["spec"]["containers"][0]["resources"]["limits"]
    assert [group.minReplicas for group in groups.values()] == [0, 0]
    assert f"cluster.num_workers={groups['gpu'].replicas}" in spec.entrypoint.split()
    assert spec.shutdownAfterJobFinishes
    assert spec.ttlSecondsAfterFinished > 0


def test_the_jobs_command_and_configuration_are_valid(tmp_path):
    found = objects(KUBERNETES[0])
    program, verb, path, *overrides = shlex.split(found["RayJob"]["spec"]["entrypoint"])
    assert (program, verb) == ("raycrnn", "train")
    (mount,) = pod_templates(KUBERNETES[0])["head"]["spec"]["containers"][0]["volumeMounts"]
    assert Path(path).parent == Path(mount["mountPath"])
    file = tmp_path / Path(path).name
    file.write_text(found["ConfigMap"]["data"][file.name])
    settings = config.load(str(file), overrides)
    assert (settings.restore_model, settings.cluster.use_gpu) == (True, True)
    assert settings.output_model_dir.startswith("s3://")
    (volume,) = pod_templates(KUBERNETES[0])["head"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]


def test_the_service_is_valid_for_serve_deploy():
    spec = RayService.model_validate(objects(KUBERNETES[1])["RayService"]).spec
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(spec.serveConfigV2))
    shipped = ServeDeploySchema.model_validate(read("deploy/serve_config.yaml"))
    (application,), (known,) = deployed.applications, shipped.applications
    assert application.import_path == known.import_path == "raycrnn.serve:app"
    settings = deployment.Settings(**application.args)
    assert settings.limits == deployment.Settings(**known.args).limits
    assert deployed.http_options.port == 8000
    assert spec.excludeHeadPodFromServeSvc
    for group, template in pod_templates(KUBERNETES[1]).items():
        (container,) = template["spec"]["containers"]
        mounted = {each["mountPath"] for each in container["volumeMounts"]}
        # The keys that the model's bucket asks for, as the training has them.
        assert storage.is_uri(settings.model)
        assert [each["secretRef"]["name"] for each in container["envFrom"]] == ["raycrnn-storage"]
        assert {str(Path(settings.token_file).parent)} == mounted
        volumes = {each["name"] for each in template["spec"]["volumes"]}
        assert volumes == {each["name"] for each in container["volumeMounts"]}
        if group != "head":
            assert settings.cpus <= float(container["resources"]["limits"]["cpu"])


def test_the_proxies_of_the_service_have_the_middleware_and_its_limits():
    limits = deployment.Settings(model="m").limits
    for template in pod_templates(KUBERNETES[1]).values():
        (container,) = template["spec"]["containers"]
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert run.ENVIRONMENT.items() <= environment.items()
        assert float(environment[proxy_middleware.MAX_BODY_VARIABLE]) == limits.max_body_mb
        assert int(environment[proxy_middleware.MAX_REQUESTS_VARIABLE]) == proxy_middleware.MAX_REQUESTS


# --- names in the files exist


@cache
def words_of_ray() -> set[str]:
    """Return every word in Ray's Python files and compiled core, which contain the names of environment variables."""
    house = Path(ray.__file__).parent
    folders = [house / "_private", house / "_common", house / "autoscaler", house / "serve" / "_private"]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    found = {word for path in files for word in re.findall(rb"\bRAY_\w+", path.read_bytes())}
    found.update(re.findall(rb"\b[A-Za-z]\w{5,60}", (house / "_raylet.so").read_bytes()))
    return {word.decode() for word in found}


@pytest.mark.parametrize("name", EVERY)
def test_every_environment_variable_exists(name):
    ours = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "raycrnn").rglob("*.py"))
    # The AWS library in pyarrow reads these.
    amazons = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"}
    for variable in set(re.findall(r"\b(?:RAY|RAYCRNN|AWS)_\w+", text_of(name))) - amazons:
        if variable.startswith("RAYCRNN"):
            assert re.search(rf'"{variable}"', ours), variable
        else:
            # Ray's core has settings of its own, whose name follows the prefix.
            known = {variable, variable.removeprefix("RAY_")} & words_of_ray()
            assert known, variable


def test_ray_serve_imports_the_middleware():
    named = {
        value for name in EVERY for value in re.findall(r"\braycrnn\.serving\.proxy_middleware:\w+", text_of(name))
    }
    assert named == {proxy_middleware.IMPORT_PATH}
    assert call_function_from_import_path(proxy_middleware.IMPORT_PATH)


@pytest.mark.parametrize("name", [AWS, ONPREM])
def test_the_commands_in_the_comments_exist_in_ray(name):
    found = [shlex.split(command) for command in commented_commands(name) if command.startswith("ray ")]
    verbs = [words[1] for words in found]
    assert verbs[0] == "up"
    assert verbs[-1] == "down"
    assert {"exec", "dashboard", "job"} <= set(verbs)
    for words in found:
        group = {"job": job_cli_group.commands}.get(words[1])
        command = group[words[2]] if group else scripts.cli.commands[words[1]]
        # Parsed, not run: unknown options and missing arguments are refused.
        parsed = command.make_context(words[1], words[3 if group else 2 :])
        if "cluster_config_file" in parsed.params:
            assert parsed.params["cluster_config_file"] == name
        if group:
            assert parsed.params["working_dir"] is None, "the working directory is not uploaded"


@pytest.mark.parametrize("name", [AWS, ONPREM])
def test_the_training_command_in_the_comments_is_valid(name):
    (command,) = [command for command in commented_commands(name) if "raycrnn train" in command]
    program, verb, path, *overrides = shlex.split(command.split(" -- ")[1])
    assert (program, verb) == ("raycrnn", "train")
    settings = config.load(str(ROOT / "config_template.json"), overrides)
    assert settings.cluster.num_workers == 2
    if name == AWS:
        # No GPU machine is up when training begins; without this it would ask for CPUs.
        assert settings.cluster.use_gpu is True
        assert str(Path(path).parent) in read(AWS)["file_mounts"]
        assert settings.output_model_dir.startswith("s3://")


def test_the_token_of_the_comments_is_readable_only_by_its_owner(tmp_path):
    # As in both files, with the `ray` of this environment.
    (line,) = {command for name in (AWS, ONPREM) for command in commented_commands(name) if "get-auth-token" in command}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**inherited, "HOME": str(tmp_path), "PATH": path}
    shell = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=120)
    assert shell.returncode == 0, shell.stderr
    token = tmp_path / ".ray" / "auth_token"
    assert re.fullmatch(r"[0-9a-f]{64}", token.read_text())
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() not in shell.stdout + shell.stderr


@pytest.mark.parametrize("name", [AWS, ACCOUNT])
def test_the_files_in_the_comments_exist(name):
    for command in commented_commands(name):
        for path in re.findall(r"\bdeploy/[\w.-]+", command):
            assert (ROOT / path).is_file(), path


def test_a_working_directory_uploads_only_configurations(tmp_path):
    """Check the contents of the package that `ray job submit --working-dir .` uploads from a checkout."""
    copy = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in (*listed, "config/config.json", "config/search.yaml", "output/model/config.json", "lines/a.png"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes() if name in (".rayignore", ".gitignore") else b"x")
    packaging.create_package(str(copy), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        sent = {name for name in package.namelist() if not name.endswith("/")}
    tuned = {name for name in listed if name.startswith("tune_configs/")}
    assert tuned and sent == {"config_template.json", "config/config.json", "config/search.yaml", *tuned}
