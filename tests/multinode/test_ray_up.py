"""`ray up` with the shipped file: a head and two workers over ssh, a job on both, the loss of a worker during training,
and `ray down`. The machines are simulated with namespaces (namespaces.py)."""

import json
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from raycrnn.model.recognizer import Recognizer
from tests.conftest import words, write_set
from tests.multinode import namespaces
from tests.multinode.namespaces import HOME, REPOSITORY, Lan, Machine, lan, stop, wait_until

pytestmark = pytest.mark.cluster

BIN = f"{sys.prefix}/bin"
SHIPPED = REPOSITORY / "deploy" / "cluster-onprem.yaml"
FILE = f"{HOME}/cluster.yaml"
INSTALLED = "/opt/raycrnn"
"""Where the file expects raycrnn."""

STORAGE_SERVER = (f"{BIN}/python", "-m", "moto.server")
STORAGE_PORT = 9000
STORAGE = "s3://raycrnn"
KEYS = {"aws_access_key_id": "someone", "aws_secret_access_key": "a-secret-of-this-test"}

DASHBOARD_PORT = 8265
DASHBOARD = f"http://127.0.0.1:{DASHBOARD_PORT}"

EPOCHS = 40
EVALUATE_EVERY = 5

# One CPU for each, whatever this machine has; more workers than CPUs would only wait for each other.
ONE_CPU = """export RAY_OVERRIDE_RESOURCES='{"CPU": 1}'\n"""

COPY = """
import sys, pyarrow.fs
(source, start), (target, end) = (pyarrow.fs.FileSystem.from_uri(each) for each in sys.argv[1:])
target.create_dir(end)
pyarrow.fs.copy_files(start, end, source, target)
"""

STATUS_OF = """
import sys, urllib.error, urllib.request
def status(address, **headers):
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code
for address in sys.argv[1:]:
    print(status(address), status(address, Authorization='Bearer ' + 8 * '0123abcd'), address)
"""
"""Prints the HTTP status of each address without a token and with a wrong one."""


@dataclass(frozen=True)
class Cluster:
    """The cluster that `ray up` made, and the user's machine."""

    lan: Lan
    log: Path
    """Output of the job."""

    @property
    def head(self) -> Machine:
        return self.lan.others[0]

    @property
    def workers(self) -> tuple[Machine, ...]:
        return self.lan.others[1:]

    def ray(self, *arguments: str, seconds: float = 60) -> str:
        """Run a `ray` command on the user's machine with the token, and return its output."""
        return self.lan.user.must([f"{BIN}/ray", *arguments], seconds, RAY_AUTH_MODE="token")

    def active(self) -> int:
        """Return the number of active nodes, including the head."""
        status = self.ray("exec", FILE, "ray status")
        active = status.partition("Active:")[2].partition("Pending:")[0]
        return sum(int(number) for number in re.findall(r"^ *(\d+) ", active, re.MULTILINE))


# --- the cluster


def storage(lan: Lan, log: Path) -> None:
    """Start a simulated S3 on the user's machine, with one bucket that holds the images."""
    with log.open("w") as output:
        lan.user.start([*STORAGE_SERVER, "-H", lan.user.address, "-p", str(STORAGE_PORT)], output.fileno())
    wait_until(lambda: listens(lan.user, STORAGE_PORT), 60, log.read_text)
    write_set(lan.shared / "images", words(128))
    copy(lan, lan.shared / "images", f"{STORAGE}?allow_bucket_creation=true")


def listens(machine: Machine, port: int) -> list[str]:
    """Return the addresses on which a machine listens at a port."""
    sockets = machine.must(["ss", "-Htln", "sport", "=", str(port)]).splitlines()
    return [line.split()[3].rpartition(":")[0] for line in sockets]


def copy(lan: Lan, source: object, target: object) -> None:
    """Copy between a folder and the object storage."""
    lan.user.must([f"{BIN}/python", "-c", COPY, str(source), str(target)], **storage_environment(lan))


def storage_environment(lan: Lan) -> dict[str, str]:
    keys = {name.upper(): value for name, value in KEYS.items()}
    return {
        **keys,
        "AWS_ENDPOINT_URL": f"http://{lan.user.address}:{STORAGE_PORT}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def adapted(lan: Lan) -> str:
    """Return the shipped file with the changes that its comments ask for, and with object storage other than AWS."""
    text = SHIPPED.read_text(encoding="utf-8")
    for choice in ('"~/.aws/credentials": ', "- echo 'export AWS_ENDPOINT_URL="):
        assert text.count(f" #{choice}") == 1, choice
        text = text.replace(f" #{choice}", f" {choice}")
    text = re.sub("http://storage.example:[0-9]+", storage_environment(lan)["AWS_ENDPOINT_URL"], text)
    tree = yaml.safe_load(text)
    head, *workers = (machine.address for machine in lan.others)
    tree["provider"].update(head_ip=head, worker_ips=workers)
    tree["auth"].update(ssh_user=namespaces.login()["USER"], ssh_private_key="~/.ssh/id_ed25519")
    return yaml.safe_dump(tree)


def prepare(lan: Lan) -> None:
    """Prepare the machines as the comments in the file say."""
    for machine in lan.others if sys.prefix != INSTALLED else ():
        machine.path(INSTALLED).symlink_to(sys.prefix)
    user = lan.user
    user.must(["bash", "-c", f"umask 077; {BIN}/ray get-auth-token --generate > /dev/null"])
    keys = user.path("~/.aws/raycrnn-credentials")
    keys.parent.mkdir(mode=0o700)
    keys.touch(mode=0o600)
    keys.write_text("[default]\n" + "".join(f"{name} = {value}\n" for name, value in KEYS.items()))
    user.path(FILE).write_text(adapted(lan))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    reason = namespaces.missing()
    if reason:
        pytest.skip(reason)
    pytest.importorskip("moto.server", reason="moto[server], the stand-in for object storage, is not installed")
    folder = tmp_path_factory.mktemp("cluster")
    bashrc = {"worker1": ONE_CPU, "worker2": ONE_CPU}
    with lan(folder, ["head", "worker1", "worker2"], bashrc) as machines:
        found = Cluster(machines, folder / "job.log")
        with explained(found):
            storage(machines, folder / "storage.log")
            prepare(machines)
            found.ray("up", "-y", FILE, seconds=180)
            wait_until(lambda: found.active() == 3, 120, lambda: found.ray("exec", FILE, "ray status"))
        yield found


@contextmanager
def tunnel(cluster: Cluster) -> Iterator[None]:
    """Run `ray dashboard`, a tunnel to the head's loopback interface."""
    log = cluster.lan.shared / "tunnel.log"
    with log.open("w") as output:
        process = cluster.lan.user.start([f"{BIN}/ray", "dashboard", FILE], output.fileno(), RAY_AUTH_MODE="token")
    try:
        wait_until(lambda: listens(cluster.lan.user, DASHBOARD_PORT), 60, log.read_text)
        yield
    finally:
        stop(process)


@contextmanager
def explained(cluster: Cluster) -> Iterator[None]:
    """Print the logs if the block fails."""
    try:
        yield
    except BaseException:
        logs = [cluster.log, cluster.lan.shared / "tunnel.log", cluster.head.path("/tmp/sshd.log")]
        # Not by the link to the newest session, which is absolute and leads elsewhere on the host.
        for log in [*logs, *sorted(cluster.head.path("/tmp/ray").glob("session_2*/logs/monitor.*"))]:
            if log.exists():
                print(f"--- {log}:\n{log.read_text(errors='replace')[-5000:]}")
        raise


# --- tests


def test_a_head_without_cpus_and_two_workers_start(cluster):
    with explained(cluster):
        status = cluster.ray("exec", FILE, "ray status")
        assert re.search(r"/2\.0 CPU", status), status
        nodes = cluster.head.must(
            [f"{BIN}/python", "-c", "import ray; ray.init('auto', log_to_driver=False); print('found', ray.nodes())"],
            RAY_AUTH_MODE="token",
        )
        found = {}
        for address, resources in re.findall(r"'NodeManagerAddress': '([^']+)'.*?'Resources': (\{.*?\})", nodes):
            found[address] = "'CPU'" in resources
        assert found == {cluster.head.address: False} | {each.address: True for each in cluster.workers}


def test_jobs_and_dashboard_require_the_token(cluster):
    user = cluster.lan.user
    for machine in (cluster.head, *cluster.workers):
        for secret in ("~/.ray/auth_token", "~/.aws/credentials"):
            assert stat.S_IMODE(machine.path(secret).stat().st_mode) == 0o600
    assert stat.S_IMODE(user.path("~/.ray/auth_token").stat().st_mode) == 0o600
    # The dashboard listens on the loopback interface only.
    assert listens(cluster.head, DASHBOARD_PORT) == ["127.0.0.1"]
    with explained(cluster), tunnel(cluster):
        addresses = [
            f"{DASHBOARD}/{path}" for path in ("api/jobs/", "api/cluster_status", "nodes?view=summary", "logs")
        ]
        answers = user.must([f"{BIN}/python", "-c", STATUS_OF, *addresses]).splitlines()
        assert [line.split()[:2] for line in answers] == [["401", "403"]] * len(addresses), answers
        submit = [f"{BIN}/ray", "job", "submit", "--address", DASHBOARD, "--", "touch", "/tmp/was-here"]
        code, output = user.run(submit, HOME="/tmp")
        assert code != 0
        assert "Authentication required" in output, output
        connect = [f"{BIN}/ray", "status", "--address", f"{cluster.head.address}:6379"]
        code, output = user.run(connect, 120, HOME="/tmp")
        assert code != 0
        assert "InvalidAuthToken" in output, output
        # With the token it works.
        assert "touch" not in cluster.ray("job", "list", "--address", DASHBOARD)
    assert not cluster.head.path("/tmp/was-here").exists()


def test_an_output_directory_that_other_nodes_cannot_see_is_refused(cluster):
    folder = job_folder(cluster.lan, STORAGE)
    job = ["--working-dir", str(folder), "--", "raycrnn", "train", "config.json", "output_model_dir=/tmp/run"]
    with explained(cluster), tunnel(cluster):
        submit = [f"{BIN}/ray", "job", "submit", "--address", DASHBOARD, *job]
        code, output = cluster.lan.user.run(submit, 120, RAY_AUTH_MODE="token")
    assert code != 0
    assert "output_model_dir=/tmp/run: exists on this machine but not on node" in output, output
    assert "s3://" in output


def test_a_job_survives_the_loss_of_a_worker(cluster):
    """Data and results are in object storage; the worker is switched off during training."""
    lan, folder = cluster.lan, job_folder(cluster.lan, STORAGE)
    job = ["--working-dir", str(folder), "--", "raycrnn", "train", "config.json"]
    with explained(cluster), tunnel(cluster), cluster.log.open("w") as output:
        submit = [f"{BIN}/ray", "job", "submit", "--address", DASHBOARD, *job]
        # Unbuffered, so that the log can be read while the job runs.
        process = lan.user.start(submit, output.fileno(), RAY_AUTH_MODE="token", PYTHONUNBUFFERED="1")
        wait_until(lambda: evaluations(cluster) >= 2 or process.poll() is not None, 240, cluster.log.read_text)
        assert process.poll() is None
        cluster.workers[1].lose()
        assert not cluster.workers[1].processes()
        wait_until(lambda: process.poll() is not None, 240, cluster.log.read_text)
        assert process.returncode == 0
        assert "SUCCEEDED" in cluster.ray("job", "list", "--address", DASHBOARD)
        check_result(lan)


def job_folder(lan: Lan, place: str) -> Path:
    """Return the folder that is submitted with the job; it holds the configuration."""
    folder = lan.shared / "job"
    folder.mkdir(exist_ok=True)
    tree = {
        "output_model_dir": f"{place}/output",
        "data": {"csv_files_train": f"{place}/labels.csv", "csv_files_eval": f"{place}/labels.csv"},
        "model": {"cnn_channels": [8, 16, 32, 32, 48, 48, 48], "lstm_size": 32},
        "training": {
            "n_epochs": EPOCHS,
            "train_batch_size": 8,
            "learning_rate": 3e-3,
            "precision": "fp32",
            "save_interval": 80,
            "evaluate_every_epoch": EVALUATE_EVERY,
        },
        "cluster": {"num_workers": [1, 2]},
    }
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


def evaluations(cluster: Cluster) -> int:
    return len(re.findall(r"^epoch ", cluster.log.read_text(), re.MULTILINE))


def check_result(lan: Lan) -> None:
    """Check that every epoch was done once, by two workers and then by one, and that the model has learned."""
    output = lan.shared / "output"
    copy(lan, f"{STORAGE}/output", output)
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in metrics] == list(range(EVALUATE_EVERY, EPOCHS + 1, EVALUATE_EVERY))
    numbers = [record["workers"] for record in metrics]
    assert numbers == sorted(numbers, reverse=True)
    assert set(numbers) == {1, 2}
    assert min(record["cer"] for record in metrics) < 0.05
    rows = [line.split(";") for line in (lan.shared / "images" / "labels.csv").read_text().splitlines()]
    read = Recognizer.load(output / "model", "cpu")([lan.shared / "images" / path for path, _ in rows])
    exact = sum(found.text == label for found, (_, label) in zip(read, rows, strict=True))
    assert exact >= 0.9 * len(rows)


def test_ray_down_ends_all_processes(cluster):
    """`ray down` stops the head; the workers end by themselves some time after they have lost it."""
    with explained(cluster):
        cluster.ray("down", "-y", FILE)
        for machine in (cluster.head, *cluster.workers):
            wait_until(partial(idle, machine), 180, partial(others, machine))


def idle(machine: Machine) -> bool:
    return not others(machine)


def others(machine: Machine) -> list[str]:
    """Return the processes of a machine other than its ssh server."""
    return [line for line in machine.processes() if not line.startswith("sshd")]
