"""Benchmarks run and print each figure next to its limit. No test depends on a measured time."""

import json
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raycrnn import bench
from raycrnn.bench import decode_lexicon, other_decoders, scale, step
from raycrnn.bench.decode import DecodeBench, cut_lines, random_log_probs
from raycrnn.bench.step import Step
from tests.devices import DEVICES


@pytest.mark.parametrize("device", DEVICES)
def test_step_prints_figures_limits_and_json(device, capsys):
    arguments = ["--size", "quarter", "--batch", "2", "--width", "32", "--rounds", "1", "--json", "--profile"]
    assert Step.call([*arguments, "--device", device], "bench step") == 0
    out = capsys.readouterr().out.splitlines()
    assert any("≥ 1.7" in line for line in out)
    figures = json.loads(out[-1])
    assert figures["plain_fp32"] > 0
    assert figures["ratio_auto_to_fp32"] > 0
    expected = figures["fp32:_training_step"] / figures["fp32:_matrix_product,_2048²"]
    assert figures["fp32:_ratio_step_to_matrix_product"] == pytest.approx(expected)
    assert figures["waits_of_the_host_for_the_device_in_a_step"] == 1
    assert figures["operators_in_a_step"] > 100


def test_the_operations_of_a_step_are_those_of_its_layers():
    learner, batch = step.make_learner("quarter", "fp32", torch.device("cpu")), step.random_batch(2, 32)
    channels = [1, 16, 32, 64, 64, 128, 128, 128]
    pixels = [32 * 32, 16 * 16, 8 * 8, 8 * 8, 4 * 8, 4 * 8, 7]
    forward = [2 * 9 * channels[i] * channels[i + 1] * pixels[i] for i in range(7)]
    forward[6] = 2 * 4 * 128 * 128 * 7
    units, classes = learner.network.lstms[0].forwards.hidden_size, step.CLASSES
    lstms = sum(2 * 2 * 4 * units * (inputs + units) * 7 for inputs in (128, 2 * units))
    output = 2 * 2 * units * classes * 7
    # Backward takes twice as many, but there is no gradient of the images.
    assert step.operations_of_step(learner, batch) == 2 * (3 * (sum(forward) + lstms + output) - forward[0])


def test_decode_prints_figures_and_limits(capsys):
    arguments = ["--classes", "5,7000", "--frames", "4", "--lines", "2", "--width", "3", "--rounds", "1", "--json"]
    assert DecodeBench.call(arguments, "bench decode") == 0
    out = capsys.readouterr().out.splitlines()
    assert ["≤ 1300" in line for line in out if "beam search  " in line] == [False, True]
    figures = json.loads(out[-1])
    assert figures["K=5_T=4_beam_search"] > 0
    assert figures["K=5_T=4_beam_search_with_a_language_model"] > 0
    assert figures["K=5_T=4_greedy"] > 0


def test_decode_compares_lexicons_with_beam_search(capsys, monkeypatch):
    monkeypatch.setattr(decode_lexicon, "ENTRIES", 50)
    arguments = [
        "--classes",
        "9",
        "--frames",
        "40",
        "--lines",
        "2",
        "--width",
        "5",
        "--rounds",
        "1",
        "--lexicon",
        "--json",
    ]
    assert DecodeBench.call(arguments, "bench decode") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for mode in ("entries", "words"):
        assert figures[f"K=9_T=40_lines_of_{mode},_beam_search"] > 0
        assert figures[f"K=9_T=40_lines_of_{mode},_lexicon_of_50_entries"] > 0


def test_decode_names_an_environment_without_the_decoder(capsys):
    arguments = ["--classes", "5", "--frames", "4", "--lines", "2", "--pyctcdecode-python", sys.executable]
    assert DecodeBench.call(arguments, "bench decode") == 1
    error = capsys.readouterr().err
    assert sys.executable in error
    assert "No module named 'pyctcdecode'" in error


class GreedyPyctcdecode:
    """Decodes each frame alone, with the interface of pyctcdecode."""

    def __init__(self, labels: list[str]):
        self.labels = labels

    def decode_beams(self, log_probs_TK: np.ndarray, **options: object) -> list[tuple[str]]:
        return [("".join(self.labels[code] for code in log_probs_TK.argmax(1)),)]


def greedy_fast_ctc_decode(probs_TK: np.ndarray, labels: list[str], **options: object) -> tuple[str, list[int]]:
    assert probs_TK.sum(1) == pytest.approx(np.ones(len(probs_TK)), abs=1e-5)
    assert probs_TK[:, 0].max() > 0.9, "the blank is not the first class"
    return "".join(labels[code] for code in probs_TK.argmax(1)), []


@pytest.mark.parametrize("decoder", ["pyctcdecode", "fast-ctc-decode"])
def test_other_decoders_get_the_classes_in_their_own_order(decoder, tmp_path, monkeypatch, capsys):
    log_probs_TBK = random_log_probs(30, 3, 12, peaks=True)
    np.save(tmp_path / "lines.npy", log_probs_TBK.transpose(0, 1).numpy())
    monkeypatch.setitem(sys.modules, "pyctcdecode", SimpleNamespace(build_ctcdecoder=GreedyPyctcdecode))
    monkeypatch.setitem(sys.modules, "fast_ctc_decode", SimpleNamespace(beam_search=greedy_fast_ctc_decode))
    other_decoders.main(decoder, str(tmp_path / "lines.npy"), "10")
    result = json.loads(capsys.readouterr().out)
    assert result["codes"] == [[code for code in line.tolist() if code < 11] for line in log_probs_TBK.argmax(2).T]
    assert result["seconds"] > 0


@pytest.mark.parametrize(
    ("decoder", "shape", "cut"),
    [
        ("pyctcdecode", (250, 16, 80), (250, 2)),
        ("pyctcdecode", (250, 16, 8000), (5, 1)),
        ("fast-ctc-decode", (60, 16, 80), (60, 16)),
        # A frame takes 100 × 800² × 4 bytes.
        ("fast-ctc-decode", (250, 16, 800), (9, 13)),
        ("fast-ctc-decode", (250, 16, 8000), None),
    ],
)
def test_other_decoders_get_lines_that_they_can_search(decoder, shape, cut):
    found = cut_lines(decoder, torch.zeros(1).expand(shape), width=100)
    assert (None if found is None else tuple(found.shape[:2])) == cut


def test_ratios_are_computed_for_each_pair():
    assert bench.median_ratio([1.0, 10.0, 300.0], [1.0, 5.0, 100.0]) == 2.0


@pytest.mark.ray
@pytest.mark.extended
def test_train_measures_both_sides(local_ray, capsys):
    from raycrnn.bench.train import TrainBench

    arguments = ["--size", "quarter", "--seconds", "1", "--rounds", "1", "--batch", "128", "--width", "48", "--json"]
    assert TrainBench.call(arguments, "bench train") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["through_Ray"] > 0
    assert figures["in_memory"] > 0
    assert 0 <= figures["data_wait"] <= 100


@pytest.mark.ray
@pytest.mark.extended
def test_ingest_compares_three_ways_for_both_formats(local_ray, capsys):
    from raycrnn.bench.ingest import Ingest

    assert Ingest.call(["--rows", "500", "--rounds", "1", "--json"], "bench ingest") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for kind in ("png", "jpeg"):
        ratio = figures[f"{kind}:_Ray_Data"] / figures[f"{kind}:_DataLoader"]
        assert figures[f"ratio_to_dataloader_{kind}"] == pytest.approx(ratio)


@pytest.mark.ray
@pytest.mark.extended
def test_ingest_makes_the_same_batches_of_images_in_object_storage(local_ray, capsys):
    from raycrnn.bench.ingest import Ingest

    arguments = ["--rows", "300", "--rounds", "1", "--uri", "local", "--delay", "1", "--json"]
    assert Ingest.call(arguments, "bench ingest") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["padded_over_real_pixels"] == figures["padded_over_real_pixels,_local_files"]
    assert figures["measuring_sizes,_requests"] == pytest.approx(2 * figures["measuring_sizes"])
    assert figures["Ray_Data,_requests"] > 0


@pytest.mark.extended
def test_start_measures_commands_beside_the_import_of_their_libraries(capsys):
    from raycrnn.bench.start import Start

    arguments = ["--rows", "200", "--rounds", "1", "--json", "--parts", "predict", "--parts", "train"]
    assert Start.call(arguments, "bench start") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    ratio = figures["predict,_5_image(s)"] / figures["import_torch"]
    assert figures["predict,_5_image(s),_to_import_torch"] == pytest.approx(ratio)
    total = figures.pop("train,_1_worker:_command_to_first_step")
    assert total == pytest.approx(sum(value for name, value in figures.items() if name.startswith("train,_1_worker")))
    assert figures["first_step,_2_workers_to_1"] == pytest.approx(
        figures["train,_2_workers:_command_to_first_step"] / total
    )


@pytest.mark.ray
@pytest.mark.extended
def test_predict_measures_both_sides(local_ray, capsys):
    from raycrnn.bench.predict import PredictBench

    assert PredictBench.call(["--size", "quarter", "--images", "300", "--rounds", "1", "--json"], "bench predict") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    ratio = figures["predict,_greedy"] / figures["bare_forward_pass"]
    assert figures["ratio_predict_to_forward"] == pytest.approx(ratio)
    assert figures["predict,_beam_search"] > 0


@pytest.mark.ray
@pytest.mark.extended
def test_recover_kills_a_worker_and_measures_the_loss(local_ray, tmp_path, monkeypatch):
    from raycrnn.bench import recover
    from raycrnn.bench.train import write_images

    monkeypatch.setattr(recover, "STEPS_BEFORE", 20)
    write_images(tmp_path, 100, 128)
    assert 0 < recover.kill_worker(recover._settings(tmp_path, "run")) < 120


L4 = scale.Measures(
    step_images=2000, decode_images=500, gradient_bytes=35_000_000, image_bytes=12_800, bandwidth=1.25e9, overlap=2 / 3
)


def site(gpu_nodes: int, decode_nodes: int) -> scale.Site:
    return scale.Site(gpu_nodes, decode_nodes, gpu_node_cores=4, decode_node_cores=16, batch=64)


@pytest.mark.parametrize(
    ("measures", "nodes", "images", "binds"),
    [
        # Three cores of the GPU node decode 500 images per second each.
        (L4, (1, 0), 1500, "decoding"),
        (L4, (1, 1), 2000, "the training step"),
        # 35 MB are sent and received in 28 ms, of which 21 are hidden by a step of 32 ms.
        # A faster step would hide less of them, so the network is the bottleneck.
        (L4, (2, 1), 2 * 64 / (0.032 + 0.028 - 0.032 * 2 / 3), "gradients over the network"),
        (replace(L4, overlap=0.0), (2, 1), 2 * 64 / (0.032 + 0.028), "the training step"),
        (replace(L4, bandwidth=1.25e8), (4, 9), 4 * 64 / (0.032 + 0.42 - 0.032 * 2 / 3), "gradients over the network"),
        (replace(L4, bandwidth=1e7), (1, 9), 1e7 / 12_800, "images over the network"),
    ],
)
def test_a_forecast_is_the_rate_of_its_bottleneck(measures, nodes, images, binds):
    forecast = scale.forecast(measures, site(*nodes))
    assert forecast.images == pytest.approx(images)
    assert forecast.binds == binds


def test_scale_forecasts_from_measurements_on_this_machine(monkeypatch, capsys):
    monkeypatch.setattr(scale, "SAMPLES", 32)
    monkeypatch.setattr(scale, "images_decoded", partial(scale.images_decoded, seconds=0.1))
    command = ["--size=quarter", "--width=64", "--batch=8", "--gpu-nodes=1,3", "--decode-nodes=0,2", "--json"]
    assert scale.Scale.call([*command, "--gpu-node-price=1.5", "--decode-node-price=0.5"], "bench scale") == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["forecasts"]
    assert [(row["gpu_nodes"], row["decode_nodes"]) for row in rows] == [(1, 0), (1, 2), (3, 0), (3, 2)]
    assert [row["price"] for row in rows] == [1.5, 2.5, 4.5, 5.5]
    for row in rows:
        assert row["a_million"] == pytest.approx(row["price"] / 3600 / row["images"] * 1e6)
