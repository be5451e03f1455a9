"""What `bench step` keeps of a speed, and what it lets expect of which runs."""

import datetime
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raycrnn import speeds
from raycrnn.config import Image, Model
from raycrnn.speeds import Network, Speed, Work

QUARTER = Network.of(Model(size="quarter"), Image())

SPEED = Speed(
    device="NVIDIA H100 80GB HBM3",
    threads=None,
    network=QUARTER,
    precision="bf16",
    classes=80,
    batch=64,
    width=100,
    images_per_second=1234.0,
    date=datetime.date(2026, 11, 23),
    versions=speeds.versions(),
)
ON_CPU = SPEED.model_copy(update={"device": "AMD EPYC", "threads": 2, "images_per_second": 50.0})

WORK = Work(
    workers=2, device="H100", threads=None, network=QUARTER, precision="auto", classes=80, batch=16, width=200.0
)
WORK_ON_CPU = replace(WORK, device="AMD EPYC", threads=2)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The file in an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "raycrnn" / "speeds.json"


def say_nothing(line: str) -> None:
    pytest.fail(line)


def keep_all(*each: Speed) -> None:
    for speed in each:
        speeds.keep(speed, say_nothing)


# --- what it lets expect


def test_pixels_a_second_of_all_workers_are_divided_by_those_of_an_image():
    assert speeds.expected([ON_CPU, SPEED], WORK) == (
        "expected: some 1,200 images a second by bench step of 2026-11-23 (2 workers, NVIDIA H100 80GB HBM3), "
        "as long as decoding keeps up"
    )
    assert "some 25 images a second" in speeds.expected([SPEED, ON_CPU], replace(WORK_ON_CPU, workers=1))


@given(
    rate=st.floats(0.01, 1e5),
    width=st.integers(8, 2000),
    mean=st.floats(8, 2000),
    workers=st.integers(1, 64),
)
def test_as_many_pixels_are_learnt_from_whatever_their_images_are(rate, width, mean, workers):
    speed = SPEED.model_copy(update={"images_per_second": rate, "width": width})
    line = speeds.expected([speed], replace(WORK, workers=workers, width=mean, batch=64 * width / mean))
    images = float(line.split()[2].replace(",", ""))
    assert images * mean * 32 == pytest.approx(workers * rate * width * 32, rel=0.051)


@pytest.mark.parametrize(
    "change",
    [
        {"device": "A100"},
        {"network": Network.of(Model(size="quarter", lstm_size=64), Image())},
        {"network": Network.of(Model(size="quarter", lstm_layers=1), Image())},
        {"network": Network.of(Model(size="half"), Image())},
        {"network": Network.of(Model(size="quarter"), Image(input_shape=(48, 1024)))},
        {"network": Network.of(Model(size="quarter"), Image(input_channels=3))},
        {"precision": "fp32"},
        {"classes": 5000},
        {"batch": 64.0, "width": 401.0},
        {"batch": 7.9},
    ],
    ids=str,
)
def test_of_other_work_a_speed_says_nothing(change):
    assert speeds.expected([SPEED], replace(WORK, **change)) is None


@pytest.mark.parametrize("change", [{"threads": 1}, {"device": "Intel Xeon"}, {"threads": None}], ids=str)
def test_of_another_processor_or_other_threads_a_speed_says_nothing(change):
    assert speeds.expected([ON_CPU], replace(WORK_ON_CPU, **change)) is None


def test_what_the_speed_does_not_depend_on_may_differ():
    network = Network.of(Model(cnn_channels=QUARTER.cnn_channels, lstm_size=128, keep_prob=0.5), Image())
    work = replace(WORK, network=network, precision="bf16", classes=20, batch=8, width=250)
    assert speeds.expected([SPEED], work)


def test_numbers_without_sense_say_nothing():
    assert speeds.expected([SPEED.model_copy(update={"width": 10**400, "classes": 10**400})], WORK) is None


def test_of_several_the_one_with_steps_most_like_those_of_the_run_counts():
    others = [SPEED.model_copy(update={"batch": batch, "images_per_second": float(batch)}) for batch in (16, 32, 64)]
    work = replace(WORK, workers=1, batch=30, width=100.0)
    assert "some 32 images" in speeds.expected(others, work)


NAMES = (
    "NVIDIA H100 80GB HBM3",
    "NVIDIA H200",
    "NVIDIA A100-SXM4-40GB",
    "NVIDIA A10",
    "NVIDIA A10G",
    "NVIDIA L4",
    "NVIDIA L40S",
    "Tesla V100-SXM2-16GB",
    "Tesla T4",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA GeForce RTX 4070",
    "NVIDIA GeForce RTX 4070 Ti",
    "NVIDIA TITAN RTX",
)


@pytest.mark.ray
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_is_of_the_kind_that_ray_calls_it(name):
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

    kind_of = NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type
    for other in NAMES:
        assert speeds.is_gpu(name, kind_of(other)) == (kind_of(name) == kind_of(other)), other


# --- the file


def test_what_is_kept_is_known_later_and_a_new_measurement_takes_the_place_of_the_old(cache):
    faster = SPEED.model_copy(update={"images_per_second": 2000.0, "date": datetime.date(2027, 1, 1)})
    wider = SPEED.model_copy(update={"width": 400})
    keep_all(SPEED, ON_CPU, wider, faster)
    assert speeds.known(say_nothing) == [ON_CPU, wider, faster]
    assert [path.name for path in cache.parent.iterdir()] == ["speeds.json"]


def test_what_other_versions_reached_is_kept_and_not_told(cache):
    older = SPEED.model_copy(update={"versions": {**speeds.versions(), "torch": "1.0"}})
    keep_all(older, ON_CPU)
    assert speeds.known(say_nothing) == [ON_CPU]
    assert len(json.loads(cache.read_text())) == 2


def test_without_a_file_nothing_is_known_and_nothing_made(cache):
    assert speeds.known(say_nothing) == []
    assert not cache.parent.exists()


@pytest.mark.parametrize("value", ["", "relative/cache"])
def test_without_a_cache_folder_of_the_users_choice_it_is_in_the_home_folder(tmp_path, monkeypatch, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_all(SPEED)
    assert (tmp_path / ".cache" / "raycrnn" / "speeds.json").exists()


@contextmanager
def file_of(data: bytes, folder: Path) -> Iterator[list[str]]:
    """Meanwhile the cache's file holds these bytes; the lines that are said go into the list."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        (folder / "raycrnn").mkdir(exist_ok=True)
        (folder / "raycrnn" / "speeds.json").write_bytes(data)
        yield []


WHOLE = json.loads(speeds.SPEEDS.dump_json([SPEED]))[0]
JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda each: st.lists(each), max_leaves=5)
CHANGED = st.dictionaries(st.sampled_from([*WHOLE, "more"]), JSON).map(lambda change: json.dumps([{**WHOLE, **change}]))


@given(data=st.binary() | JSON.map(json.dumps).map(str.encode) | CHANGED.map(str.encode))
@example(data=b"\xff")
@example(data=b"[" * 100_000)
@example(data=json.dumps([{**WHOLE, "images_per_second": math.nan}]).encode())
@example(data=json.dumps([{**WHOLE, "width": 0}]).encode())
def test_any_file_is_read_or_told_once_and_written_anew(data, tmp_path_factory):
    with file_of(data, tmp_path_factory.mktemp("cache")) as said:
        found = speeds.known(said.append)
        assert len(said) <= 1
        assert not (found and said)
        assert all(math.isfinite(speed.images_per_second) for speed in found)
        assert all("cannot be read" in line and "bench step" in line and "\n" not in line for line in said)
        speeds.keep(ON_CPU, said.append)
        assert ON_CPU in speeds.known(said.append)
        assert len(said) <= 2


def test_a_cache_that_cannot_be_written_is_told(cache):
    cache.parent.parent.mkdir()
    cache.parent.write_text("no folder")
    said = []
    speeds.keep(SPEED, said.append)
    assert len(said) == 1 and "cannot be written" in said[0]
    assert cache.parent.read_text() == "no folder"


def test_what_stands_in_the_files_place_stays_and_nothing_is_left_beside_it(cache):
    cache.mkdir(parents=True)
    said = []
    speeds.keep(SPEED, said.append)
    assert len(said) == 1 and os.listdir(cache.parent) == ["speeds.json"]
