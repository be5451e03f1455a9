"""Variables, commands, files and modules that are named in the files exist."""

import os
import re
import shlex
import stat
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest
import ray
from ray._private.runtime_env import packaging
from ray.dashboard.modules.job.cli import job_cli_group
from ray.scripts import scripts
from ray.serve._private.utils import call_function_from_import_path

from raycrnn import config
from raycrnn.serving import proxy_middleware
from tests.deploy.cluster_files import (
    ACCOUNT,
    AWS,
    EVERY,
    ONPREM,
    ROOT,
    commented_commands,
    read,
    text_of,
)


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
