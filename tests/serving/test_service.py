"""The service: its limits, and how it loads a new model."""

import asyncio
import shutil
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from raycrnn.errors import UsageError
from raycrnn.model import model_files
from raycrnn.model.recognizer import Recognizer
from raycrnn.serving.batcher import ReadOptions
from raycrnn.serving.service import Service
from raycrnn.serving.settings import Limits
from tests.conftest import draw
from tests.model.test_recognizer import recognizer
from tests.serving.samples import cuda_out_of_memory, gated, png, serving, wait_until


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("service") / "model"
    recognizer(num_beam_paths=1).save(path)
    return path


def test_contradicting_limits_are_refused_and_a_single_limit_adjusts_its_counterpart():
    assert Limits(max_body_mb=300).max_upload_mb == 300
    assert Limits(max_upload_mb=5).max_body_mb == 5
    assert Limits(max_images=1000).max_waiting == 1000
    assert Limits(max_waiting=2).max_images == 2
    with pytest.raises(ValueError, match="max_images=5 must not be greater than max_waiting=4"):
        Limits(max_images=5, max_waiting=4)
    with pytest.raises(ValueError, match="max_body_mb=2 must not be greater than max_upload_mb=1"):
        Limits(max_body_mb=2, max_upload_mb=1)


def test_a_new_model_is_loaded_without_dropping_a_request_and_a_broken_one_is_not(model, tmp_path, monkeypatch):
    monkeypatch.setattr("raycrnn.serving.service.SECONDS_BETWEEN_CHECKS", 0.1)
    path = tmp_path / "model"
    shutil.copytree(model, path)
    other = recognizer(num_beam_paths=1)
    other.metrics = {"cer": 0.25}
    other.network.output.bias.data[0] += 1
    service = Service(str(path))
    with serving(service) as client:
        first, ended, codes = client.get("/health").json()["model"], threading.Event(), []

        def send_requests():
            with httpx.Client(base_url=client.base_url) as own_client:
                while not ended.is_set():
                    codes.append(None)
                    codes[-1] = own_client.post("/predict", content=png(draw("abba"))).status_code

        thread = threading.Thread(target=send_requests)
        thread.start()
        other.save(path)
        deadline = time.monotonic() + 20
        while (second := client.get("/health").json()["model"]) == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (path / "model.safetensors").write_bytes(b"broken")
        while client.get("/health").json()["problem"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ended.set()
        thread.join(20)
        assert client.get("/health").json()["model"] == second
        assert client.get("/model").json()["scores"] == {"cer": 0.25}
        assert set(codes) == {200}


@contextmanager
def watching(path, monkeypatch):
    """A service that checks its model directory all the time."""
    monkeypatch.setattr("raycrnn.serving.service.SECONDS_BETWEEN_CHECKS", 0.02)
    service = Service(str(path))
    with serving(service) as client:
        yield service, client


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", b"\xff\xfe{"), ("config.json", b"[" * 200_000), ("alphabet.json", b"[1, 2]")],
    ids=["not UTF-8", "deeply nested", "a list"],
)
def test_a_damaged_model_does_not_end_the_watch(model, tmp_path, monkeypatch, name, content):
    path = tmp_path / "model"
    shutil.copytree(model, path)
    with watching(path, monkeypatch) as (service, client):
        first = service.model.version
        (path / name).write_bytes(content)
        wait_until(lambda: service.problem)
        assert client.get("/health").json()["problem"]
        assert service.model.version == first
        recognizer(num_beam_paths=2).save(path)
        wait_until(lambda: service.model.version != first)
        assert client.get("/health").json()["problem"] is None


def test_a_lack_of_memory_does_not_end_the_watch(model, tmp_path, monkeypatch):
    path = tmp_path / "model"
    shutil.copytree(model, path)
    with watching(path, monkeypatch) as (service, _):
        first = service.model.version
        with monkeypatch.context() as patch:
            patch.setattr(Recognizer, "load", cuda_out_of_memory)
            recognizer(num_beam_paths=2).save(path)
            wait_until(lambda: service.problem)
        assert "out of memory" in service.problem
        recognizer(num_beam_paths=3).save(path)
        wait_until(lambda: service.model.version != first)


def test_the_problem_is_cleared_when_the_served_files_are_back(model, tmp_path, monkeypatch):
    path = tmp_path / "model"
    shutil.copytree(model, path)
    with watching(path, monkeypatch) as (service, _):
        path.rename(tmp_path / "away")
        wait_until(lambda: service.problem)
        (tmp_path / "away").rename(path)
        wait_until(lambda: service.problem is None)


def test_change_model_loads_a_valid_model_and_keeps_the_previous_one_otherwise(model, tmp_path):
    other = recognizer(num_beam_paths=2)
    other.save(tmp_path / "other")

    async def change():
        service = Service(str(model))
        await service.start()
        for _ in range(2):
            with pytest.raises(UsageError):
                await service.change_model(str(tmp_path / "nowhere"))
        before = service.path, service.model.version
        await asyncio.gather(*(service.change_model(str(tmp_path / "other")) for _ in range(2)))
        after = service.path, service.model.version
        await service.stop()
        return before, after

    before, after = asyncio.run(change())
    assert before == (model, model_files.version_of(model))
    assert after == (tmp_path / "other", model_files.version_of(tmp_path / "other"))


def test_a_request_that_hangs_does_not_block_a_new_model(model, tmp_path):
    recognizer(num_beam_paths=2).save(tmp_path / "other")

    async def change():
        service = Service(str(model), threads=2)
        await service.start()
        line = service.model.recognizer.prepare(draw("ab"))
        with gated(service.model.recognizer) as gate:
            hanging = asyncio.create_task(service.model.batcher.read([line], ReadOptions(1, False)))
            await asyncio.sleep(0.1)
            await asyncio.wait_for(service.change_model(str(tmp_path / "other")), 10)
            assert not hanging.done()
            gate.set()
            assert (await hanging)[0].text == recognizer(num_beam_paths=1).transcribe([line])[0].text
        await service.stop()

    asyncio.run(change())


def test_the_version_depends_on_the_files_alone(model, tmp_path):
    shutil.copytree(model, tmp_path / "copy")
    assert model_files.version_of(model) == model_files.version_of(tmp_path / "copy")
    recognizer(num_beam_paths=2).save(tmp_path / "copy")
    assert model_files.version_of(model) != model_files.version_of(tmp_path / "copy")
