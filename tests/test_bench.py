"""Benchmarks run and print each figure beside its limit; no test looks at a time."""

import json

import pytest

from raycrnn import bench
from raycrnn.bench.step import Step


def test_step_prints_figures_limits_and_json(capsys):
    arguments = ["--size", "quarter", "--batch", "2", "--width", "32", "--rounds", "1", "--json"]
    assert Step.call(arguments, "bench step") == 0
    out = capsys.readouterr().out.splitlines()
    assert "≥ 1.7" in out[-2]
    figures = json.loads(out[-1])
    assert figures["plain_fp32"] > 0
    assert figures["ratio_auto_to_fp32"] > 0


def test_ratios_are_taken_pair_by_pair():
    assert bench.median_ratio([1.0, 10.0, 300.0], [1.0, 5.0, 100.0]) == 2.0


@pytest.mark.ray
@pytest.mark.long
def test_train_measures_both_sides(local_ray, capsys):
    from raycrnn.bench.train import TrainBench

    arguments = ["--size", "quarter", "--seconds", "1", "--rounds", "1", "--batch", "128", "--width", "48", "--json"]
    assert TrainBench.call(arguments, "bench train") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["through_Ray"] > 0
    assert figures["in_memory"] > 0
    assert 0 <= figures["data_wait"] <= 100


@pytest.mark.ray
@pytest.mark.long
def test_ingest_compares_three_ways_for_both_formats(local_ray, capsys):
    from raycrnn.bench.ingest import Ingest

    assert Ingest.call(["--rows", "500", "--rounds", "1", "--json"], "bench ingest") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for kind in ("png", "jpeg"):
        ratio = figures[f"{kind}:_Ray_Data"] / figures[f"{kind}:_DataLoader"]
        assert figures[f"ratio_to_dataloader_{kind}"] == pytest.approx(ratio)


@pytest.mark.long
def test_start_adds_up_its_parts(capsys):
    from raycrnn.bench.start import Start

    assert Start.call(["--rows", "64", "--rounds", "1", "--json"], "bench start") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    total = figures.pop("command_to_first_step")
    assert total == pytest.approx(sum(figures.values()))
    assert all(seconds >= 0 for seconds in figures.values())


@pytest.mark.ray
@pytest.mark.long
def test_recover_finds_the_worker_it_kills(local_ray, tmp_path):
    from raycrnn.bench import recover
    from raycrnn.bench.train import write_images

    write_images(tmp_path, 100, 512)
    assert 0 < recover.kill_worker(recover._settings(tmp_path, "run")) < 120
