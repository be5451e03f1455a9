"""Test searches whose trials or commands are killed, that exchange weights, or that run on several nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raycrnn import storage
from raycrnn.storage import Directory
from raycrnn.training import checkpoint
from tests.conftest import words, write_set
from tests.test_tune import rows, run_search, tree_of
from tests.training.test_recovery import newest, processes, run_in_new_process, running_in_thread, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.long]


def evaluations(folder: Path, name: str) -> list[dict]:
    path = folder / "search" / "trials" / name / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def status(folder: Path) -> dict[str, str]:
    found = (folder / "search" / "trials").glob("*/trial.json")
    return {path.parent.name: json.loads(path.read_text())["status"] for path in found}


def command(folder: Path) -> list[str]:
    files = [str(folder / name) for name in ("config.json", "search.yaml")]
    return [sys.executable, "-m", "raycrnn.tune", *files, "--address", "local"]


ONE_BY_ONE = "search:\n  training.learning_rate: {grid: [1e-3, 2e-3]}\nconcurrent: 1\n"


@pytest.mark.extended
def test_a_killed_trial_is_restarted_and_the_others_continue(local_ray, tmp_path, capsys):
    def act() -> None:
        wait_until(lambda: len(evaluations(tmp_path, "1")) >= 3)
        os.kill(newest("ResourceTrainable"), signal.SIGKILL)

    with running_in_thread(act):
        run_search(tmp_path, ONE_BY_ONE, training={"n_epochs": 20, "save_interval": 9})
    assert [row["status"] for row in rows(tmp_path).values()] == ["finished"] * 3
    assert "trial 1 failed and is restarted, from its last checkpoint if it has one" in capsys.readouterr().err
    assert "resuming from step_" in (tmp_path / "search" / "trials" / "1" / "train.log").read_text()
    epochs = [record["epoch"] for record in evaluations(tmp_path, "1")]
    assert epochs == list(range(1, 21))


def test_a_killed_search_resumes_without_repeating_finished_trials(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tree_of(tmp_path, training={"n_epochs": 16, "save_interval": 9})))
    (tmp_path / "search.yaml").write_text(ONE_BY_ONE)
    process = subprocess.Popen(command(tmp_path), stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: len(evaluations(tmp_path, "1")) >= 5)
    process.kill()
    process.wait()
    of_base = tmp_path / "search" / "trials" / "base" / "metrics.jsonl"
    before = of_base.stat().st_mtime
    assert status(tmp_path) == {"base": "finished", "1": "running"}
    again = subprocess.run([*command(tmp_path), "--resume"], capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert set(status(tmp_path).values()) == {"finished"} and len(rows(tmp_path)) == 3
    assert of_base.stat().st_mtime == before
    assert "resuming from step_" in (tmp_path / "search" / "trials" / "1" / "train.log").read_text()
    assert [record["epoch"] for record in evaluations(tmp_path, "1")] == list(range(1, 17))


def test_ctrl_c_ends_a_search_with_results_and_checkpoints(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tree_of(tmp_path, training={"n_epochs": 100_000})))
    (tmp_path / "search.yaml").write_text(ONE_BY_ONE)
    command = [sys.executable, "-m", "raycrnn.tune", str(tmp_path / "config.json"), str(tmp_path / "search.yaml")]
    process = subprocess.Popen(
        [*command, "--address", "local"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(evaluations(tmp_path, "base")) >= 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "best: the base" in out
    assert (tmp_path / "search" / "report.html").exists()
    assert checkpoint.latest(tmp_path / "search" / "trials" / "base" / "checkpoints")[0] is not None
    assert not list((tmp_path / "search").glob(".ray-*"))


@pytest.mark.extended
def test_trials_with_two_workers_run_one_after_another_and_leave_no_processes(local_ray, tmp_path):
    text = """
search:
  training.learning_rate: {grid: [1e-9, 2e-9]}
fixed:
  cluster.num_workers: 2
  training.n_epochs: 60
metric: loss
scheduler: {asha: {grace: 0.3, reduction: 2}}
"""
    result = run_search(tmp_path, text)
    trials = result.experiment.trials
    assert [trial.status for trial in trials.values()].count("stopped") >= 1
    assert all(record["workers"] == 2 for trial in trials.values() for record in trial.evaluations)
    wait_until(lambda: not processes("RayTrainWorker"))


@pytest.mark.extended
@pytest.mark.parametrize("remote", [False, True])
def test_population_based_training_exchanges_weights(local_ray, tmp_path, bucket, remote):
    """Trials that cannot learn continue from the weights of one that can."""
    place = storage.join(bucket, "search") if remote else str(tmp_path / "search")
    # One trial at a time, so that their order does not depend on the load. Each exchanges three times: a trial can
    # continue only from one that has been ahead at an earlier exchange.
    text = """
search:
  training.learning_rate: {choice: [1e-9, 1e-8, 5e-3]}
fixed:
  training.n_epochs: 12
  training.schedule: constant
  model.keep_prob: 1.0
samples: 4
concurrent: 1
metric: loss
scheduler: {pbt: {every: 0.25, quantile: 0.5, resample: 0}}
"""
    result = run_search(tmp_path, text, training={"learning_rate": 1e-9}, output_model_dir=place)
    trials = result.experiment
    recipients = [trial for trial in trials.trials.values() if trial.took_over]
    assert recipients, {trial.name: trial.values for trial in trials.trials.values()}
    for recipient in recipients:
        donor = recipient.took_over[0].partition(" at ")[0]
        assert donor in trials.trials and donor not in (recipient.name, "base")
        record = json.loads(storage.read(storage.join(place, "trials", recipient.name, "donor.json")))
        # The weights are those of the evaluation at which the donor was ahead, not later ones: three steps an epoch.
        assert int(record["step"].removeprefix("step_")) in (9, 18, 27)
    assert not trials.base.took_over
    assert trials.base.scores["loss"] > 5
    learnt = min(trial.scores["loss"] for trial in trials.trials.values())
    assert any(recipient.scores["loss"] < (learnt + trials.base.scores["loss"]) / 2 for recipient in recipients)
    best = trials.best()
    best_config = json.loads(storage.read(storage.join(place, "best_config.json")))
    assert best_config["training"]["learning_rate"] == best.values["training.learning_rate"]
    assert "continued from the weights of" in storage.read(storage.join(place, "report.html")).decode()
    assert not [name for name in Directory(place).entries() if name.startswith(".ray-")]


def search_on_three_nodes(folder: str) -> None:
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    text = "search:\n  training.learning_rate: {grid: [1e-3, 2e-3, 3e-3]}\n"
    result = run_search(Path(folder), text, address=nodes.address, training={"n_epochs": 15})
    assert {trial.status for trial in result.experiment.trials.values()} == {"finished"}
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.cluster
def test_trials_run_on_several_nodes_at_once(tmp_path):
    write_set(tmp_path, words(24))
    start = time.monotonic()
    run_in_new_process(search_on_three_nodes, str(tmp_path))
    assert len({row["node"] for row in rows(tmp_path).values()}) == 3
    assert time.monotonic() - start < 400
