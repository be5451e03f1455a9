"""The verb export: what it writes gives what the model gives, without raycrnn, or it is not written."""

import ast
import importlib.util
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raycrnn import config, storage
from raycrnn.data import image
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.export import Export
from raycrnn.exporting import graph
from raycrnn.exporting.comparison import Agreement, compare, made_images
from raycrnn.exporting.formats import FORMS, describe
from raycrnn.exporting.run import _open_output, export
from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer
from tests.conftest import words, write_set
from tests.model.test_recognizer import ALPHABET, TREE, recognizer

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "onnx_predict.py"
SUFFIXES = [".onnx", ".pt2"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Path]:
    """A file of each form, of the same small model."""
    folder = tmp_path_factory.mktemp("exported")
    files = {suffix: folder / f"model{suffix}" for suffix in SUFFIXES}
    for path in files.values():
        export(recognizer(), path, made_images(recognizer()))
    assert sorted(folder.iterdir()) == sorted(files.values())
    return files


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, path.exists())))
    path = tmp_path / "model.onnx"
    with _open_output(path) as file:
        file.write(b"whole")
    assert synced == [(5, False)]
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("arguments", [[], ["model.onnx"]])
def test_the_example_tells_what_it_takes(arguments):
    done = subprocess.run([sys.executable, str(EXAMPLE), *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"usage: python {EXAMPLE} MODEL.onnx IMAGE …\n"


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
    """Log-probabilities [T, K] of the first image, cut to its width and padded as in a batch."""
    pixels = images_BCHW[0, :, :, :width].transpose(1, 2, 0)
    with torch.inference_mode():
        return network(*map(torch.from_numpy, image.collate([pixels])))[0][: image.frames(width), 0].numpy()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("width", "padded"), [(8, 8), (9, 9), (8, 64), (11, 14), (64, 64), (99, 102), (700, 700)])
def test_any_batch_and_width_gives_what_the_network_gives_and_padding_does_not_matter(
    exported, suffix, batch, width, padded
):
    run = FORMS[suffix].load(exported[suffix].read_bytes())
    images_BCHW = noise(batch, padded)
    log_probs_TBK, frames_B = run(images_BCHW, np.array([width, padded, 8][:batch]))
    assert frames_B.tolist() == [image.frames(each) for each in (width, padded, 8)][:batch]
    assert log_probs_TBK.shape == (image.frames(padded), batch, len(ALPHABET) + 1)
    expected_TK = of_network(recognizer().network, images_BCHW, width)
    assert np.abs(log_probs_TBK[: len(expected_TK), 0] - expected_TK).max() < 1e-4


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_height_colour_and_one_layer(tmp_path, suffix):
    reader, path = tall_and_coloured(), tmp_path / f"model{suffix}"
    agreement = export(reader, path, made_images(reader))
    assert agreement.images == 32
    images_BCHW = noise(2, 77, 3, 48)
    log_probs_TBK, _ = FORMS[suffix].load(path.read_bytes())(images_BCHW, np.array([77, 30]))
    assert np.abs(log_probs_TBK[:, 0] - of_network(reader.network, images_BCHW, 77)).max() < 1e-4


def test_the_variance_of_a_large_nearly_white_image_is_exact(exported):
    """onnxruntime adds one number to the next, and has to be kept from doing so with all pixels at once."""
    images_BCHW = np.full((1, 1, 32, 1000), 250, np.uint8)
    images_BCHW[:, :, :, ::5] = 243
    log_probs_TBK, _ = FORMS[".onnx"].load(exported[".onnx"].read_bytes())(images_BCHW, np.array([1000]))
    assert np.abs(log_probs_TBK[:, 0] - of_network(recognizer().network, images_BCHW, 1000)).max() < 2e-5


def test_the_metadata_say_all_that_is_outside_of_the_network(exported):
    import onnxruntime

    about = describe(recognizer())
    assert about["alphabet"] == ["a", "b", "c", "ſt", "é"]
    assert (about["blank"], about["height"], about["channels"]) == (5, 32, 1)
    found = onnxruntime.InferenceSession(exported[".onnx"]).get_modelmeta().custom_metadata_map
    assert {key: value if isinstance(about[key], str) else json.loads(value) for key, value in found.items()} == about
    files = {"raycrnn.json": ""}
    torch.export.load(exported[".pt2"], extra_files=files)
    assert json.loads(files["raycrnn.json"]) == about


def test_an_archive_runs_where_raycrnn_is_not_imported(exported):
    code = (
        "import sys, torch; network = torch.export.load(sys.argv[1]).module();"
        "log_probs, _ = network(torch.zeros(1, 1, 32, 50, dtype=torch.uint8), torch.tensor([50]));"
        "print(log_probs.shape, 'raycrnn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, exported[".pt2"]], capture_output=True, text=True, cwd="/")
    assert done.stdout == "torch.Size([11, 1, 6]) False\n", done.stderr


def test_the_example_reads_real_images_as_the_recogniser_does_by_greedy_decoding(exported, data_folder):
    paths = sorted(map(str, (data_folder("captcha4") / "images").glob("*.jpg")))[:40]
    paths += sorted(map(str, (data_folder("sroie_lines") / "images").glob("*")))[:40]
    done = subprocess.run(
        [sys.executable, EXAMPLE, exported[".onnx"], *paths], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    expected = recognizer(method="greedy", num_beam_paths=1)(paths)
    assert done.stdout.splitlines() == [f"{path}\t{found.text}" for path, found in zip(paths, expected, strict=True)]
    assert len({found.text for found in expected}) > 10


def test_the_example_needs_neither_raycrnn_nor_torch():
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


def test_made_images_go_from_the_least_width_to_the_greatest_and_are_mixed():
    arrays = list(made_images(tall_and_coloured()))
    assert {array.shape[0::2] for array in arrays} == {(48, 3)}
    widths = [array.shape[1] for array in arrays]
    assert (min(widths), max(widths)) == (8, 200)
    assert all(max(widths[i : i + 8]) > 2 * min(widths[i : i + 8]) for i in range(0, 24, 8))


# --- the verdict


def as_the_model(images_BCHW: np.ndarray, widths_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    padded = np.pad(images_BCHW, ((0, 0), (0, 0), (0, 0), (0, 4)))
    with torch.inference_mode():
        log_probs_TBK, frames_B = recognizer().network(torch.from_numpy(padded), torch.from_numpy(widths_B))
    return log_probs_TBK.numpy()[:-1].copy(), frames_B.numpy()


def test_the_model_itself_agrees_with_the_model():
    agreement = compare(recognizer(), as_the_model, made_images(recognizer()))
    assert (agreement.images, agreement.other_texts) == (32, 0)
    assert agreement.difference < 1e-4
    agreement.check("x")


def test_what_differs_is_measured():
    def changed(images_BCHW, widths_B):
        log_probs_TBK, frames_B = as_the_model(images_BCHW, widths_B)
        log_probs_TBK[-1] += change
        return log_probs_TBK, frames_B - lost

    change, lost = np.array([0, 0, 0, 0, 0, 0.01], np.float32), 0
    images = list(made_images(recognizer()))[-3:]
    assert compare(recognizer(), changed, images).difference == pytest.approx(0.01, rel=0.02)
    change = np.full(6, np.nan, np.float32)
    assert np.isnan(compare(recognizer(), changed, images).difference)
    change, lost = np.zeros(6, np.float32), 1
    assert compare(recognizer(), changed, images).difference == np.inf
    change, lost = np.array([50, 0, 0, 0, 0, 0], np.float32), 0
    assert compare(recognizer(), changed, images).other_texts > 0


@pytest.mark.parametrize(
    ("agreement", "said"),
    [
        (Agreement(0, 0.0, 0), "no image to compare"),
        (Agreement(9, 0.0005, 0), r"by up to 5\.0e-04 \(1e-04 is allowed\), the text 0 times in 9 images"),
        (Agreement(9, float("nan"), 0), "by up to nan"),
        (Agreement(9, 0.0, 2), "the text 2 times in 9 images"),
    ],
)
def test_what_is_not_the_same_is_refused_with_how_far_it_is_off(agreement, said):
    with pytest.raises(RaycrnnError, match=rf"x\.onnx: not written.*{said}"):
        agreement.check("x.onnx")


def form_that(monkeypatch, **changes) -> None:
    monkeypatch.setitem(FORMS, ".pt2", replace(FORMS[".pt2"], **{"write": lambda program, about: b"", **changes}))
    monkeypatch.setattr(graph, "trace", lambda recognizer: None)


@pytest.mark.parametrize("before", [None, b"an older one"])
def test_an_export_that_differs_leaves_the_folder_as_it_was(tmp_path, monkeypatch, before):
    def wrong(images_BCHW, widths_B):
        return as_the_model(images_BCHW, widths_B)[0] + 0.1, widths_B // 4 - 1

    form_that(monkeypatch, load=lambda data: wrong)
    path = tmp_path / "model.pt2"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(RaycrnnError, match=r"by up to 1\.0e-01"):
        export(recognizer(), path, made_images(recognizer()))
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == ({"model.pt2": before} if before else {})


def test_what_an_exporter_fails_with_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    def write(program, about):
        logging.getLogger("torch").warning("chatter")
        # As torch does where an exporter knows no translation of an operator.
        raise NotImplementedError("the operator x::y\nand its whole story")

    form_that(monkeypatch, write=write)
    recognizer().save(tmp_path / "model")
    assert Export.call([str(tmp_path / "model"), str(tmp_path / "m.pt2")], "export") == 1
    said = capsys.readouterr().err
    assert said.endswith("torch.export archive of this model that runs: the operator x::y\n")
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not logging.root.manager.disable


# --- the command


def test_the_command_compares_on_the_users_images_and_says_what_came_of_it(tmp_path, capsys):
    recognizer().save(tmp_path / "model")
    rows = write_set(tmp_path, words(11))
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    output = tmp_path / "model.pt2"
    output.write_bytes(b"an older one")
    arguments = [str(tmp_path / "model"), str(output), "--images", str(rows), "--images", str(tmp_path / "images")]
    assert Export.call([*arguments, "--overwrite"], "export") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{output}: torch.export archive, 0.")
    assert "compared with the model on 22 images:\nthe same text, log-probabilities within" in shown.out
    assert shown.err == f"left out: {tmp_path}/images/broken.png: not an image: 8 bytes in no known image format\n"
    assert torch.export.load(output)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("model", r"ends in \.onnx or \.pt2"),
        ("model.pt", r"ends in \.onnx or \.pt2"),
        ("folder.onnx", "is a directory"),
        ("nowhere/model.onnx", "there is no folder"),
        ("there.onnx", "already there; --overwrite replaces it"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_anything_is_read(tmp_path, output, said):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "there.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=said):
        Export(model="no model", output=f"{tmp_path}/{output}").run()


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(UsageError, match=r"ONNX needs onnxscript: pip install 'raycrnn\[onnx\]'"):
        Export(model="no model", output=f"{tmp_path}/m.onnx").run()


def test_images_that_are_not_there_are_refused_before_the_work(tmp_path):
    recognizer().save(tmp_path / "model")
    with pytest.raises(UsageError, match="no such CSV"):
        Export(model=str(tmp_path / "model"), output=f"{tmp_path}/m.pt2", images=["nothing.csv"]).run()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- object storage


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_model_is_exported_to_object_storage_and_is_the_same_there(tmp_path, bucket, capsys, suffix):
    recognizer().save(tmp_path / "model")
    output = storage.join(bucket, "some folder", f"model{suffix}")
    assert Export.call([str(tmp_path / "model"), output], "export") == 0
    data = storage.read(output)
    assert capsys.readouterr().out.startswith(f"{output}: {FORMS[suffix].name}, {len(data) / 1e6:.1f} MB\n")
    assert compare(recognizer(), FORMS[suffix].load(data), made_images(recognizer())).difference < 1e-4
    assert list(storage.names(bucket)) == [f"some folder/model{suffix}"]
    assert Export.call([str(tmp_path / "model"), output], "export") == 2
    assert f"{output}: already there; --overwrite replaces it" in capsys.readouterr().err


def test_what_is_in_object_storage_is_replaced_only_by_what_agrees(tmp_path, bucket, monkeypatch, capsys):
    recognizer().save(tmp_path / "model")
    output = storage.join(bucket, "model.pt2")
    storage.write(output, b"an older one")
    arguments = [str(tmp_path / "model"), output, "--overwrite"]
    form_that(monkeypatch, load=lambda data: lambda *given: (as_the_model(*given)[0] + 0.1, given[1] // 4 - 1))
    assert Export.call(arguments, "export") == 1
    assert f"{output}: not written" in capsys.readouterr().err
    assert storage.read(output) == b"an older one"
    form_that(monkeypatch, load=lambda data: as_the_model, write=lambda program, about: b"a newer one")
    assert Export.call(arguments, "export") == 0
    assert storage.read(output) == b"a newer one"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("model.pt", r"ends in \.onnx or \.pt2"),
        ("folder.onnx", "is a directory"),
        ("folder.onnx/", "is a directory"),
        ("a//model.onnx", "cannot be written: not a URI that can be read: two slashes"),
    ],
)
def test_names_in_object_storage_that_cannot_be_are_refused_before_anything_is_read(bucket, uri, said):
    storage.write(storage.join(bucket, "folder.onnx", "file"), b"")
    with pytest.raises(UsageError, match=said):
        Export(model="no model", output=storage.join(bucket, *uri.split("/"))).run()


def test_storage_that_refuses_an_export_is_named(tmp_path, bucket, monkeypatch, capsys):
    recognizer().save(tmp_path / "model")
    form_that(monkeypatch, load=lambda data: as_the_model)
    output = storage.join(bucket.replace("lines/", "nobody/", 1), "model.pt2")
    assert Export.call([str(tmp_path / "model"), output], "export") == 1
    assert f"{output}: cannot be written: " in capsys.readouterr().err
