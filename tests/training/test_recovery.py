"""Failures during training: killed processes, lost nodes, full disks, missing files.

Training continues, with the weights of an undisturbed run, or reports why it cannot.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from raycrnn import config, console, storage
from raycrnn.errors import RaycrnnError
from raycrnn.model.recognizer import Recognizer
from raycrnn.training import checkpoint
from raycrnn.training.run import train
from tests.conftest import words, write_set

pytestmark = [pytest.mark.ray, pytest.mark.long]

NETWORK = {"cnn_channels": [8, 16, 32, 32, 48, 48, 48], "lstm_size": 32}
STEPS_AN_EPOCH = 16
SAVE_INTERVAL = 25


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("recovery"), words(8 * STEPS_AN_EPOCH))


def configuration(csv: Path, output: Path, epochs: int = 20, **groups) -> config.Configuration:
    """Return a configuration with dropout, augmentation and shuffling."""
    tree = {
        "output_model_dir": str(output),
        "data": {"csv_files_train": str(csv), "csv_files_eval": str(csv), **groups.pop("data", {})},
        "model": NETWORK,
        "training": {
            "n_epochs": epochs,
            "train_batch_size": 8,
            "learning_rate": 3e-3,
            "precision": "fp32",
            "save_interval": SAVE_INTERVAL,
            "evaluate_every_epoch": 10,
            **groups.pop("training", {}),
        },
        **groups,
    }
    return config.parse(tree)


@pytest.fixture(scope="module")
def undisturbed(local_ray, images, tmp_path_factory) -> Path:
    """The output of an undisturbed run."""
    output = tmp_path_factory.mktemp("undisturbed") / "output"
    train(configuration(images, output))
    return output


def assert_same_end(output: Path, undisturbed: Path) -> None:
    ends = [checkpoint.latest(each / "checkpoints")[0] for each in (output, undisturbed)]
    assert ends[0].state["progress"]["step"] == ends[1].state["progress"]["step"]
    for name, tensor in ends[1].tensors.items():
        assert tensor.equal(ends[0].tensors[name]), name
    scores = [[(r["epoch"], r["cer"], r["loss"]) for r in metrics(each)] for each in (output, undisturbed)]
    assert scores[0] == scores[1]


def metrics(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def rejected(output: Path) -> list[dict]:
    with (output / "rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def last_step(output: Path) -> int:
    steps = sorted((output / "checkpoints").glob("step_*"))
    return int(steps[-1].name.removeprefix("step_")) if steps else 0


def processes(title: str) -> dict[int, str]:
    """Return the processes of Ray whose title starts with `title`: their command lines by PID."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and line.startswith(f"ray::{title}"):
            found[int(entry.name)] = line
    return found


@contextmanager
def running_in_thread(act: Callable[[], None]) -> Iterator[None]:
    """Run a function in a thread during a `with` block, and raise its error at the end."""
    problems = []

    def guarded() -> None:
        try:
            act()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not thread.is_alive()
    if problems:
        raise problems[0]


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def newest(title: str) -> int:
    """Wait for processes with a title, and return the PID of the newest. A process has no title while it changes."""
    found: dict[int, str] = {}
    wait_until(lambda: found.update(processes(title)) or found)
    return max(found)


def kill_all(title: str) -> int:
    pids = processes(title)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(pids)


@pytest.mark.extended
def test_a_killed_training_worker_loses_no_step(local_ray, images, tmp_path, undisturbed, capsys):
    """The run is elastic, because a run with one fixed worker trains in the process of the command."""
    output = tmp_path / "output"

    def act() -> None:
        wait_until(lambda: last_step(output) >= 3 * SAVE_INTERVAL)
        assert kill_all("RayTrainWorker") == 1

    cluster = {"num_workers": [1, 1]}
    with running_in_thread(act):
        train(configuration(images, output, cluster=cluster))
    assert_same_end(output, undisturbed)
    # Ray must print nothing between the results.
    assert capsys.readouterr().out == ""


def send_sigterm_to_a_worker(source: str, output: str) -> None:
    """Train on a cluster, whose processes do not block SIGTERM, as those of a local Ray do."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})

    def act() -> None:
        wait_until(lambda: last_step(Path(output)) > 0)
        os.kill(newest("RayTrainWorker"), signal.SIGTERM)

    # The only checkpoint before the signal is that of the first evaluation.
    settings = configuration(
        Path(source), Path(output), training={"save_interval": 10**6}, cluster={"num_workers": [1, 1]}
    )
    with running_in_thread(act), console.logging_to_stderr():
        train(settings, nodes.address)
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.extended
def test_a_training_worker_that_gets_sigterm_saves_a_checkpoint_and_ends(images, tmp_path, undisturbed):
    output = tmp_path / "output"
    err = run_in_new_process(send_sigterm_to_a_worker, str(images), str(output))
    assert "worker 0 received SIGTERM: it ends after a checkpoint" in err
    resumed = re.search(r"resuming from step_(\d+)", err)
    assert resumed is not None
    assert int(resumed[1]) > 10 * STEPS_AN_EPOCH
    assert_same_end(output, undisturbed)


def test_killed_decoding_workers_lose_no_row(local_ray, images, tmp_path, undisturbed):
    output, killed = tmp_path / "output", []

    def act() -> None:
        wait_until(lambda: last_step(output) >= SAVE_INTERVAL)
        deadline = time.monotonic() + 60
        while len(killed) < 3 and time.monotonic() < deadline:
            killed.extend(range(kill_all("MapBatches(_decode_range)")))
            time.sleep(0.005)

    with running_in_thread(act):
        train(configuration(images, output, data={"keep_decoded": False}))
    assert len(killed) >= 3
    assert_same_end(output, undisturbed)


def test_a_killed_command_can_be_resumed(images, tmp_path, undisturbed):
    output = tmp_path / "output"
    path = tmp_path / "config.json"
    path.write_text(configuration(images, output).model_dump_json())
    command = [sys.executable, "-m", "raycrnn.train", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: last_step(output) >= 3 * SAVE_INTERVAL)
    process.kill()
    process.wait()
    again = subprocess.run([*command, "restore_model=true"], capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert "resuming from step_" in again.stderr
    assert_same_end(output, undisturbed)


def test_two_workers_end_with_the_same_weights_if_one_is_killed(local_ray, images, tmp_path):
    outputs = [tmp_path / "alone", tmp_path / "output"]
    cluster = {"num_workers": 2}

    def act() -> None:
        wait_until(lambda: last_step(outputs[1]) >= SAVE_INTERVAL)
        os.kill(newest("RayTrainWorker"), signal.SIGKILL)

    train(configuration(images, outputs[0], epochs=10, cluster=cluster))
    with running_in_thread(act):
        train(configuration(images, outputs[1], epochs=10, cluster=cluster))
    assert_same_end(outputs[1], outputs[0])


@pytest.mark.extended
def test_a_truncated_checkpoint_is_reported_and_the_one_before_it_used(
    local_ray, images, tmp_path, undisturbed, capsys
):
    output = tmp_path / "output"
    train(configuration(images, output))
    last = sorted((output / "checkpoints").iterdir())[-1]
    damaged = last / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    train(configuration(images, output, restore_model=True))
    err = capsys.readouterr().err
    assert f"{last}: damaged checkpoint" in err
    assert "the checkpoint before it is used" in err
    assert_same_end(output, undisturbed)


def test_a_full_disk_ends_the_run_and_leaves_the_model_and_checkpoint(local_ray, images, tmp_path):
    """A checkpoint takes 1.3 MB; the disk of 12 MB is filled by another file during training."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting a small disk requires root")
    output = disk / "output"
    try:

        def act() -> None:
            wait_until(lambda: last_step(output) >= 2 * SAVE_INTERVAL and (output / "model").exists())
            with pytest.raises(OSError), (disk / "other").open("wb", buffering=0) as other:
                while True:
                    other.write(bytes(4096))

        with (
            running_in_thread(act),
            pytest.raises(RaycrnnError, match=r"No space left(.|\n)*free some space") as raised,
        ):
            train(configuration(images, output, epochs=2000, training={"evaluate_every_epoch": 1}))
        assert str(output) in str(raised.value)
        found, problems = checkpoint.latest(output / "checkpoints")
        assert found is not None
        assert not problems
        assert Recognizer.load(output / "model", "cpu").alphabet.units
        (disk / "other").unlink()
        epochs = found.state["progress"]["step"] // STEPS_AN_EPOCH + 2
        train(configuration(images, output, epochs=epochs, restore_model=True))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.mark.extended
@pytest.mark.parametrize("keep", [False, True])
def test_images_deleted_during_training_are_listed_unless_cached(local_ray, tmp_path, keep, monkeypatch):
    from raycrnn.ingest import image_cache, stream

    source = write_set(tmp_path, words(8 * STEPS_AN_EPOCH))
    output = tmp_path / "output"
    fill, filled = image_cache.fill, threading.Event()

    def fill_and_notify(*arguments: object) -> None:
        fill(*arguments)
        filled.set()

    monkeypatch.setattr(image_cache, "fill", fill_and_notify)
    # Little is decoded in advance, so that batches soon come from the cache.
    monkeypatch.setattr(stream, "MAX_EXECUTION_BYTES", 1)

    def act() -> None:
        wait_until(lambda: filled.is_set() or not keep)
        before = last_step(output)
        wait_until(lambda: last_step(output) >= before + 2 * SAVE_INTERVAL)
        for number in range(5):
            (tmp_path / "images" / f"labels_{number}.png").unlink()

    data = {"keep_decoded": keep, "max_rejected": 0.05, "csv_files_eval": []}
    with running_in_thread(act):
        train(configuration(source, output, epochs=20, data=data))
    listed = [] if keep else [(number, "no such file") for number in range(1, 6)]
    assert sorted((int(row["line"]), row["reason"]) for row in rejected(output)) == listed


def bad_rows(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """Return `count` rows of ten kinds in turn, and the reason for which each is rejected."""
    (folder / "text.png").write_text("no image")
    data = (folder / "images" / "labels_0.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "head.png").write_bytes(data[:20])
    (folder / "empty.png").write_bytes(b"")
    Image.new("L", (9000, 9000)).save(folder / "bomb.png")
    kinds = [
        ("nowhere.png;abc", "no such file"),
        ("text.png;abc", "not an image"),
        ("cut.png;abc", "damaged image"),
        ("head.png;abc", "damaged image"),
        ("empty.png;abc", "not an image"),
        ("bomb.png;abc", "too many pixels"),
        ("images;abc", "cannot be read"),
        ("images/labels_1.png;", "empty label"),
        ('"images/labels_1.png;abc', "malformed row"),
        (f"images/labels_1.png;{'ab' * 90}", "label too long"),
    ]
    chosen = [kinds[number % len(kinds)] for number in range(count)]
    return [row for row, _ in chosen], [reason for _, reason in chosen]


def write_mixed(folder: Path) -> tuple[Path, dict[int, str]]:
    """Write a CSV of 10,000 rows, 30 % of them bad, and return its path and the reasons by line."""
    source = write_set(folder, words(100))
    good = source.read_text().splitlines()
    bad, reasons = bad_rows(folder, 3000)
    lines, expected = [], {}
    for number in range(10_000):
        which, rest = divmod(number, 10)
        if rest < 3:
            lines.append(bad[3 * which + rest])
            expected[number + 1] = reasons[3 * which + rest]
        else:
            lines.append(good[number % len(good)])
    source.write_text("".join(f"{line}\n" for line in lines))
    return source, expected


@pytest.mark.extended
def test_only_bad_rows_are_left_out_each_listed_once_with_its_reason(local_ray, tmp_path):
    source, expected = write_mixed(tmp_path)
    output = tmp_path / "output"
    data = {"max_rejected": 0.5, "csv_files_eval": []}
    training = {"train_batch_size": 100, "save_interval": 1000}
    outcome = train(configuration(source, output, epochs=2, data=data, training=training, cluster={"num_workers": 2}))
    assert outcome["rejected"] == 3000
    assert {int(row["line"]): row["reason"] for row in rejected(output)} == expected
    assert len(rejected(output)) == 3000
    with pytest.raises(RaycrnnError, match=r"of 10,000 samples cannot be used(.|\n)*no such file") as raised:
        train(configuration(source, tmp_path / "strict", epochs=2, data={"csv_files_eval": []}))
    assert "max_rejected" in str(raised.value)
    assert not (tmp_path / "strict" / "model").exists()


@pytest.mark.extended
def test_a_stall_on_slow_storage_is_reported(local_ray, images, tmp_path, monkeypatch, capsys):
    source, output = write_set(tmp_path, words(16)), tmp_path / "output"
    slow, read, waited = str(tmp_path / "images" / "labels_3.png"), storage.read, []

    def read_slowly(path: str) -> bytes:
        # Only once: the training process reads the images of the first batches itself.
        if str(path) == slow and not waited:
            waited.append(path)
            time.sleep(8)
        return read(path)

    monkeypatch.setattr(storage, "read", read_slowly)
    monkeypatch.setattr("raycrnn.training.console.STALL_SECONDS", 3.0)
    settings = {"keep_decoded": False, "csv_files_eval": []}
    train(configuration(source, output, epochs=4, data=settings))
    assert waited and "worker 0: waiting for the images of step" in capsys.readouterr().err
    assert rejected(output) == []


# The following tests need clusters of their own, in new processes, because this one is connected to the local Ray.


def run_in_new_process(function: Callable, *arguments: object, timeout: float = 400) -> str:
    """Call a function of a test file in a new Python process, in which it must not fail, and return its stderr."""
    code = f"from {function.__module__} import {function.__name__} as call; call(*{arguments!r})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=Path(__file__).parents[2],
        env=environment,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stderr


def lose_a_node_and_get_another(source: str, output: str) -> None:
    """Train on two nodes with one CPU each, lose one and add another; Ctrl-C ends the run."""
    import ray
    from ray.cluster_utils import Cluster

    from raycrnn.training import trainer

    # By default it takes half a minute until a lost or a new node is noticed.
    quickly = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    trainer.SECONDS_BETWEEN_RESIZES = 5.0
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quickly}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    second = nodes.add_node(num_cpus=1)
    # Adding a node sets a signal handler, which only the main thread can do, and the main thread trains.
    ray._private.utils.set_sigterm_handler = lambda handler: None
    ended = threading.Event()

    def workers() -> list[int]:
        path = Path(output) / "metrics.jsonl"
        return [record["workers"] for record in metrics(Path(output))] if path.exists() else []

    def act() -> None:
        try:
            wait_until(lambda: workers()[-1:] == [2] and last_step(Path(output)) >= SAVE_INTERVAL)
            nodes.remove_node(second, allow_graceful=False)
            wait_until(lambda: workers()[-1:] == [1])
            nodes.add_node(num_cpus=1)
            wait_until(lambda: workers()[-1:] == [2])
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            # A node ends with the thread that added it.
            ended.wait(120)

    settings = configuration(
        Path(source),
        Path(output),
        epochs=100_000,
        cluster={"num_workers": [1, 2]},
        training={"evaluate_every_epoch": 5, "save_interval": 80},
    )
    with running_in_thread(act):
        try:
            outcome = train(settings, nodes.address)
        finally:
            ended.set()
    assert outcome["stopped"] > 0
    ray.shutdown()
    nodes.shutdown()


def drain_a_node(source: str, output: str) -> None:
    """Train on two nodes with one CPU each and drain one, as a provider that takes a spot instance back does."""
    import ray
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster
    from ray.core.generated import autoscaler_pb2

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = nodes.add_node(num_cpus=1)
    saved: list[int] = []
    """The steps of all checkpoints, of which only the last two are kept."""

    def workers() -> int:
        path = Path(output) / "metrics.jsonl"
        records = metrics(Path(output)) if path.exists() else []
        return records[-1]["workers"] if records else 0

    def has_saved(count: int) -> bool:
        if last_step(Path(output)) not in [0, *saved[-1:]]:
            saved.append(last_step(Path(output)))
        return len(saved) >= count

    def act() -> None:
        try:
            wait_until(lambda: has_saved(1))
            deadline = time.time() + 20
            reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
            GcsClient(address=nodes.address).drain_node(second.node_id, reason, "test", int(1000 * deadline))
            wait_until(lambda: has_saved(3) or time.time() > deadline)
            assert len(saved) == 3
            assert time.time() < deadline
            time.sleep(deadline - time.time())
            nodes.remove_node(second)
            wait_until(lambda: workers() == 1)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    settings = configuration(
        Path(source),
        Path(output),
        epochs=100_000,
        cluster={"num_workers": [1, 2]},
        training={"evaluate_every_epoch": 5, "save_interval": 10**6},
    )
    with running_in_thread(act):
        assert train(settings, nodes.address)["stopped"] > saved[-1]
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.extended
def test_a_node_that_is_drained_costs_only_the_steps_after_the_checkpoint_before_its_deadline(images, tmp_path):
    run_in_new_process(drain_a_node, str(images), str(tmp_path / "output"))


def test_an_elastic_run_loses_no_epoch_when_nodes_leave_and_join(images, tmp_path):
    output, start = tmp_path / "output", time.monotonic()
    run_in_new_process(lose_a_node_and_get_another, str(images), str(output))
    records = metrics(output)
    assert [record["epoch"] for record in records] == [5 * (number + 1) for number in range(len(records))]
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)
    assert seconds[-1] < time.monotonic() - start
    sizes = [record["workers"] for record in records]
    changes = [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before]
    assert changes == [2, 1, 2]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert rejected(output) == []


def train_in_a_small_store(source: str, output: str) -> None:
    import ray

    ray.init(address="local", object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    settings = configuration(
        Path(source),
        Path(output),
        epochs=2,
        data={"csv_files_eval": [], "keep_decoded": True},
        image={"input_shape": [64, 4000], "input_channels": 3},
        training={"train_batch_size": 16},
        augmentation={"data_augmentation": False},
    )
    assert train(settings)["steps"] == 2 * 10


@pytest.mark.extended
def test_a_data_set_larger_than_the_object_store_can_be_trained_on(tmp_path):
    """160 colour images of 64 × 3,000 pixels take 92 MB. The object store has 80 MB; the rest is spilled to disk."""
    source = tmp_path / "labels.csv"
    pages = [Image.effect_noise((3000, 64), 80).convert("RGB") for _ in range(4)]
    for number in range(4):
        pages[number].save(tmp_path / f"{number}.png")
    source.write_text("".join(f"{number % 4}.png;abc\n" for number in range(160)))
    run_in_new_process(train_in_a_small_store, str(source), str(tmp_path / "output"))
    assert rejected(tmp_path / "output") == []
