"""The exported files: they compute what the model computes, without raycrnn."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raycrnn import config
from raycrnn.data import image
from raycrnn.exporting import formats
from raycrnn.exporting.comparison import generate_images
from raycrnn.exporting.formats import FORMATS, Run, describe
from raycrnn.exporting.run import export
from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer
from tests.conftest import draw
from tests.model.test_recognizer import ALPHABET, TREE, recognizer

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "onnx_predict.py"
SUFFIXES = [".onnx", ".pt2"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Path]:
    """Return a file of each format, of the same small model."""
    folder = tmp_path_factory.mktemp("exported")
    files = {suffix: folder / f"model{suffix}" for suffix in SUFFIXES}
    for path in files.values():
        export(recognizer(), path, generate_images(recognizer()))
    assert sorted(folder.iterdir()) == sorted(files.values())
    return files


@pytest.fixture(scope="module")
def runs(exported) -> dict[str, Run]:
    """Return the network of each exported file."""
    return {suffix: FORMATS[suffix].load(path.read_bytes()) for suffix, path in exported.items()}


def tall_and_coloured() -> Recognizer:
    tree = {**TREE, "image": {"input_shape": [48, 200], "input_channels": 3}}
    configuration = config.parse({**tree, "model": {**TREE["model"], "lstm_layers": 1}})
    torch.manual_seed(5)
    network = CRNN.from_settings(configuration.model, configuration.image, len(ALPHABET) + 1)
    network.output.weight.data.mul_(8)
    return Recognizer(network, configuration, ALPHABET, {})


def noise(batch: int, width: int, channels: int = 1, height: int = 32) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (batch, channels, height, width), dtype=np.uint8)


def of_network(network: CRNN, images_BCHW: np.ndarray, width: int) -> np.ndarray:
    """Return the log-probabilities [T, K] of the first image, cut to its width and padded as in a batch."""
    pixels = images_BCHW[0, :, :, :width].transpose(1, 2, 0)
    with torch.inference_mode():
        return network(*map(torch.from_numpy, image.collate([pixels])))[0][: image.frames(width), 0].numpy()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("width", "padded"), [(8, 8), (9, 9), (8, 64), (11, 14), (64, 64), (99, 102), (700, 700)])
def test_an_export_agrees_with_the_network_for_any_batch_width_and_padding(runs, suffix, batch, width, padded):
    images_BCHW = noise(batch, padded)
    log_probs_TBK, frames_B = runs[suffix](images_BCHW, np.array([width, padded, 8][:batch]))
    assert frames_B.tolist() == [image.frames(each) for each in (width, padded, 8)][:batch]
    assert log_probs_TBK.shape == (image.frames(padded), batch, len(ALPHABET) + 1)
    expected_TK = of_network(recognizer().network, images_BCHW, width)
    assert np.abs(log_probs_TBK[: len(expected_TK), 0] - expected_TK).max() < 1e-4


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=pytest.mark.extended), ".pt2"])
def test_another_height_colour_and_one_layer(tmp_path, suffix):
    reader, path = tall_and_coloured(), tmp_path / f"model{suffix}"
    written = export(reader, path, generate_images(reader))
    assert written.agreement.images == 32
    images_BCHW = noise(2, 77, 3, 48)
    log_probs_TBK, _ = FORMATS[suffix].load(path.read_bytes())(images_BCHW, np.array([77, 30]))
    assert np.abs(log_probs_TBK[:, 0] - of_network(reader.network, images_BCHW, 77)).max() < 1e-4


def test_the_variance_of_a_large_nearly_white_image_is_exact(runs):
    """onnxruntime sums sequentially in fp32, which is inexact for all pixels at once."""
    images_BCHW = np.full((1, 1, 32, 1000), 250, np.uint8)
    images_BCHW[:, :, :, ::5] = 243
    log_probs_TBK, _ = runs[".onnx"](images_BCHW, np.array([1000]))
    assert np.abs(log_probs_TBK[:, 0] - of_network(recognizer().network, images_BCHW, 1000)).max() < 2e-5


def test_the_metadata_describe_what_the_network_does_not_contain(exported):
    import onnxruntime

    about = describe(recognizer())
    assert about["alphabet"] == ["a", "b", "c", "ſt", "é"]
    assert (about["blank"], about["height"], about["channels"]) == (5, 32, 1)
    found = onnxruntime.InferenceSession(exported[".onnx"]).get_modelmeta().custom_metadata_map
    assert found.pop("runtime") == "onnxruntime 1.11 or later (opset 16, IR version 8)"
    assert {key: value if isinstance(about[key], str) else json.loads(value) for key, value in found.items()} == about
    files = {"raycrnn.json": ""}
    torch.export.load(exported[".pt2"], extra_files=files)
    found = json.loads(files["raycrnn.json"])
    assert found.pop("runtime").startswith(f"torch {torch.__version__.partition('+')[0]}")
    assert found == about


def test_an_onnx_file_has_the_lowest_versions_that_its_operators_allow(exported):
    import onnx

    data = exported[".onnx"].read_bytes()
    assert FORMATS[".onnx"].runtime(data) == "onnxruntime 1.11 or later (opset 16, IR version 8)"
    model = onnx.load_from_string(data)
    assert (model.ir_version, [(each.domain, each.version) for each in model.opset_import]) == (8, [("", 16)])
    onnx.checker.check_model(model, full_check=True)
    # Each operator is the same in the opset that torch wrote, and one of them does not exist in a lower opset.
    since = {
        name: [onnx.defs.get_schema(name, opset).since_version for opset in (formats.OPSET, 16)]
        for name in {node.op_type for node in model.graph.node}
    }
    assert all(written == lowered for written, lowered in since.values())
    assert max(lowered for _, lowered in since.values()) == 16


def test_an_onnx_file_contains_no_paths_of_this_machine(exported):
    assert str(ROOT).encode() not in exported[".onnx"].read_bytes()


def test_an_archive_runs_without_raycrnn(exported):
    code = (
        "import sys, torch; network = torch.export.load(sys.argv[1]).module();"
        "log_probs, _ = network(torch.zeros(1, 1, 32, 50, dtype=torch.uint8), torch.tensor([50]));"
        "print(log_probs.shape, 'raycrnn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, exported[".pt2"]], capture_output=True, text=True, cwd="/")
    assert done.stdout == "torch.Size([11, 1, 6]) False\n", done.stderr


@pytest.mark.parametrize("arguments", [[], ["model.onnx"]])
def test_the_example_prints_its_usage(arguments):
    done = subprocess.run([sys.executable, str(EXAMPLE), *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"usage: python {EXAMPLE} MODEL.onnx IMAGE …\n"


def test_the_example_reads_real_images_like_greedy_decoding(exported, data_folder):
    paths = sorted(map(str, (data_folder("captcha4") / "images").glob("*.jpg")))[:40]
    paths += sorted(map(str, (data_folder("sroie_lines") / "images").glob("*")))[:40]
    done = subprocess.run(
        [sys.executable, EXAMPLE, exported[".onnx"], *paths], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    expected = recognizer(method="greedy", num_beam_paths=1)(paths)
    assert done.stdout.splitlines() == [f"{path}\t{found.text}" for path, found in zip(paths, expected, strict=True)]
    assert len({found.text for found in expected}) > 10


@pytest.mark.parametrize("orientation", ["top_to_bottom", "bottom_to_top"])
def test_the_example_turns_lines_like_the_model(tmp_path, orientation):
    model = recognizer()
    data = model.configuration.data.model_copy(update={"line_orientation": orientation})
    model.configuration = model.configuration.model_copy(update={"data": data})
    draw("abba").rotate(90, expand=True).save(tmp_path / "a.png")
    specification = importlib.util.spec_from_file_location("onnx_predict", EXAMPLE)
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    prepared = example.prepare(tmp_path / "a.png", {key: str(value) for key, value in describe(model).items()})
    assert np.array_equal(prepared[0].transpose(1, 2, 0), model.prepare(tmp_path / "a.png").pixels)


def test_the_example_needs_neither_raycrnn_nor_torch():
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}
