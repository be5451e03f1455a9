"""Helpers and fixtures of several test files: drawn images with labels, real data sets, a local Ray, object storage."""

import os
import signal
import time
from pathlib import Path

import hypothesis
import pytest
from PIL import Image, ImageDraw, ImageFont

# No deadline, because machines differ. `make test` always uses the same examples, `make test-long` new ones.
hypothesis.settings.register_profile("short", max_examples=30, deadline=None, derandomize=True)
hypothesis.settings.register_profile("long", max_examples=100, deadline=None)
hypothesis.settings.load_profile("short")

GLYPHS = "abcdefgh"

CPU_RETURN_SECONDS = 60
"""How long processes of Ray may take to end after a test."""


def draw(text: str, height: int = 32) -> Image.Image:
    """Return an image of black text on white, in the default font of Pillow, with a height in pixels."""
    font = ImageFont.load_default(size=int(height * 0.75))
    width = int(font.getlength(text)) + height // 2
    image = Image.new("L", (width, height), 255)
    ImageDraw.Draw(image).text((height // 4, height // 16), text, fill=0, font=font)
    return image


def write_set(folder: Path, labels: list[str], name: str = "labels.csv") -> Path:
    """Write an image for each label and a CSV that lists them, and return the path of the CSV."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    stem = Path(name).stem
    rows = []
    for number, label in enumerate(labels):
        draw(label).save(folder / "images" / f"{stem}_{number}.png")
        rows.append(f"images/{stem}_{number}.png;{label}\n")
    (folder / name).write_text("".join(rows), encoding="utf-8")
    return folder / name


def draw_four(folder: Path) -> Path:
    """Write four images of short texts to a new folder, 0.png to 3.png, and return the folder."""
    folder.mkdir()
    for number, text in enumerate(["abc", "ba", "cab, x", "a"]):
        draw(text).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def images(tmp_path):
    """A folder of four images of short texts."""
    return draw_four(tmp_path / "images")


@pytest.fixture
def model(tmp_path):
    """The directory of a small untrained model."""
    from tests.model.test_recognizer import recognizer

    recognizer().save(tmp_path / "model")
    return str(tmp_path / "model")


def words(count: int, seed: int = 0) -> list[str]:
    """Return random words of two to five letters."""
    import random

    generator = random.Random(seed)
    return ["".join(generator.choices(GLYPHS, k=generator.randint(2, 5))) for _ in range(count)]


@pytest.fixture
def data_folder():
    """A function that returns the folder of a real data set, as in `data_folder("captcha4")`, or skips the test."""

    def find(name: str) -> Path:
        root = Path(os.environ.get("RAYCRNN_DATA", Path(__file__).parents[2] / "shared" / "data"))
        if not (root / name).is_dir():
            pytest.skip(f"the data set {name} is missing; set RAYCRNN_DATA to the folder that contains it")
        return root / name

    return find


KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
"""Keys for the simulated object storage, which accepts any."""


@pytest.fixture(scope="session", autouse=True)
def object_store_keys():
    """Set the keys before processes of Ray inherit the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def log_on_stderr():
    """Print log records as a command does, also in tests that call functions below the command."""
    from raycrnn.console import logging_to_stderr

    with logging_to_stderr():
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_hear_ctrl_c():
    """Handle SIGINT, which a shell sets to be ignored by background jobs and by the processes that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def local_ray():
    """One local Ray for all tests."""
    from raycrnn import cluster

    with cluster.connect("local"):
        yield


@pytest.fixture(autouse=True)
def returned_cpus(request):
    """Fail a test that leaves CPUs of the local Ray occupied, instead of letting the next one wait for them forever."""
    if "local_ray" not in request.fixturenames:
        yield
        return
    # Commands read with a Ray that is connected, which would slow all later tests that need none.
    assert request.node.get_closest_marker("ray"), "a test with a local Ray needs the marker ray"
    import ray

    def free() -> float:
        return ray.available_resources().get("CPU", 0.0)

    request.getfixturevalue("local_ray")
    before = free()
    yield
    deadline = time.monotonic() + CPU_RETURN_SECONDS
    while free() < before:
        assert time.monotonic() < deadline, f"{before - free()} CPUs are still occupied after the test"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def object_store():
    """The host:port of a simulated S3 on the loopback interface."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(object_store):
    """The URI of an empty bucket in the simulated object storage."""
    import boto3

    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    s3 = boto3.resource("s3", endpoint_url=f"http://{object_store}", **keys)
    s3.create_bucket(Bucket="lines")
    yield f"s3://lines/?endpoint_override={object_store}&scheme=http&region=us-east-1"
    s3.Bucket("lines").objects.delete()
