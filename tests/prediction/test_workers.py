"""Prediction with workers of Ray, some of which die."""

import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import cloudpickle

from raycrnn.cluster import start_time, workers
from raycrnn.data import image
from raycrnn.model import voter
from raycrnn.model.recognizer import Recognizer
from raycrnn.predict import Predict
from raycrnn.prediction import distributed, image_stage, pipeline, text_stage
from raycrnn.prediction.job import PredictionJob
from raycrnn.prediction.pipeline import Executor
from tests.conftest import draw
from tests.prediction.test_resume import MANY
from tests.test_predict import rows
from tests.training.test_recovery import kill_all, running_in_thread, wait_until


@contextmanager
def workers_run_what_is_patched(monkeypatch):
    """Send the patched code of the stages to workers."""
    modules = (distributed, image_stage, text_stage, workers)
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        with monkeypatch.context() as patch:
            yield patch
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def deadly(texts: dict[bytes, int]) -> SimpleNamespace:
    """Return a stand-in for `image` that kills the process at files of certain contents, by signal."""

    def prepare_image(data, *arguments, **settings):
        if data in texts:
            os.kill(os.getpid(), texts[data])
        return image.prepare_image(data, *arguments, **settings)

    return SimpleNamespace(prepare_image=prepare_image, PreparedImage=image.PreparedImage)


@pytest.mark.ray
def test_the_output_is_the_same_wherever_images_are_read(
    local_ray, model, images, listed, tmp_path, capsys, monkeypatch
):
    """Here means in the command's own process. Its blocks are those of Ray, so that batches are the same."""
    draw("a much wider line of text").save(images / "2.png")
    arguments = [model, listed, "--spans", "-o"]
    assert Predict.call([*arguments, str(tmp_path / "ray.jsonl")], "predict") == 0
    assert "Ray is started" not in capsys.readouterr().err
    monkeypatch.setattr(pipeline, "_ray_is_running", lambda: False)
    # Ray starts after the first block.
    monkeypatch.setattr(start_time, "estimate_start_seconds", lambda _: -1.0)
    assert Predict.call([*arguments, str(tmp_path / "here.jsonl")], "predict") == 0
    assert "136 images are left: Ray is started to read them in parallel" in capsys.readouterr().err
    here, there = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("here.jsonl", "ray.jsonl")
    )
    assert len(here) == len(there) == 200
    for own, other in zip(here, there, strict=True):
        assert own.keys() == other.keys()
        numbers = {key for key, value in own.items() if isinstance(value, float)}
        # On some processors, the last bits depend on the number of threads.
        assert [own[key] for key in numbers] == pytest.approx([other[key] for key in numbers], abs=1e-5)
        assert without_floats(own) == without_floats(other)


def without_floats(value: object) -> object:
    """Return a value of JSON in which each float is None."""
    if isinstance(value, dict):
        return {key: without_floats(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_floats(each) for each in value]
    return None if isinstance(value, float) else value


@pytest.mark.ray
def test_an_image_that_kills_its_decoder_is_a_row_with_its_error(local_ray, model, listed, images, capsys, monkeypatch):
    """The other images are read, in order, even if two images of one block kill the decoder."""
    (images / "8.png").write_bytes(b"segfault")
    (images / "9.png").write_bytes(b"abort")
    text = Path(listed).read_text().splitlines()
    text[5:7], text[150] = ["images/8.png", "images/9.png"], "images/9.png"
    Path(listed).write_text("\n".join(text))
    with workers_run_what_is_patched(monkeypatch) as patch:
        patch.setattr(image_stage, "image", deadly({b"segfault": signal.SIGSEGV, b"abort": signal.SIGABRT}))
        assert Predict.call([model, listed], "predict") == 0
    found = rows(capsys.readouterr().out)
    errors = {number: row["error"] for number, row in enumerate(found) if row["error"]}
    died = "damaged image: its decoder died"
    assert {number: error for number, error in errors.items() if error == died} == dict.fromkeys((5, 6, 150), died)
    assert sorted(errors) == [5, 6, 70, 71, 150]
    reader = Recognizer.load(model, "cpu")
    texts = [each.text for each in reader([images / f"{number}.png" for number in range(4)])]
    assert [row["text"] for row in found] == [
        "" if number in errors else texts[number % 4] for number in range(len(found))
    ]


@pytest.mark.extended
@pytest.mark.ray
def test_replicas_that_die_repeatedly_end_the_run(local_ray, model, images, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.csv"
    with workers_run_what_is_patched(monkeypatch) as patch:
        patch.setattr(workers, "MAX_DEATHS", 1)
        patch.setattr(text_stage, "voter", SimpleNamespace(load=lambda *_: os.kill(os.getpid(), signal.SIGKILL)))
        assert Predict.call([model, str(images), "-o", str(out)], "predict") == 1
    assert "in a worker: a replica of the model died 2 times" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.ray
def test_decoders_that_die_repeatedly_end_the_run(local_ray, model, listed, tmp_path, capsys, monkeypatch):
    (loaded := tmp_path / "loaded").mkdir()

    def load(*arguments):
        recognizer = voter.load(*arguments)
        (loaded / str(os.getpid())).touch()
        return recognizer

    def die(_):
        # Ray 2.60 does not always end replicas that are still starting when the run ends.
        while len(os.listdir(loaded)) < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)

    with workers_run_what_is_patched(monkeypatch) as patch:
        patch.setattr(workers, "MAX_DEATHS", 1)
        patch.setattr(text_stage, "voter", SimpleNamespace(load=load))
        # Not the function that decodes, which by then runs in processes of its own.
        patch.setattr(image_stage, "_malformed", die)
        assert Predict.call([model, listed], "predict") == 1
    assert "in a worker: a worker that decodes images died 2 times" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(
    "title", ["MapWorker(MapBatches(TranscriberActor))", pytest.param("MapBatches(Decode)", marks=pytest.mark.extended)]
)
def test_every_row_comes_once_when_a_worker_is_killed(local_ray, model, images, title):
    reader = Recognizer.load(model, "cpu", ["decoding.beam_width=100"])
    texts = [each.text for each in reader([images / f"{number}.png" for number in range(4)])]
    paths = [str(images / f"{number % 4}.png") for number in range(MANY)]
    job = PredictionJob(model, reader.configuration.image, ("decoding.beam_width=100",))
    with Executor() as executor, running_in_thread(lambda: wait_until(lambda: kill_all(title))):
        found = [result.transcription.text for result in executor.transcribe(job, paths)]
    assert found == [texts[number % 4] for number in range(MANY)]
