"""The verb train: what it writes, how it resumes and how it fails."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from raycrnn import config, storage
from raycrnn.data.image_files import SIZES_FILE
from raycrnn.errors import RaycrnnError, StorageError, UsageError
from raycrnn.evaluate import Evaluate
from raycrnn.ingest.image_sizes import ImageSizes
from raycrnn.language import kneser_ney
from raycrnn.language.order import DEFAULT_ORDER
from raycrnn.model.recognizer import Recognizer
from raycrnn.predict import Predict
from raycrnn.storage import Directory, files, lock_output
from raycrnn.train import Train
from raycrnn.training import checkpoint
from raycrnn.training.language_model_trial import LanguageModelTrial
from raycrnn.training.run import train
from tests.conftest import draw, words, write_set
from tests.training.test_initial_model import save

pytestmark = pytest.mark.ray

NETWORK = {"cnn_channels": [8, 16, 32, 32, 48, 48, 48], "lstm_size": 32, "keep_prob": 1.0}


def configuration(folder: Path, count: int = 24, **groups) -> config.Configuration:
    csv = folder / "labels.csv" if (folder / "labels.csv").exists() else write_set(folder, words(count))
    tree = {
        "output_model_dir": str(folder / "output"),
        "data": {"csv_files_train": str(csv), "csv_files_eval": str(csv), **groups.pop("data", {})},
        "model": NETWORK,
        "augmentation": {"data_augmentation": False},
        "training": {
            "n_epochs": 2,
            "train_batch_size": 8,
            "learning_rate": 3e-3,
            "precision": "fp32",
            **groups.pop("training", {}),
        },
        **groups,
    }
    return config.parse(tree)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "output" / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_the_model_logs_metrics_and_checkpoints(local_ray, tmp_path):
    outcome = train(configuration(tmp_path))
    output = tmp_path / "output"
    assert {path.name for path in output.iterdir()} == {
        "model",
        "logs",
        "metrics.jsonl",
        "rejected.csv",
        "run.json",
        "checkpoints",
    }
    assert {path.name for path in (output / "model").iterdir()} == {
        "model.safetensors",
        "config.json",
        "alphabet.json",
        "metrics.json",
        "calibration.json",
        "README.md",
    }
    assert outcome["steps"] == 6
    assert [record["epoch"] for record in metrics(tmp_path)] == [1, 2]
    best = min(metrics(tmp_path), key=lambda record: (record["cer"], record["loss"]))
    assert json.loads((output / "model" / "metrics.json").read_text())["step"] == best["step"]
    assert list((output / "logs").glob("events*"))
    assert (output / "rejected.csv").read_bytes() == b"file,line,path,reason,detail\r\n"
    run = json.loads((output / "run.json").read_text())
    assert run["configuration"]["training"]["n_epochs"] == 2
    state = checkpoint.latest(output / "checkpoints")[0].state
    assert state["progress"]["finished"]


def test_a_language_model_of_the_training_labels_is_stored_with_the_model(local_ray, tmp_path):
    settings = configuration(tmp_path, decoding={"language_model": "labels"}, training={"n_epochs": 1})
    train(settings)
    loaded = Recognizer.load(tmp_path / "output" / "model", "cpu")
    expected = kneser_ney.estimate([tuple(text) for text in words(24)], DEFAULT_ORDER, loaded.alphabet.units)
    assert loaded.language_model.digest == expected.digest
    with pytest.raises(UsageError, match="no such language model"):
        train(
            settings.model_copy(
                update={"output_model_dir": str(tmp_path / "b"), "decoding": config.Decoding(language_model="x.arpa")}
            )
        )


def test_a_language_model_that_helps_is_stored_when_training_ends(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(LanguageModelTrial, "helps", True)
    train(configuration(tmp_path))
    loaded = Recognizer.load(tmp_path / "output" / "model", "cpu")
    expected = kneser_ney.estimate([tuple(text) for text in words(24)], DEFAULT_ORDER, loaded.alphabet.units)
    assert loaded.language_model.digest == expected.digest
    assert loaded.calibration.with_language_model.samples == 24


def test_tensorboard_shows_the_curves_and_examples(local_ray, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(configuration(tmp_path, training={"n_epochs": 5}))
    events = EventAccumulator(str(tmp_path / "output" / "logs"))
    events.Reload()
    tags = events.Tags()
    assert {
        "train/loss",
        "train/mean_loss",
        "train/learning_rate",
        "train/images_per_second",
        "train/data_wait_percent",
        "eval/cer",
        "eval/wer",
        "eval/accuracy",
        "eval/loss",
    } <= set(tags["scalars"])
    assert "examples/0" in tags["images"]
    text = events.Tensors("examples/transcriptions/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| label | transcription |" in text


def test_images_are_read_with_the_model_directory_alone(local_ray, tmp_path):
    train(configuration(tmp_path, training={"n_epochs": 60}))
    recognizer = Recognizer.load(tmp_path / "output" / "model", "cpu")
    labels = [line.split(";") for line in (tmp_path / "labels.csv").read_text().split()]
    texts = [t.text for t in recognizer([tmp_path / path for path, _ in labels])]
    assert texts == [label for _, label in labels]


@pytest.mark.long
def test_upright_lines_are_trained_evaluated_and_read_like_those_turned_by_hand(local_ray, tmp_path, capsys):
    labels = words(16)
    outputs = {}
    for name, quarters in (("horizontal", 1), ("top_to_bottom", 0)):
        (tmp_path / name / "images").mkdir(parents=True)
        for number, label in enumerate(labels):
            stacked = np.vstack([np.asarray(draw(letter).resize((32, 24))) for letter in label])
            Image.fromarray(np.rot90(stacked, quarters)).save(tmp_path / name / "images" / f"{number}.png")
        csv = tmp_path / name / "labels.csv"
        csv.write_text("".join(f"images/{number}.png;{label}\n" for number, label in enumerate(labels)))
        train(configuration(tmp_path / name, data={"line_orientation": name}, augmentation={}))
        model = str(tmp_path / name / "output" / "model")
        capsys.readouterr()
        assert Evaluate.call([model, str(csv), "--json"], "evaluate") == 0
        assert Predict.call([model, str(csv), "-o", str(tmp_path / name / "read.csv"), "--confidence"], "predict") == 0
        outputs[name] = [
            capsys.readouterr(),
            (tmp_path / name / "read.csv").read_text(),
            (tmp_path / name / "output" / "model" / "model.safetensors").read_bytes(),
        ]
    assert outputs["top_to_bottom"] == outputs["horizontal"]


@pytest.mark.extended
def test_the_same_seed_gives_the_same_weights(local_ray, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        os.symlink(write_set(tmp_path, words(24)), tmp_path / name / "labels.csv")
        os.symlink(tmp_path / "images", tmp_path / name / "images")
        train(configuration(tmp_path / name, augmentation={"data_augmentation": True}))
    models = [(tmp_path / name / "output" / "model" / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert models[0] == models[1]


def test_an_output_directory_in_use_is_refused(local_ray, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "thesis.doc").write_text("precious")
    with pytest.raises(UsageError, match="contains no run"):
        train(configuration(tmp_path))
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["thesis.doc"]
    (tmp_path / "output" / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"not empty.*restore_model=true"):
        train(configuration(tmp_path))


def test_resuming_a_finished_run_reports_that_it_is_finished(local_ray, tmp_path, capsys):
    first = train(configuration(tmp_path))
    written = (tmp_path / "output" / "model" / "model.safetensors").stat().st_mtime_ns
    again = train(configuration(tmp_path, restore_model=True))
    assert "finished" in capsys.readouterr().err
    assert again["best"] == first["best"]
    assert (tmp_path / "output" / "model" / "model.safetensors").stat().st_mtime_ns == written


def test_a_finished_run_trains_on_to_more_epochs_with_a_new_schedule(local_ray, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = train(configuration(tmp_path, count=160, training={"n_epochs": 1}))
    again = train(configuration(tmp_path, count=160, training={"n_epochs": 3}, restore_model=True))
    assert "trains on from epoch 1 to 3, with a new one_cycle schedule" in capsys.readouterr().err
    assert (first["steps"], again["steps"]) == (20, 60)
    records = metrics(tmp_path)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert [record["share"] for record in records] == [1, 0.5, 1]
    assert again["best"]["cer"] == min(record["cer"] for record in records)
    events = EventAccumulator(str(tmp_path / "output" / "logs"))
    events.Reload()
    rates = {event.step: event.value for event in events.Scalars("train/learning_rate")}
    assert max(rates[20], rates[60]) < rates[50] < rates[30]
    state = checkpoint.latest(tmp_path / "output" / "checkpoints")[0].state
    assert state["progress"]["finished"] and state["limits"]["n_epochs"] == 3
    assert train(configuration(tmp_path, training={"n_epochs": 3}, restore_model=True))["best"] == again["best"]


def test_a_folder_that_is_not_a_run_is_refused_even_with_restore_model(local_ray, tmp_path):
    (tmp_path / "output" / ".git").mkdir(parents=True)
    (tmp_path / "output" / ".env").write_text("secret")
    with pytest.raises(UsageError, match="contains no run"):
        train(configuration(tmp_path, restore_model=True))
    assert {path.name for path in (tmp_path / "output").iterdir()} == {".git", ".env"}


def test_leftover_files_of_an_interrupted_start_are_removed(tmp_path, local_ray):
    output = tmp_path / "output"
    for name in (".ray-old", ".model.17", "checkpoints/.step_00000003.17"):
        (output / name).mkdir(parents=True)
    (output / ".gitignore").write_text("*")
    train(configuration(tmp_path, restore_model=True, training={"n_epochs": 1}))
    assert (output / ".gitignore").read_text() == "*"
    assert [path.name for path in output.glob(".*")] == [".gitignore"]
    assert not list((output / "checkpoints").glob(".*"))


def test_two_commands_do_not_share_an_output_directory(local_ray, tmp_path):
    with lock_output(Directory(tmp_path / "output")), pytest.raises(UsageError, match="another command trains in it"):
        train(configuration(tmp_path))


def test_an_output_directory_that_cannot_be_made_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/output: cannot be written: Not a directory"):
        train(configuration(tmp_path, output_model_dir=str(tmp_path / "file" / "output")))


def test_a_finished_run_without_its_model_is_refused(local_ray, tmp_path):
    train(configuration(tmp_path, training={"n_epochs": 1}))
    shutil.rmtree(tmp_path / "output" / "model")
    with pytest.raises(UsageError, match="its model/ is missing"):
        train(configuration(tmp_path, restore_model=True))
    with pytest.raises(UsageError, match=r"seed: 0 then, 1 now"):
        train(configuration(tmp_path, restore_model=True, training={"seed": 1}))


@pytest.mark.long
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(local_ray, tmp_path):
    """The run resumes from a checkpoint in the middle of an epoch, at step 5; the later ones are deleted."""
    names = ("straight", "resumed")
    for name in names:
        (tmp_path / name).mkdir()
        os.symlink(write_set(tmp_path, words(24)), tmp_path / name / "labels.csv")
        os.symlink(tmp_path / "images", tmp_path / name / "images")
    settings = {"training": {"n_epochs": 3, "save_interval": 5}, "augmentation": {"data_augmentation": True}}
    for name in names:
        train(configuration(tmp_path / name, **{k: dict(v) for k, v in settings.items()}))
    checkpoints = tmp_path / "resumed" / "output" / "checkpoints"
    last = sorted(checkpoints.iterdir())[-1]
    assert last.name == "step_00000009"
    shutil.rmtree(last)
    assert [path.name for path in checkpoints.iterdir()] == ["step_00000005"]
    train(configuration(tmp_path / "resumed", restore_model=True, **settings))
    ends = [checkpoint.latest(tmp_path / name / "output" / "checkpoints")[0] for name in names]
    assert all((ends[0].tensors[key] == ends[1].tensors[key]).all() for key in ends[0].tensors)
    assert [r["cer"] for r in metrics(tmp_path / "straight")] == [r["cer"] for r in metrics(tmp_path / "resumed")]


@pytest.mark.extended
def test_resuming_with_a_changed_csv_is_refused_with_its_name(local_ray, tmp_path):
    train(configuration(tmp_path, training={"save_interval": 2}))
    state = sorted((tmp_path / "output" / "checkpoints").iterdir())[-1]
    shutil.rmtree(state)
    with (tmp_path / "labels.csv").open("a") as file:
        file.write("images/labels_0.png;abc\n")
    with pytest.raises(UsageError, match=r"changed: .*labels\.csv"):
        train(configuration(tmp_path, restore_model=True))


def test_two_workers_train_and_report_every_evaluation_to_ray_train(local_ray, tmp_path, monkeypatch):
    import ray.train

    class Recorder(ray.train.UserCallback):
        def after_report(self, run_context, metrics, checkpoint):
            with (tmp_path / "reported.jsonl").open("a") as file:
                file.write(f"{json.dumps(metrics)}\n")

    with_recorder = partialmethod(ray.train.RunConfig.__init__, callbacks=[Recorder()])
    monkeypatch.setattr(ray.train.RunConfig, "__init__", with_recorder)
    outcome = train(configuration(tmp_path, count=25, cluster={"num_workers": 2}, training={"n_epochs": 3}))
    assert outcome["steps"] == 12
    reported = [json.loads(line) for line in (tmp_path / "reported.jsonl").read_text().splitlines()]
    assert [by_worker[0] for by_worker in reported] == metrics(tmp_path)
    assert all(len(by_worker) == 2 and by_worker[1]["cer"] == by_worker[0]["cer"] for by_worker in reported)
    scores = Recognizer.load(tmp_path / "output" / "model", "cpu").metrics
    assert 0 <= scores["cer"] <= 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("rows", "workers"),
    [
        pytest.param(1, 1, marks=pytest.mark.extended),
        (1, 2),
        pytest.param(3, 2, marks=pytest.mark.extended),
    ],
)
def test_training_works_with_fewer_rows_than_a_batch_or_than_workers(local_ray, tmp_path, rows, workers):
    outcome = train(configuration(tmp_path, count=rows, cluster={"num_workers": workers}))
    assert outcome["steps"] == 2


def test_without_evaluation_rows_the_last_model_is_exported(local_ray, tmp_path):
    outcome = train(configuration(tmp_path, data={"csv_files_eval": []}))
    assert outcome["best"] == {"epoch": 2.0, "step": 6}
    assert Recognizer.load(tmp_path / "output" / "model", "cpu").alphabet.units


@pytest.mark.extended
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_starts_from_a_model_which_it_does_not_need_to_resume(local_ray, tmp_path, capsys, workers):
    base, tuned = save(tmp_path / "base", tuple("abcdefgh")), tmp_path / "tuned"
    write_set(tuned, ["ab", "ba", "xyz"] * 6)
    settings = {"initial_model": str(base), "frozen_convolutions": 7}
    groups = {"cluster": {"num_workers": workers, "cpus_per_worker": 0.5}}
    train(configuration(tuned, training=settings, **groups))
    assert f"starts from {base}: 8 units kept, 3 new ('x', 'y', 'z'), 0 dropped" in capsys.readouterr().err
    weights = (base / "model.safetensors").read_bytes()
    for record in (tuned / "output" / "run.json", tuned / "output" / "model" / "config.json"):
        tree = json.loads(record.read_text())
        own = tree.get("configuration", tree)["training"]
        assert own["initial_model"] == str(base)
        assert own["initial_model_sha256"] == hashlib.sha256(weights).hexdigest()
    shutil.rmtree(base)
    train(configuration(tuned, training={**settings, "n_epochs": 3}, restore_model=True, **groups))
    assert [record["epoch"] for record in metrics(tuned)] == [0, 1, 2, 3]
    before, after = (safetensors.torch.load(data) for data in (weights, checkpoint_tensors(tuned)))
    kernels = [name for name in before if name.startswith("convolutions.")]
    assert kernels and all(before[name].equal(after[f"network.{name}"]) for name in kernels)


def checkpoint_tensors(folder: Path) -> bytes:
    """Return the file of tensors of the last checkpoint of a run."""
    return max((folder / "output" / "checkpoints").glob("*/tensors.safetensors")).read_bytes()


def test_early_stopping_ends_a_run_that_no_longer_improves(local_ray, tmp_path):
    training = {"n_epochs": 40, "learning_rate": 1e-12, "early_stopping": 2, "schedule": "constant"}
    csv = write_set(tmp_path, words(24))
    other = write_set(tmp_path, words(5, seed=1), "other.csv")
    assert csv.exists()
    outcome = train(configuration(tmp_path, data={"csv_files_eval": str(other)}, training=training))
    assert outcome["steps"] < 40 * 3


def test_too_many_bad_images_fail_before_training_with_a_table_of_reasons(local_ray, tmp_path):
    settings = configuration(tmp_path)
    for number in range(3):
        (tmp_path / "images" / f"labels_{number}.png").unlink()
    with pytest.raises(RaycrnnError, match=r"3 of 24 samples(.|\n)*no such file"):
        train(settings)


def test_images_damaged_after_their_header_fail_in_the_first_epoch_and_are_listed(local_ray, tmp_path):
    settings = configuration(tmp_path, cluster={"num_workers": 2})
    for number in (2, 5):
        path = tmp_path / "images" / f"labels_{number}.png"
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RaycrnnError, match=r"[12] of 24 samples(.|\n)*damaged image"):
        train(settings)
    listed = (tmp_path / "output" / "rejected.csv").read_text().splitlines()
    assert len(listed) > 1
    assert {line.split(",")[1] for line in listed[1:]} <= {"3", "6"}


@pytest.mark.extended
def test_allowed_bad_images_are_listed_once_over_all_epochs_and_workers(local_ray, tmp_path):
    """The worker with the bad evaluation image reads its images again in each evaluation, and the other one waits."""
    data = {"max_rejected": 0.2, "csv_files_eval": str(write_set(tmp_path, words(6, seed=1), "eval.csv"))}
    settings = configuration(tmp_path, cluster={"num_workers": 2}, data=data, training={"n_epochs": 3})
    for name in ("labels_2", "eval_3"):
        path = tmp_path / "images" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-40])
    outcome = train(settings)
    assert outcome["rejected"] == 2
    assert len((tmp_path / "output" / "rejected.csv").read_text().splitlines()) == 3
    assert len(metrics(tmp_path)) == 3


@pytest.mark.extended
def test_divergence_ends_the_run_and_names_likely_causes(local_ray, tmp_path):
    training = {"n_epochs": 60, "learning_rate": 1e30, "schedule": "constant", "gradient_clip": None}
    with pytest.raises(RaycrnnError, match=r"diverged(.|\n)*learning_rate"):
        train(configuration(tmp_path, training=training))


def test_more_workers_than_cpus_are_refused_at_once(local_ray, tmp_path):
    with pytest.raises(UsageError, match=r"cluster.num_workers=999.*CPUs"):
        train(configuration(tmp_path, cluster={"num_workers": 999}))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.json"], "nowhere.json: no such file"),
        (["CONFIG", "data.csv_files_train=nowhere.csv"], "nowhere.csv: no such CSV file"),
        (["CONFIG", "data.csv_files_train=EMPTY"], "no rows"),
        (["CONFIG", "training.learnig_rate=1"], "did you mean training.learning_rate?"),
        (["CONFIG", "training.n_epochs=many"], 'training.n_epochs = "many"'),
        (["CONFIG", "data.lookup_alphabet_file=nowhere.json"], "no such alphabet file"),
    ],
)
def test_wrong_usage_is_reported_and_exits_with_2(local_ray, tmp_path, capsys, arguments, expected):
    path = tmp_path / "config.json"
    path.write_text(configuration(tmp_path).model_dump_json())
    (tmp_path / "empty.csv").write_text("")
    names = {"CONFIG": str(path), "EMPTY": str(tmp_path / "empty.csv")}
    arguments = [names.get(a, a.replace("EMPTY", names["EMPTY"])) for a in arguments]
    assert Train.call(arguments, "train") == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGINT, 1), (signal.SIGTERM, 1), pytest.param(signal.SIGTERM, 2, marks=pytest.mark.extended)],
)
def test_ctrl_c_and_sigterm_save_a_checkpoint_and_stop(tmp_path, number, workers):
    """Schedulers send SIGTERM to all processes of a job, also to those of Ray."""
    # Ray contains it, and makes it importable.
    import ray  # noqa: F401
    import psutil  # isort: skip

    settings = configuration(tmp_path, training={"n_epochs": 5000}, cluster={"num_workers": workers})
    path = tmp_path / "config.json"
    path.write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "raycrnn.train", str(path), "data.csv_files_eval=[]"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        model = tmp_path / "output" / "model"
        deadline = time.monotonic() + 120
        while not model.exists() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert model.exists(), "no epoch ended within two minutes"
        ray_processes = psutil.Process(process.pid).children(recursive=True)
        assert "raylet" in {each.name() for each in ray_processes}
        if number == signal.SIGTERM:
            for each in ray_processes:
                each.send_signal(number)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert psutil.wait_procs(ray_processes, timeout=30)[1] == []
    finally:
        process.kill()
    assert process.returncode == 130
    assert "restore_model=true resumes" in stderr
    assert "Traceback" not in stderr
    found, _ = checkpoint.latest(tmp_path / "output" / "checkpoints")
    assert f"stopped at step {found.state['progress']['step']};" in stderr
    found, _ = checkpoint.latest(tmp_path / "output" / "checkpoints")
    assert f"stopped at step {found.state['progress']['step']}" in stderr


def write_to_bucket(folder: Path, bucket: str, labels: list[str]) -> str:
    """Write images and a CSV to object storage, and return the URI of the CSV."""
    write_set(folder / "local", labels)
    for path in (folder / "local").rglob("*.*"):
        storage.write(storage.join(bucket, *path.relative_to(folder / "local").parts), path.read_bytes())
    shutil.rmtree(folder / "local")
    return storage.join(bucket, "labels.csv")


def test_data_and_results_can_be_in_object_storage(local_ray, tmp_path, bucket, capsys):
    labels = words(24)
    csv = write_to_bucket(tmp_path, bucket, labels)
    output = storage.join(bucket, "run")
    data = {"csv_files_train": csv, "csv_files_eval": csv}
    on_disk = train(configuration(tmp_path, data={"max_rejected": 0}))
    outcome = train(configuration(tmp_path, data=data, output_model_dir=output))
    assert outcome["best"] == on_disk["best"]
    names = set(storage.names(output))
    assert {name for name in names if not name.startswith("logs/")} == {
        str(path.relative_to(tmp_path / "output"))
        for path in (tmp_path / "output").rglob("*")
        if path.is_file() and path.parent.name != "logs"
    } | {storage.OWNER, SIZES_FILE}
    assert any(name.startswith("logs/events") for name in names)
    with pytest.raises(UsageError, match="exists and is not empty"):
        train(configuration(tmp_path, data=data, output_model_dir=output))
    resumed = {"data": data, "output_model_dir": output, "restore_model": True}
    assert train(configuration(tmp_path, **resumed))["best"] == outcome["best"]
    assert "this run is finished" in capsys.readouterr().err


def test_a_run_in_object_storage_is_resumed_from_its_last_undamaged_checkpoint(local_ray, tmp_path, bucket, capsys):
    settings = {"output_model_dir": storage.join(bucket, "run"), "training": {"n_epochs": 3, "save_interval": 3}}
    settings["data"] = {"csv_files_train": (csv := write_to_bucket(tmp_path, bucket, words(24))), "csv_files_eval": csv}
    train(configuration(tmp_path, **settings))
    for name in storage.names(settings["output_model_dir"]):
        if name.startswith("checkpoints/step_00000009/tensors"):
            storage.write(storage.join(settings["output_model_dir"], *name.split("/")), b"cut")
    outcome = train(configuration(tmp_path, **settings, restore_model=True))
    assert outcome["steps"] == 9
    err = capsys.readouterr().err
    assert "step_00000009: damaged checkpoint" in err
    assert "resuming from step_0000000" in err
    lines = storage.read(storage.join(settings["output_model_dir"], "metrics.jsonl")).splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_an_outage_ends_a_run_that_names_the_storage_and_rejects_no_image(local_ray, tmp_path, monkeypatch):
    csv = write_set(tmp_path, words(24))
    csv.write_text(csv.read_text().replace("images/", f"file://{tmp_path}/images/"))
    locate, outage = files.locate, OSError("AWS Error SLOW_DOWN during GetObject operation")

    def fail(uri: str) -> None:
        raise outage

    monkeypatch.setattr(files, "RETRY_SECONDS", 0.0)
    settings = {"data": {"csv_files_eval": [], "max_rejected": 1.0}, "training": {"n_epochs": 2, "save_interval": 1}}
    monkeypatch.setattr(files, "locate", fail)
    with pytest.raises(StorageError, match=r"\.png: object storage does not deliver it: .*SLOW_DOWN"):
        train(configuration(tmp_path, **settings))
    monkeypatch.setattr(files, "locate", locate)
    # The command need not measure the images again, so the training is the first to read them.
    ImageSizes(Directory(tmp_path / "output")).measure([line.split(";")[0] for line in csv.read_text().splitlines()])
    monkeypatch.setattr(files, "locate", fail)
    with pytest.raises(RaycrnnError, match=r"object storage does not deliver it: .*SLOW_DOWN.*restore_model=true"):
        train(configuration(tmp_path, **settings))
    monkeypatch.setattr(files, "locate", locate)
    outcome = train(configuration(tmp_path, **settings, restore_model=True))
    assert outcome["steps"] == 6 and not outcome["rejected"]
    assert (tmp_path / "output" / "rejected.csv").read_text().count("\n") == 1


def test_a_refused_command_does_not_claim_the_output_directory(local_ray, tmp_path, bucket):
    output = storage.join(bucket, "run")
    longer = {"training": {"n_epochs": 9}, "output_model_dir": output}
    train(configuration(tmp_path, training={"n_epochs": 1, "schedule": "constant"}, output_model_dir=output))
    owner = storage.read(storage.join(output, storage.OWNER))
    for name in storage.names(output):
        if name.startswith("checkpoints/"):
            storage.delete(storage.join(output, *name.split("/")))
    with pytest.raises(UsageError, match="CPUs"):
        train(configuration(tmp_path, **longer, restore_model=True, cluster={"num_workers": 1000}))
    assert storage.read(storage.join(output, storage.OWNER)) == owner


def test_a_run_with_only_an_incomplete_checkpoint_starts_from_the_beginning(local_ray, tmp_path, bucket, capsys):
    output = storage.join(bucket, "run")
    storage.write(storage.join(output, "run.json"), b"{}")
    storage.write(storage.join(output, "checkpoints", "step_00000009", "tensors.safetensors"), b"half")
    assert train(configuration(tmp_path, output_model_dir=output, restore_model=True))["steps"]
    assert "no checkpoint: starting a new run" in capsys.readouterr().err


def test_inaccessible_object_storage_is_refused_before_training(local_ray, tmp_path, bucket):
    missing = bucket.replace("lines/", "missing/")
    with pytest.raises(UsageError, match="cannot be written"):
        train(configuration(tmp_path, output_model_dir=storage.join(missing, "run")))
    with pytest.raises(UsageError, match="no such CSV file"):
        train(configuration(tmp_path, data={"csv_files_train": storage.join(bucket, "nowhere.csv")}))
