"""The account, machines and roles on AWS. EC2 and CloudFormation are simulated by moto."""

import json
import os
import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import boto3
import click
import moto
import pytest
import yaml
from ray.autoscaler._private import commands
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws import utils as aws_utils
from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from tests.deploy.cluster_files import (
    ACCOUNT,
    AWS,
    TOKEN,
    container_command,
    prepared,
    read,
    text_of,
    with_options,
)

REGION = "us-east-1"
MY_ADDRESS = "203.0.113.7/32"


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
    # Not at the top: importing it takes a second, also in a run that does not select this test.
    import cfnlint.api

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
