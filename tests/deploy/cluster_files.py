"""The files for clusters, as Ray and their users read them."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private import util
from ray.autoscaler._private.docker import docker_start_cmds
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

ROOT = Path(__file__).parents[2]
AWS, ONPREM = "cluster.yaml", "deploy/cluster-onprem.yaml"
ACCOUNT = "deploy/aws-account.yaml"
KUBERNETES = ["deploy/rayjob.yaml", "deploy/rayservice.yaml"]
EVERY = [AWS, ONPREM, ACCOUNT, *KUBERNETES, "deploy/serve_config.yaml"]
TOKEN = "0123456789abcdef" * 4


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


def container_command(cluster: dict[str, Any], node_type: str) -> list[str]:
    """Return the arguments of the `docker run` with which Ray starts the container on a machine of a type."""
    docker = AutoscalingConfig(cluster, skip_content_hash=True).get_docker_config(node_type)
    own = docker.get("head_run_options" if node_type == "head" else "worker_run_options", [])
    mounts, options = cluster["file_mounts"], docker["run_options"] + own
    line = docker_start_cmds("ubuntu", docker["image"], mounts, "raycrnn", options, "raycrnn", "/home/u", "docker")
    return shlex.split(line)
