"""Seconds that a training run loses when a worker is killed or a node is lost."""

import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from raycrnn import bench, config
from raycrnn.bench.train import settings_of, write_images
from raycrnn.cli import Command
from raycrnn.config import Configuration
from raycrnn.errors import RaycrnnError
from raycrnn.training.run import train

STEPS_BEFORE = 100
"""Steps between two checkpoints. The failure follows the first one."""


class Recover(Command):
    """Measure the seconds from the loss of a training worker, or of a node, to the next training step.

    The node is one of two that this command starts on this machine. The run is elastic and continues with one worker.
    The limits: a worker ≤ 10 s, a node ≤ 45 s.
    """

    rounds: int = Field(3, ge=1)
    """Number of failures of each kind."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        kinds: dict[str, tuple[Callable[[Configuration], float], str]] = {
            "worker killed": (kill_worker, "≤ 10"),
            "node lost": (lose_node, "≤ 45"),
        }
        figures = []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(folder, 100, 512)
            for kind, (measure, limit) in kinds.items():
                seconds = [measure(_settings(folder, f"{kind} {number}")) for number in range(self.rounds)]
                figures.append(bench.Figure(kind, statistics.median(seconds), "s", limit))
        bench.report("recover: seconds to the next step", figures, self.json_line)


def _settings(folder: Path, name: str) -> Configuration:
    tree = settings_of(folder, "quarter", 32).model_dump(mode="json")
    tree["output_model_dir"] = str(folder / name)
    # Elastic, because a run with one fixed worker trains in the process of the command.
    tree["cluster"]["num_workers"] = [1, 1]
    tree["training"] |= {"n_epochs": 16, "save_interval": STEPS_BEFORE, "evaluate_every_epoch": 16}
    return config.parse(tree)


def kill_worker(settings: Configuration) -> float:
    """Kill the only training worker of a local Ray, and return the seconds to the next step."""
    return seconds_lost(settings, lambda: _kill_own("ray::RayTrainWorker"), "local")


def _kill_own(title: str) -> None:
    """Kill the descendants of this process that have a title, and no other processes."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            matches = (entry / "cmdline").read_bytes().startswith(title.encode())
        except OSError:
            continue
        if matches and os.getpid() in _ancestors(int(entry.name)):
            os.kill(int(entry.name), signal.SIGKILL)


def _ancestors(process: int) -> list[int]:
    parent = int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
    return [parent, *_ancestors(parent)] if parent > 1 else []


def lose_node(settings: Configuration) -> float:
    """Remove the second node of a cluster, and return the seconds to the next step, which has one worker."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = nodes.add_node(num_cpus=1)
        tree = settings.model_dump(mode="json")
        tree["cluster"]["num_workers"] = [1, 2]
        return seconds_lost(config.parse(tree), lambda: nodes.remove_node(second, allow_graceful=False), nodes.address)
    finally:
        ray.shutdown()
        nodes.shutdown()


def seconds_lost(settings: Configuration, fail: Callable[[], None], address: str) -> float:
    """Train, cause a failure after the first checkpoint, and return the seconds from the failure to the next step.

    Args:
        settings: Configuration of the run.
        fail: Causes the failure.
        address: Address of the cluster.

    Raises:
        RaycrnnError: The run ended before the failure.
    """
    failed_at: list[float] = []
    checkpoints = Path(settings.output_model_dir) / "checkpoints"

    def wait_and_fail() -> None:
        while not list(checkpoints.glob("step_*")):
            time.sleep(0.02)
        failed_at.append(time.time())
        fail()

    threading.Thread(target=wait_and_fail, daemon=True).start()
    started = time.time()
    outcome = train(settings, address, started)
    # The parts of the start describe the last workers of the run, whose first step followed the failure.
    first_step = started + sum(outcome["start"].values())
    if not failed_at or first_step < failed_at[0]:
        raise RaycrnnError("the run ended before the failure, or did not notice it")
    return first_step - failed_at[0]


if __name__ == "__main__":
    Recover.main(name="bench recover")
