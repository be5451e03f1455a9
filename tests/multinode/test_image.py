"""The image of the Dockerfile, built and run without a Docker engine.

buildah builds the CPU image in a chroot. Its base image is a substitute: Debian with its own Python, which mmdebstrap
makes from the mirror in the configuration of apt. If a registry can be reached, set
RAYCRNN_IMAGE_BASE=docker.io/library/python:3.11-slim-bookworm to use the real base. pip has the same configuration in
the build as outside. Each command of a container runs in a PID namespace, so that no process outlives it. Cgroups,
container networks and GPUs are not tested.
"""

import ast
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from raycrnn.bench.serve import free_port
from raycrnn.model.recognizer import Recognizer
from tests.conftest import words, write_set

ROOT = Path(__file__).parents[2]
cluster = pytest.mark.cluster
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
CONFIGURATION = {
    "output_model_dir": "/config/output",
    "data": {"csv_files_train": "/sources/labels.csv", "csv_files_eval": "/sources/labels.csv"},
    "model": {"cnn_channels": [8, 16, 32, 32, 48, 48, 48], "lstm_size": 32, "keep_prob": 1.0},
    "augmentation": {"data_augmentation": False},
    "training": {"n_epochs": 2, "train_batch_size": 8, "learning_rate": 3e-3, "precision": "fp32"},
}


@pytest.fixture(scope="module")
def health():
    spec = importlib.util.spec_from_file_location("health", ROOT / "deploy" / "health.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("serve output/model", "http://127.0.0.1:8000/health"),
        ("serve output/model --host 0.0.0.0 --port 9000", "http://127.0.0.1:9000/health"),
        ("serve --port=9000 --host=:: output/model", "http://[::1]:9000/health"),
        ("serve output/model --host 172.17.0.2", "http://172.17.0.2:8000/health"),
        ("raycrnn serve output/model", "http://127.0.0.1:8000/health"),
        ("serve --help", None),
        ("train config.json", None),
        ("bash", None),
        ("predict serve images", None),
        ("ray start --block", None),
    ],
)
def test_the_health_check_uses_the_address_of_the_service(health, given, expected):
    assert health.service_of(["/usr/bin/tini", "--", "/usr/local/bin/raycrnn-entrypoint", *given.split()]) == expected


def test_the_health_check_passes_if_the_entry_point_started_no_service(health):
    assert health.service_of(["bash", "-c", "raycrnn serve output/model"]) is None


@dataclass(frozen=True)
class Buildah:
    """buildah with a separate storage."""

    storage: Path
    driver: str

    def command(self, *arguments: object) -> list[str]:
        """Return a command line, without the namespace."""
        places = ["--root", self.storage / "root", "--runroot", self.storage / "run", "--storage-driver", self.driver]
        return list(map(str, ["buildah", *places, *arguments]))

    def __call__(self, *arguments: object, timeout: float = 300) -> str:
        """Run a command that must succeed, and return its output."""
        # Commands in containers run at normal priority: Ray gives up if it starts too slowly.
        command = [*NAMESPACE, "nice", "-n", "15", *self.command(*arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"buildah {arguments[0]}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()


def unavailable() -> str | None:
    """Return the reason why no image can be built on this machine, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "building an image requires root on Linux"
    tools = ["buildah", "unshare", "nsenter", "rsync", *([] if named_base() else ["mmdebstrap", "apt-get"])]
    if absent := [tool for tool in tools if shutil.which(tool) is None]:
        return f"not installed: {', '.join(absent)}"
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        return "PID namespaces are not permitted on this machine"
    if not named_base() and not debian_sources():
        return "apt has no Debian mirror (run apt-get update; other distributions are not supported)"
    return None


def named_base() -> str | None:
    return os.environ.get("RAYCRNN_IMAGE_BASE")


def debian_sources() -> list[str]:
    """Return the lines of a sources.list with the Debian mirrors of apt."""
    fields = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages", "Origin: Debian"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return sorted(set(done.stdout.splitlines()))


def make_base(buildah: Buildah, folder: Path) -> str:
    """Make an image with the base system of Debian and Python, from packages, and return its name."""
    sources = debian_sources()
    (folder / "sources.list").write_text("\n".join(sources) + "\n")
    # The release has the shortest name; those of its updates have a suffix.
    suite = min((line.split()[2] for line in sources), key=len)
    include = "--include=python3,python3-pip,ca-certificates"
    omit = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")]
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", include, *omit, suite]
    subprocess.run(
        [*NAMESPACE, "nice", "-n", "15", *command, folder / "base.tar", folder / "sources.list"],
        check=True,
        timeout=600,
    )
    container = buildah("from", "scratch")
    buildah("add", container, folder / "base.tar", "/")
    buildah("commit", "--rm", container, "localhost/base")
    (folder / "base.tar").unlink()
    return "localhost/base"


def pip_mounts(folder: Path) -> list[str]:
    """Return options of buildah that mount the configuration of pip, and the files and folders that it names."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        scope, _, key = name.rpartition(".")
        # Environment variables take precedence over files.
        if scope in ("global", "install", ":env:") and (scope == ":env:" or key not in settings):
            settings[key] = ast.literal_eval(value)
    mounts = {folder: "/etc/xdg/pip"}
    for key, value in settings.items():
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if path.is_file():
                shutil.copy(path, folder / path.name)
                settings[key] = f"/etc/xdg/pip/{path.name}"
            elif path.is_absolute() and path.is_dir():
                # The pages of an index link to files in the folder next to it.
                source = path.parent if "index-url" in key else path
                mounts[source] = str(source)
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    (folder / "pip.conf").write_text("[global]\n" + "".join(lines))
    return [option for source, target in mounts.items() for option in ("--volume", f"{source}:{target}:ro")]


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    """buildah; its storage is removed afterwards."""
    if reason := unavailable():
        pytest.skip(reason)
    storage = tmp_path_factory.mktemp("image")
    overlay = Buildah(storage, "overlay")
    probe = subprocess.run([*NAMESPACE, *overlay.command("info")], capture_output=True, check=False)
    # vfs works in any sandbox, but copies the image for each step and container.
    yield overlay if probe.returncode == 0 else Buildah(storage, "vfs")
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(storage) in line]
    for mount in reversed(mounts):
        subprocess.run(["umount", mount], check=False)
    shutil.rmtree(storage)
    assert not mounts, f"buildah left mounts: {mounts}"


@pytest.fixture(scope="module")
def image(buildah, tmp_path_factory):
    """The name of the image. The times to build it are printed."""
    folder = tmp_path_factory.mktemp("base")
    started = time.monotonic()
    base = named_base() or make_base(buildah, folder)
    base_made = time.monotonic()
    pip = tmp_path_factory.mktemp("pip")
    # Only the index of pip, because that of PyTorch may not be reachable.
    options = ["BASE=" + base, "DEVICE=cpu", "CPU_INDEX=", "REVISION=0123abc"]
    arguments = [word for option in options for word in ("--build-arg", option)]
    # The format of Docker, because that of OCI has no health check.
    buildah(
        *["build", "--isolation", "chroot", "--format", "docker", "--pull", "--tag", "localhost/raycrnn"],
        *[*arguments, *pip_mounts(pip), "--file", ROOT / "Dockerfile", ROOT],
        timeout=1200,
    )
    print(f"\nbase {base_made - started:.0f} s, image {time.monotonic() - base_made:.0f} s")
    return "localhost/raycrnn"


@dataclass(frozen=True)
class Container:
    """Commands in the image, as `docker run` would run them, with options of Docker."""

    buildah: Buildah
    name: str
    entrypoint: tuple[str, ...]
    options: tuple[str, ...] = ()

    def mounted(self, *volumes: str) -> "Container":
        return replace(self, options=(*self.options, *(word for volume in volumes for word in ("--volume", volume))))

    def as_user(self, user: str) -> "Container":
        return replace(self, options=(*self.options, "--user", user))

    def command(self, *arguments: str, entry: bool = True) -> list[str]:
        """Return a command line without the namespace. Without `entry` it bypasses the entry point of the image."""
        entrypoint = self.entrypoint if entry else ()
        options = ["--isolation", "chroot", *self.options]
        return self.buildah.command("run", *options, "--", self.name, *entrypoint, *arguments)

    def run(self, *arguments: str, entry: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*NAMESPACE, *self.command(*arguments, entry=entry)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def output(self, *arguments: str, entry: bool = True) -> str:
        """Run a command that must succeed, and return its output."""
        done = self.run(*arguments, entry=entry)
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def settings(buildah, image):
    """The configuration of the image as Docker reads it."""
    return json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]


@pytest.fixture(scope="module")
def container(buildah, image, settings):
    return Container(buildah, buildah("from", "--pull-never", image), tuple(settings["Entrypoint"]))


@pytest.fixture(scope="module")
def trained(container, tmp_path_factory):
    """A container that has trained a model in /config on images in /sources, and the two folders on the host."""
    sources, config = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("config")
    write_set(sources, words(24))
    (config / "config.json").write_text(json.dumps(CONFIGURATION))
    # Only root can read the folders of pytest.
    sources.chmod(0o755)
    config.chmod(0o755)
    os.chown(config, 1000, 1000)
    running = container.mounted(f"{sources}:/sources:ro", f"{config}:/config")
    done = running.run("train", "config.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return running, sources, config


@cluster
def test_the_image_has_entry_point_health_check_and_labels(settings):
    assert settings["User"] == "1000:1000"
    assert settings["WorkingDir"] == "/config"
    assert list(settings["ExposedPorts"]) == ["8000/tcp"]
    assert settings["Cmd"] == ["--help"]
    assert settings["Healthcheck"]["Test"] == ["CMD", "raycrnn-health"]
    assert settings["Labels"]["org.opencontainers.image.revision"] == "0123abc"
    # `ray up` reads it here, and uses /root if it is missing.
    assert "HOME=/home/raycrnn" in settings["Env"]
    assert "RAY_USAGE_STATS_ENABLED=0" in settings["Env"]


@cluster
def test_the_image_contains_no_build_files(container):
    as_root = container.as_user("0")
    sizes = [as_root.output("du", "-sxm", path, entry=False).split()[0] for path in ("/", "/opt/raycrnn")]
    print(f"\nimage {sizes[0]} MB, of which raycrnn and its dependencies take {sizes[1]} MB")
    installed = as_root.output("ls", "/opt/raycrnn/bin", entry=False).split()
    assert {"raycrnn", "ray", "python"} <= set(installed)
    assert not {"pip", "pip3", "ruff", "pytest"} & set(installed)
    assert as_root.run("sh", "-c", "command -v cc gcc make", entry=False).returncode != 0
    # Paths in the image, not on the machine that builds it.
    unwanted = ["/root/.cache", "/home/raycrnn/.cache", "/build", "/opt/package", "/etc/xdg/pip/pip.conf"]
    tests = " || ".join(f"test -e {path}" for path in unwanted)
    assert as_root.run("sh", "-c", tests, entry=False).returncode != 0
    assert as_root.output("sh", "-c", "find /var/lib/apt/lists /var/cache/apt/archives -type f -size +1k") == ""
    # The bytecode must have the time stamps of its sources after being copied, or else each start compiles it again.
    stale = "import importlib.util as u, os, struct, torch.nn as m; p = u.cache_from_source(m.__file__); "
    stale += "assert struct.unpack('<I', open(p, 'rb').read()[8:12])[0] == int(os.stat(m.__file__).st_mtime)"
    as_root.output("python", "-c", stale)


@cluster
def test_commands_do_not_run_as_root(container):
    assert container.output("whoami") == "raycrnn"
    assert container.output("id", "-u") == "1000"
    assert container.output("sh", "-c", "touch ~/a && rm ~/a && pwd") == "/config"
    assert container.run("touch", "/opt/raycrnn/a").returncode != 0


@cluster
def test_verbs_run_raycrnn_and_other_words_run_commands(container):
    assert "raycrnn VERB" in container.output("--help")
    # Debian has a command `split`, too.
    assert "raycrnn split" in container.output("split", "--help")
    assert "raycrnn split" not in container.output("split", "--help", entry=False)
    assert container.output("bash", "-c", "echo $0 $1", "a", "b") == "a b"
    assert container.output("ray", "--version").startswith("ray, version 2.")
    misspelt = container.run("trian", "config.json")
    assert misspelt.returncode == 2
    assert "unknown verb 'trian'" in misspelt.stderr


@cluster
@pytest.mark.parametrize("shell", [["bash", "-lc"], ["bash", "--login", "-c"]])
def test_login_shells_find_ray(container, shell):
    """KubeRay and `ray up` use login shells, in which /etc/profile of Debian sets PATH."""
    assert "/opt/raycrnn/bin/ray" in container.output(*shell, "command -v ray raycrnn", entry=False)


@cluster
def test_ray_up_copies_files_into_the_home_directory(container, tmp_path):
    """The command with which `ray up` copies files, with buildah instead of docker."""
    (tmp_path / "ray_bootstrap_key.pem").write_text("a key\n")
    (tmp_path / "ray_bootstrap_key.pem").chmod(0o600)
    remote = shlex.join(container.buildah.command("run", "--isolation", "chroot"))
    target = f"{container.name}:/home/raycrnn/ray_bootstrap_key.pem"
    copied = ["rsync", "-e", remote, "-az", tmp_path / "ray_bootstrap_key.pem", target]
    subprocess.run([*NAMESPACE, *map(str, copied)], check=True, timeout=60)
    assert container.output("cat", "/home/raycrnn/ray_bootstrap_key.pem", entry=False) == "a key"
    assert container.output("stat", "-c", "%u %a", "/home/raycrnn/ray_bootstrap_key.pem", entry=False) == "1000 600"
    # The head copies files with ssh, and the probes of KubeRay use wget.
    assert container.output("bash", "-c", "command -v ssh wget", entry=False).count("/") >= 2


@cluster
def test_training_in_the_image_writes_a_model(trained):
    running, sources, config = trained
    assert (config / "output" / "model" / "model.safetensors").stat().st_uid == 1000
    assert len((config / "output" / "metrics.jsonl").read_text().splitlines()) == 2
    assert not (sources / "output").exists()
    assert running.run("touch", "/sources/a").returncode != 0
    recognizer = Recognizer.load(config / "output" / "model", "cpu")
    assert len(recognizer(sorted((sources / "images").iterdir()))) == 24


@cluster
def test_the_image_runs_under_any_user_id(trained):
    running, _, _ = trained
    other = running.as_user("4242:4242")
    assert other.output("id", "-u") == "4242"
    lines = other.output("evaluate", "output/model", "/sources/labels.csv", "--json").splitlines()
    assert json.loads(lines[-1])["samples"] == 24


@cluster
def test_the_health_status_is_that_of_the_service(trained):
    running, _, _ = trained
    assert running.run("raycrnn-health", entry=False).returncode == 0
    port = str(free_port())
    serving = running.command("serve", "output/model", "--host", "127.0.0.1", "--port", port)
    process = subprocess.Popen([*NAMESPACE, *serving], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        first = wait_for_child(process.pid)
        check = ["nsenter", "--target", str(first), "--pid", "--mount", *running.command("raycrnn-health", entry=False)]
        # The service is starting.
        assert subprocess.run(check, capture_output=True, timeout=60, check=False).returncode == 1
        deadline = time.monotonic() + 180
        while subprocess.run(check, capture_output=True, timeout=60, check=False).returncode:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, "the service never became healthy"
            time.sleep(1)
        assert f":{port}/ (API: " in process.stdout.readline()
    finally:
        # This ends the namespace, too.
        process.kill()
        process.wait()


def wait_for_child(pid: int) -> int:
    """Wait for the first child of a process, which is process 1 of the namespace, and return its PID."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(children[0])
        time.sleep(0.1)
    raise AssertionError("unshare started nothing")
