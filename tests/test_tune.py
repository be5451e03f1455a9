"""Test the verb tune with Ray: the files of a search, and its failures."""

import csv
import hashlib
import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from raycrnn import config, storage
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model.recognizer import Recognizer
from raycrnn.training.run import train
from raycrnn.tune import Tune
from raycrnn.tuning import search_file, tuner
from raycrnn.tuning.results import SearchResult
from raycrnn.tuning.run import tune
from tests.conftest import words, write_set
from tests.test_train import NETWORK
from tests.training.test_initial_model import save
from tests.training.test_recovery import running_in_thread, wait_until

pytestmark = pytest.mark.ray


def tree_of(folder: Path, count: int = 24, **groups: dict) -> dict:
    labels = folder / "labels.csv"
    source = labels if labels.exists() else write_set(folder, words(count))
    training = {"n_epochs": 2, "train_batch_size": 8, "learning_rate": 3e-3, "precision": "fp32"}
    return {
        "output_model_dir": groups.pop("output_model_dir", str(folder / "search")),
        "data": {"csv_files_train": str(source), "csv_files_eval": str(source)},
        "model": {**NETWORK, **groups.pop("model", {})},
        "training": {**training, **groups.pop("training", {})},
        **groups,
    }


def run_search(
    folder: Path, text: str, resume: bool = False, address: str | None = None, **groups: dict
) -> SearchResult:
    (folder / "search.yaml").write_text(text)
    search, base = search_file.load(folder / "search.yaml", tree_of(folder, **groups))
    return tune(search, base, resume, address)


def rows(folder: Path | str) -> dict[str, dict]:
    text = storage.read(storage.join(str(folder), "search", "results.csv")).decode()
    return {row["trial"]: row for row in csv.DictReader(io.StringIO(text))}


def test_a_search_writes_its_results(local_ray, tmp_path, capsys):
    text = "search:\n  training.learning_rate: {choice: [1e-9, 1e-2]}\nsamples: 2\nmetric: loss\n"
    result = run_search(tmp_path, text)
    output = tmp_path / "search"
    assert {path.name for path in output.iterdir()} == {
        "search.json",
        "trials",
        "results.csv",
        "best_config.json",
        "best",
        "report.html",
    }
    found = rows(tmp_path)
    assert list(found) == ["base", "1", "2"]
    assert all(row["status"] == "finished" and row["share"] == "1.0" for row in found.values())
    assert {row["training.learning_rate"] for row in found.values()} == {"0.003", "1e-09", "0.01"}
    # With 1e-9 nothing is learnt, so the best trial has another learning rate.
    best = result.experiment.best()
    assert result.experiment.values_of(best)["training.learning_rate"] > 1e-3
    assert Recognizer.load(output / "best" / "model", "cpu").configuration.training.learning_rate > 1e-3
    assert "trial 1  (learning_rate" in capsys.readouterr().err
    for name in found:
        records = [json.loads(line) for line in (output / "trials" / name / "metrics.jsonl").read_text().splitlines()]
        assert result.experiment.trials[name].evaluations == records
        assert not (output / "trials" / name / "checkpoints").exists()
        assert len(list((output / "trials" / name / "logs").iterdir())) >= 2
    assert "trial" in (output / "report.html").read_text(encoding="utf-8")


@pytest.mark.extended
def test_a_search_in_object_storage_writes_the_same_files_and_can_be_resumed(local_ray, tmp_path, bucket, capsys):
    text = "search:\n  training.learning_rate: {choice: [1e-3, 2e-3, 1e-2]}\nmetric: loss\nconcurrent: 1\nsamples: "
    place = storage.join(bucket, "search")
    run_search(tmp_path, text + "1")
    result = run_search(tmp_path, text + "1", output_model_dir=place)

    def without_events(names: set[str]) -> set[str]:
        # A trial's process that is killed leaves the file of its lock, which no longer locks anything.
        return {name for name in names if "/logs/events" not in name and not name.endswith(storage.LOCK)}

    output = tmp_path / "search"
    on_disk = without_events({str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()})
    owners = {f"{folder}{storage.OWNER}" for folder in ("", "trials/base/", "trials/1/")}
    names = storage.names(place)
    assert without_events(set(names)) == on_disk | owners
    # One of the training, one of the hyperparameters.
    assert len([name for name in names if name.startswith("trials/1/logs/events")]) == 2
    timed = {"minutes": "", "speed": "", "node": ""}
    remote_rows = rows(bucket)
    assert all({**row, **timed} == {**remote_rows[name], **timed} for name, row in rows(tmp_path).items())
    best = Recognizer.load(storage.join(place, "best", "model"), "cpu")
    assert best.metrics["loss"] == result.experiment.best().scores["loss"]

    with pytest.raises(UsageError, match="contains a search: --resume continues it"):
        run_search(tmp_path, text + "2", output_model_dir=place)
    capsys.readouterr()
    again = run_search(tmp_path, text + "2", resume=True, output_model_dir=place)
    assert [trial.status for trial in again.experiment.trials.values()] == ["finished"] * 3
    after = storage.names(place)
    untouched = [name for name in names if name.startswith("trials/1/") and name.endswith((".safetensors", ".log"))]
    assert untouched and all(after[name] == names[name] for name in untouched)
    err = capsys.readouterr().err
    assert "trial 2  (" in err and "trial 1  (" not in err
    configuration = config.load(storage.join(place, "best_config.json"), [])
    assert configuration.output_model_dir == storage.with_suffix(place, "-best")


@pytest.mark.long
def test_all_trials_start_from_the_same_model(local_ray, tmp_path, capsys):
    model = save(tmp_path / "model", tuple("abcdefgh"))
    write_set(tmp_path / "tuned", ["ab", "ba", "xyz"] * 6)
    own = {"training": {"initial_model": str(model)}}
    with pytest.raises(UsageError, match=r"model\.lstm_size: cannot be searched"):
        run_search(tmp_path / "tuned", "search:\n  model.lstm_size: {choice: [32, 64]}\nsamples: 2\n", **own)
    text = "search:\n  training.initial_alphabet: {choice: [new]}\nsamples: 1\n"
    result = run_search(tmp_path / "tuned", text, **own)
    assert f"starts from {model}: 8 units kept, 3 new" in capsys.readouterr().err
    assert [trial.status for trial in result.experiment.trials.values()] == ["finished"] * 2
    for name, units in (("base", "abcdefghxyz"), ("1", "abxyz")):
        alphabet = tmp_path / "tuned" / "search" / "trials" / name / "model" / "alphabet.json"
        assert "".join(json.loads(alphabet.read_text())) == units
    best = json.loads((tmp_path / "tuned" / "search" / "best_config.json").read_text())
    weights = (model / "model.safetensors").read_bytes()
    assert best["training"]["initial_model_sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.extended
def test_train_reaches_the_same_scores_with_best_config(local_ray, tmp_path):
    text = "search:\n  training.learning_rate: {choice: [1e-2]}\nmetric: loss\n"
    result = run_search(tmp_path, text, training={"learning_rate": 1e-9})
    assert result.experiment.best().name == "1"
    configuration = config.load(tmp_path / "search" / "best_config.json", [f"output_model_dir={tmp_path / 'again'}"])
    assert configuration.training.learning_rate == 1e-2
    # A trial has one thread and the command has all, so that sums are rounded differently.
    assert train(configuration)["best"]["loss"] == pytest.approx(result.experiment.best().scores["loss"], rel=1e-2)


def test_a_failed_trial_keeps_its_error_and_the_search_continues(local_ray, tmp_path):
    """With a maximum width of 8 every label is too long for its image."""
    text = "search:\n  image.input_shape: {grid: [[32, 8], [32, 256]]}\nfixed:\n  training.n_epochs: 1\n"
    result = run_search(tmp_path, text)
    first, second = (result.experiment.trials[name] for name in ("1", "2"))
    assert (first.status, second.status) == ("failed", "finished")
    assert "cannot be used" in first.error and "label too long" in first.error
    assert "label too long" in rows(tmp_path)["1"]["error"]
    assert "label too long" in (tmp_path / "search" / "report.html").read_text(encoding="utf-8")
    # A trial with other settings for images than the base reads them itself.
    assert (
        Recognizer.load(tmp_path / "search" / "trials" / "2" / "model", "cpu").configuration.image.input_shape[1] == 256
    )


@pytest.mark.extended
def test_asha_stops_bad_trials_but_never_the_base(local_ray, tmp_path):
    text = """
search:
  training.learning_rate: {grid: [1e-2, 1e-9, 2e-9, 3e-9]}
fixed:
  training.n_epochs: 60
metric: loss
scheduler: {asha: {grace: 0.25, reduction: 2}}
concurrent: 1
"""
    result = run_search(tmp_path, text, training={"learning_rate": 1e-9})
    status = {name: trial.status for name, trial in result.experiment.trials.items()}
    assert status["base"] == "finished" and status["1"] == "finished"
    assert "stopped" in status.values()
    assert all(trial.done < 0.9 for trial in result.experiment.trials.values() if trial.status == "stopped")


@pytest.mark.extended
def test_a_search_ends_at_its_time_limit_and_keeps_its_scores(local_ray, tmp_path, monkeypatch):
    clock = SimpleNamespace(time=time.time)
    monkeypatch.setattr(tuner, "time", clock)

    def end_after_first_evaluation() -> None:
        wait_until(lambda: list((tmp_path / "search" / "trials").glob("*/metrics.jsonl")))
        clock.time = lambda: time.time() + 3600

    text = "search:\n  training.learning_rate: {choice: [1e-3, 2e-3]}\nsamples: 50\nmax_minutes: 60\n"
    with running_in_thread(end_after_first_evaluation):
        result = run_search(tmp_path, text, training={"n_epochs": 100_000})
    status = {trial.status for trial in result.experiment.trials.values()}
    assert status == {"cut off"}
    assert result.experiment.best() is not None
    assert (tmp_path / "search" / "best" / "model" / "model.safetensors").exists()


@pytest.mark.extended
def test_two_metrics_have_a_pareto_front(local_ray, tmp_path):
    text = """
search:
  model.lstm_size: {grid: [16, 48]}
fixed:
  training.n_epochs: 1
metric: [cer, speed]
concurrent: 1
"""
    result = run_search(tmp_path, text)
    assert result.experiment.pareto_front()
    assert all(trial.scores["speed"] > 0 for trial in result.experiment.trials.values())
    assert "not beaten in both cer and speed" in result.describe(result.experiment.tree)


@pytest.mark.extended
def test_a_search_whose_trials_all_diverge_fails_and_exports_nothing(local_ray, tmp_path):
    text = "search:\n  training.learning_rate: {choice: [1e30]}\nfixed:\n  training.gradient_clip: null\n"
    with pytest.raises(RaycrnnError, match=r"no trial has scores(.|\n)*diverged"):
        run_search(tmp_path, text, training={"learning_rate": 1e30, "n_epochs": 12})
    assert not (tmp_path / "search" / "best").exists()
    assert {row["status"] for row in rows(tmp_path).values()} == {"failed"}


# --- errors before anything starts

SEARCH = "search:\n  model.keep_prob: {choice: [0.9, 1.0]}\n"
DECODINGS = "search:\n  decoding.beam_width: {choice: [10, 100]}\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (SEARCH, ["data.csv_files_eval=[]"], "a search needs data.csv_files_eval"),
        (SEARCH, ["--model", "somewhere"], "--model is for a search over decoding"),
        (SEARCH, ["--resume"], "contains no search to resume"),
        (SEARCH + "resources: {cpus: 999}\n", [], "no trial can run: each needs 1 worker(s) with 999 CPUs"),
        (SEARCH, ["output_model_dir=HERE"], "exists and is not empty"),
        (SEARCH + "fixed: {training.n_epochs: 4}\n", ["training.n_epochs=3"], "training.n_epochs=3: "),
        (DECODINGS, [], "pass it with --model"),
        (DECODINGS, ["--model", "nowhere"], "not a model directory"),
        (DECODINGS, ["--model", "nowhere", "--resume"], "takes seconds and is not resumed"),
    ],
)
def test_invalid_searches_are_refused(local_ray, tmp_path, capsys, text, options, message):
    (tmp_path / "config.json").write_text(json.dumps(tree_of(tmp_path)))
    (tmp_path / "search.yaml").write_text(text)
    arguments = [option.replace("HERE", str(tmp_path)) for option in options]
    assert Tune.call([str(tmp_path / "config.json"), str(tmp_path / "search.yaml"), *arguments], "tune") == 2
    assert message in capsys.readouterr().err


def test_an_existing_search_is_not_overwritten(local_ray, tmp_path, capsys):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "search.json").write_text("{}")
    with pytest.raises(UsageError, match="contains a search: --resume continues it"):
        run_search(tmp_path, SEARCH)


def test_a_search_whose_data_cannot_be_used_fails(local_ray, tmp_path):
    text = "search:\n  model.keep_prob: {choice: [0.9]}\nfixed:\n  image.input_shape: [32, 8]\n"
    with pytest.raises(RaycrnnError, match=r"cannot be used(.|\n)*label too long"):
        run_search(tmp_path, text)
