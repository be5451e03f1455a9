"""The service on Ray Serve: the command, the application for `serve run`, and failures."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from raycrnn.bench.load import Question, closed_loop
from raycrnn.bench.serve import free_port, running
from raycrnn.errors import UsageError
from raycrnn.serve import Serve
from raycrnn.serving import proxy_middleware
from raycrnn.serving.deployment import Settings, read_token
from tests.conftest import draw, words
from tests.model.test_recognizer import recognizer
from tests.serving.samples import png

long = pytest.mark.long
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "model"
    recognizer(num_beam_paths=1).save(path)
    return str(path)


@pytest.fixture(scope="module")
def questions():
    reader = recognizer(num_beam_paths=1)
    images = [draw(text) for text in words(20)]
    return [Question(png(image), found.text) for image, found in zip(images, reader(images), strict=True)]


# --- settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [(2, (2, 2)), ("2", (2, 2)), ("1-4", (1, 4)), ("[1,4]", (1, 4)), ((1, 4), (1, 4)), ([1, 4], (1, 4))],
)
def test_replicas_are_a_number_or_a_range(given, expected):
    settings = Settings(model="m", replicas=given)
    assert settings.replica_range == expected
    options = settings.deployment_options()
    if expected[0] == expected[1]:
        assert options["num_replicas"] == expected[0]
    else:
        assert [options["autoscaling_config"][key] for key in ("min_replicas", "max_replicas")] == [1, 4]


@pytest.mark.parametrize("given", [0, "0", "4-1", "many", (2, 1), "1-2-3"])
def test_invalid_replicas_are_refused(given):
    with pytest.raises(ValueError, match="replicas"):
        Settings(model="m", replicas=given)


def test_the_limits_of_rays_queue_are_above_max_waiting():
    options = Settings(model="m", limits={"max_waiting": 10}).deployment_options()
    assert options["max_ongoing_requests"] > 10
    assert options["max_queued_requests"] > 10


def test_a_fraction_of_a_gpu_is_reserved():
    assert Settings(model="m", gpus="0.25").deployment_options()["ray_actor_options"]["num_gpus"] == 0.25


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("RAYCRNN_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("RAYCRNN_TOKEN", "sesame")
    assert read_token(None) == "sesame"
    monkeypatch.setenv("RAYCRNN_TOKEN", " sesame\n")
    assert read_token(None) == "sesame"
    (tmp_path / "token").write_text("other\n")
    assert read_token(str(tmp_path / "token")) == "other"
    (tmp_path / "token").write_text("\n")
    with pytest.raises(UsageError, match="the token is empty"):
        read_token(str(tmp_path / "token"))
    with pytest.raises(UsageError, match="the token cannot be read"):
        read_token(str(tmp_path / "gone"))


@pytest.mark.parametrize("token", ["sésame", "two\nlines", "a\tb", " "])
def test_a_token_that_a_header_cannot_hold_is_refused(tmp_path, monkeypatch, token):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(UsageError, match=str(tmp_path)):
        read_token(str(tmp_path / "token"))
    monkeypatch.setenv("RAYCRNN_TOKEN", token)
    with pytest.raises(UsageError, match="RAYCRNN_TOKEN"):
        read_token(None)


def test_usage_errors_are_reported_before_ray_starts(model, capsys):
    assert Serve.call(["nowhere"], "serve") == 2
    assert "not a model directory" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert Serve.call([model, "--port", port], "serve") == 2
    assert "cannot listen on" in capsys.readouterr().err
    assert Serve.call([model, "training.n_epochs=1"], "serve") == 2
    assert "only decoding.* and data.*" in capsys.readouterr().err
    # Not the default port, which another program may use.
    free = str(free_port())
    assert Serve.call([model, "--port", free, "--max-images", "9", "--max-waiting", "8"], "serve") == 2
    assert "max_images=9 must not be greater than max_waiting=8" in capsys.readouterr().err


def test_max_body_mb_alone_raises_the_upload_limit():
    limits = Serve(model="m", max_body_mb=300)._settings().limits
    assert (limits.max_body_mb, limits.max_upload_mb) == (300, 300)
    # As a replica gets them.
    assert Settings(**Settings(model="m", limits=limits).model_dump(mode="json")).limits == limits


def test_the_shipped_serve_config_is_valid_and_closed_to_the_network():
    from ray.serve.schema import ServeDeploySchema

    tree = yaml.safe_load((ROOT / "deploy" / "serve_config.yaml").read_text(encoding="utf-8"))
    schema = ServeDeploySchema.model_validate(tree)
    assert schema.http_options.host == "127.0.0.1"
    (application,) = schema.applications
    assert application.import_path == "raycrnn.serve:app"
    Settings(**application.args)


# --- the command


@pytest.mark.ray
@long
def test_the_command_serves_and_ctrl_c_answers_the_requests_in_progress(model, questions):
    port = free_port()
    with running("raycrnn.serve", model, "--port", port) as process:
        load = asyncio.run(closed_loop(port, questions, 4, 2))
        assert load.latencies
        assert load.wrong == load.refused == load.failed == 0
        # More than the 4 MB that gRPC accepts by default.
        large = httpx.post(f"http://127.0.0.1:{port}/predict", content=bytes(6_000_000), timeout=60)
        assert (large.status_code, large.json()["error"]) == (422, "not an image")
        answers = []
        many = [("image", (f"{n}.png", question.body)) for n, question in enumerate(questions * 3)]
        before = images_received(port)

        def ask():
            answers.append(httpx.post(f"http://127.0.0.1:{port}/predict", files=many, timeout=60))

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        # Ctrl-C may refuse requests that have not arrived yet.
        while images_received(port) < before + 4 * len(many):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        for thread in asking:
            thread.join(60)
        assert process.wait(120) == 130
    assert [answer.status_code for answer in answers] == [200] * 4
    for answer in answers:
        assert [each["text"] for each in answer.json()["predictions"]] == [each.text for each in questions * 3]


def images_received(port: int) -> int:
    """Return the number of images that a service has read or has waiting."""
    health = httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).json()
    return health["waiting"] + health["images_read"]


FOREIGN_CLUSTER = """
import sys
import ray
from ray import serve

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
http_options = {"port": int(sys.argv[1])}

@serve.deployment(ray_actor_options={"num_cpus": float(sys.argv[2])})
class Other:
    async def __call__(self, request):
        return "other"

serve.start(http_options=http_options)
serve.run(Other.bind(), name="other", route_prefix="/other")
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def foreign_cluster(port: int, cpus: float) -> Iterator[str]:
    """The address of a Ray cluster with two CPUs, some of them used by another application."""
    command = [sys.executable, "-c", FOREIGN_CLUSTER, str(port), str(cpus)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE")}
    process = subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield next(line for line in process.stdout if line.startswith("address")).split()[1]
    finally:
        process.stdin.close()
        process.wait(120)


@contextmanager
def serving_at(address: str, model: str, *options: str) -> Iterator[tuple[subprocess.Popen, Callable[[str], str]]]:
    """The command on a cluster, and a function that waits until it prints a text."""
    command = [sys.executable, "-m", "raycrnn.serve", model, "--address", address, *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    )
    printed = []

    def wait_for(text: str) -> str:
        for line in process.stdout:
            printed.append(line)
            if text in line:
                break
        assert text in "".join(printed), printed
        return "".join(printed)

    try:
        yield process, wait_for
    finally:
        process.kill()
        process.wait(120)


@pytest.mark.ray
@long
def test_on_a_foreign_cluster_only_our_application_starts_and_stops(model, questions):
    port = free_port()
    with (
        foreign_cluster(port, 0.5) as address,
        serving_at(address, model, "--port", str(free_port())) as (own, wait_for),
    ):
        printed = wait_for("Serving at")
        assert f"Serving at http://127.0.0.1:{port}/ (API: " in printed
        assert f"keeps listening on 127.0.0.1:{port}" in printed
        assert f"without RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH={proxy_middleware.IMPORT_PATH}" in printed
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", content=questions[0].body, timeout=30)
        assert answer.json()["text"] == questions[0].text
        with serving_at(address, model) as (second, wait_for_second):
            wait_for_second("already runs an application named 'raycrnn'")
            assert second.wait(60) == 2
        own.send_signal(signal.SIGINT)
        assert own.wait(120) == 130
        assert httpx.get(f"http://127.0.0.1:{port}/other", timeout=30).text == "other"
        assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 404


@pytest.mark.ray
@pytest.mark.extended
def test_missing_resources_are_reported_and_ctrl_c_ends_the_wait(model):
    port = free_port()
    with foreign_cluster(port, 2) as address, serving_at(address, model) as (own, wait_for):
        wait_for("waiting for 1 CPU: 0 of the cluster's 2 are free")
        own.send_signal(signal.SIGINT)
        assert own.wait(30) == 130
        assert httpx.get(f"http://127.0.0.1:{port}/other", timeout=30).text == "other"


@pytest.fixture(scope="module")
def service(model):
    """The process and the port of a running service."""
    port = free_port()
    with running("raycrnn.serve", model, "--port", port) as process:
        yield process, port


@pytest.mark.ray
@long
def test_no_request_fails_when_a_replica_is_killed(service, questions):
    process, port = service
    replica = replica_of(process.pid)
    killer = threading.Timer(3, lambda: os.kill(replica, signal.SIGKILL))
    killer.start()
    load = asyncio.run(closed_loop(port, questions, 8, 30))
    assert replica_of(process.pid) != replica
    assert load.wrong == load.failed == 0
    health = httpx.get(f"http://127.0.0.1:{port}/health").json()
    assert health["images_read"] > 0


def replica_of(pid: int) -> int:
    """Return the process id of the only replica among the descendants of a process."""
    table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in table.splitlines()[1:]]
    parent = {int(row[0]): int(row[1]) for row in rows}

    def is_below(child: int) -> bool:
        while child in parent:
            if child == pid:
                return True
            child = parent[child]
        return False

    (found,) = [int(row[0]) for row in rows if row[2].startswith("ray::ServeReplica") and is_below(int(row[0]))]
    return found


@pytest.mark.ray
@long
def test_a_thousand_malformed_requests_do_not_affect_others(service, questions):
    _, port = service
    generator = random.Random(0)
    statuses = [status_of(port, malformed(generator, questions)) for _ in range(1000)]
    # 503 is allowed. No status means that the request was not HTTP and the connection was closed.
    assert {status for status in statuses if status and status >= 500} <= {503}
    assert sum(status is not None for status in statuses) > 500
    load = asyncio.run(closed_loop(port, questions, 4, 2))
    assert load.latencies
    assert load.wrong == load.refused == load.failed == 0


def malformed(generator: random.Random, questions: list[Question]) -> bytes:
    """Return a request that is truncated, mutated, of a wrong type, or has huge headers."""
    body = bytearray(generator.choice(questions).body)
    kind = generator.choice(["image/png", "application/json", "text/html", "multipart/form-data; boundary=x", "\x01"])
    path = generator.choice(
        ["/predict", "/predict?n_best=-1", "/predict?n_best=9" + "9" * 400, "/%00", "/predict/../x"]
    )
    headers = {"Host": "x", "Content-Type": kind, "Connection": "close"}
    match generator.randrange(6):
        case 0:
            del body[generator.randrange(len(body)) :]
        case 1:
            for _ in range(20):
                body[generator.randrange(len(body))] = generator.randrange(256)
        case 2:
            headers["X-" + "h" * generator.randrange(100)] = "v" * generator.randrange(200_000)
        case 3:
            body = bytearray(b"--x\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\n") + body
        case 4:
            headers["Content-Length"] = generator.choice(["-1", "x", str(10**12), "3"])
        case 5:
            body = bytearray(generator.randbytes(generator.randrange(3000)))
    headers.setdefault("Content-Length", str(len(body)))
    method = generator.choice(["POST", "POST", "POST", "PUT", "GET", "\xff"])
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + bytes(body)


def status_of(port: int, request: bytes) -> int | None:
    """Return the status of the response to raw bytes; None if the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        try:
            connection.sendall(request)
            answer = connection.recv(200)
        except OSError:
            return None
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else None


@pytest.mark.ray
@long
@pytest.mark.extended
def test_serve_run_serves_the_same_application(model, questions):
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("port 8000, which serve run takes, is in use")
    program = Path(sys.executable).with_name("serve")
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    process = subprocess.Popen(
        [program, "run", "raycrnn.serve:app", f"model={model}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                answer = httpx.post("http://127.0.0.1:8000/predict", content=questions[0].body, timeout=10)
            except httpx.TransportError:
                answer = None
            # The proxy answers before the application is ready.
            if answer is not None and answer.status_code not in (404, 503):
                break
            time.sleep(0.5)
        assert answer.json()["text"] == questions[0].text
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


@pytest.mark.ray
@long
def test_all_ways_to_predict_agree_on_two_hundred_images(data_folder, tmp_path):
    """The recognizer, predict, the service and the exported graph must read the same."""
    labels = (data_folder("captcha4") / "labels.csv").read_text(encoding="utf-8").splitlines()
    rows = [f"{data_folder('captcha4')}/{row}" for row in labels[:200]]
    (tmp_path / "two_hundred.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    model, paths = tmp_path / "model", [row.partition(";")[0] for row in rows]
    reader = recognizer(method="greedy", num_beam_paths=1)
    reader.save(model)
    expected = [(found.text, pytest.approx(found.log_prob, abs=1e-3)) for found in reader(paths)]
    texts = [text for text, _ in expected]
    assert len(set(texts)) > 20, "the texts are too similar to show a difference"

    verb("predict", model, tmp_path / "two_hundred.csv", "-o", tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(row["text"], row["log_prob"]) for row in map(json.loads, lines)] == expected

    port = free_port()
    with running("raycrnn.serve", model, "--port", port), httpx.Client(timeout=30) as client:
        url = f"http://127.0.0.1:{port}/predict"
        answers = [client.post(url, content=Path(path).read_bytes()).json() for path in paths]
    assert [(answer["text"], answer["log_prob"]) for answer in answers] == expected

    verb("export", model, tmp_path / "model.onnx")
    printed = subprocess.run(
        [sys.executable, ROOT / "examples" / "onnx_predict.py", tmp_path / "model.onnx", *paths],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.rpartition("\t")[2] for line in printed.splitlines()] == texts


def verb(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "raycrnn", *map(str, arguments)], cwd=ROOT, check=True, timeout=400)
