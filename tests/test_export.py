"""The verb export."""

import importlib.util
import logging

import pytest
import torch

from raycrnn import storage
from raycrnn.errors import UsageError
from raycrnn.export import Export
from raycrnn.model.recognizer import Recognizer
from tests.conftest import words, write_set
from tests.exporting.test_comparison import as_the_model
from tests.exporting.test_run import patch_format
from tests.model.test_recognizer import recognizer


def test_an_error_of_the_exporter_is_reported_in_one_line(tmp_path, monkeypatch, capsys):
    def write(program, about):
        logging.getLogger("torch").warning("chatter")
        # As torch does where an exporter knows no translation of an operator.
        raise NotImplementedError("the operator x::y\nand its whole story")

    level = logging.getLogger("torch").level
    patch_format(monkeypatch, write=write)
    recognizer().save(tmp_path / "model")
    assert Export.call([str(tmp_path / "model"), str(tmp_path / "m.pt2")], "export") == 1
    said = capsys.readouterr().err
    assert said.endswith("cannot export this model as torch.export archive: the operator x::y\n")
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert logging.getLogger("torch").level == level


def test_the_command_compares_on_the_users_images_and_prints_the_result(tmp_path, capsys):
    recognizer().save(tmp_path / "model")
    rows = write_set(tmp_path, words(11))
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    output = tmp_path / "model.pt2"
    output.write_bytes(b"an older one")
    arguments = [str(tmp_path / "model"), str(output), "--images", str(rows), "--images", str(tmp_path / "images")]
    assert Export.call([*arguments, "--overwrite"], "export") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{output}: torch.export archive, 0.")
    assert f"MB\nruns in torch {torch.__version__.partition('+')[0]}; older versions may refuse the file\n" in shown.out
    assert "compared with the model on 22 images:\nthe same text, log-probabilities within" in shown.out
    assert shown.err == f"left out: {tmp_path}/images/broken.png: not an image: a text file (8 bytes)\n"
    assert torch.export.load(output)


def test_the_command_says_that_a_lexicon_is_not_exported(tmp_path, capsys):
    recognizer().save(tmp_path / "model")
    Recognizer.load(tmp_path / "model", "cpu", lexicon=["ab"]).save(tmp_path / "restricted")
    assert Export.call([str(tmp_path / "restricted"), str(tmp_path / "model.pt2")], "export") == 0
    said = "the lexicon is not in the file, which ends with the network's log-probabilities"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("model", r"ends in \.onnx or \.pt2"),
        ("model.pt", r"ends in \.onnx or \.pt2"),
        ("folder.onnx", "is a directory"),
        ("nowhere/model.onnx", "there is no folder"),
        ("there.onnx", "already exists; --overwrite replaces it"),
    ],
)
def test_invalid_outputs_are_refused_before_anything_is_read(tmp_path, output, said):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "there.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=said):
        Export(model="no model", output=f"{tmp_path}/{output}").run()


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(UsageError, match=r"ONNX needs onnxscript: pip install 'raycrnn\[onnx\]'"):
        Export(model="no model", output=f"{tmp_path}/m.onnx").run()


def test_missing_images_are_refused_before_the_export(tmp_path):
    recognizer().save(tmp_path / "model")
    with pytest.raises(UsageError, match="no such CSV"):
        Export(model=str(tmp_path / "model"), output=f"{tmp_path}/m.pt2", images=["nothing.csv"]).run()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_is_exported_to_object_storage(tmp_path, bucket, monkeypatch, capsys):
    data = b"the exported network" * 20_000
    patch_format(monkeypatch, load=lambda data: as_the_model, write=lambda program, about: data)
    recognizer().save(tmp_path / "model")
    output = storage.join(bucket, "some folder", "model.pt2")
    assert Export.call([str(tmp_path / "model"), output], "export") == 0
    assert storage.read(output) == data
    assert capsys.readouterr().out.startswith(f"{output}: torch.export archive, 0.4 MB\n")
    assert list(storage.names(bucket)) == ["some folder/model.pt2"]
    assert Export.call([str(tmp_path / "model"), output], "export") == 2
    assert f"{output}: already exists; --overwrite replaces it" in capsys.readouterr().err


def test_a_file_in_object_storage_is_replaced_only_if_the_export_agrees(tmp_path, bucket, monkeypatch, capsys):
    recognizer().save(tmp_path / "model")
    output = storage.join(bucket, "model.pt2")
    storage.write(output, b"an older one")
    arguments = [str(tmp_path / "model"), output, "--overwrite"]
    patch_format(monkeypatch, load=lambda data: lambda *given: (as_the_model(*given)[0] + 0.1, given[1] // 4 - 1))
    assert Export.call(arguments, "export") == 1
    assert f"{output}: not written" in capsys.readouterr().err
    assert storage.read(output) == b"an older one"
    patch_format(monkeypatch, load=lambda data: as_the_model, write=lambda program, about: b"a newer one")
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
def test_invalid_names_in_object_storage_are_refused_before_anything_is_read(bucket, uri, said):
    storage.write(storage.join(bucket, "folder.onnx", "file"), b"")
    with pytest.raises(UsageError, match=said):
        Export(model="no model", output=storage.join(bucket, *uri.split("/"))).run()


def test_storage_that_refuses_an_export_is_named(tmp_path, bucket, monkeypatch, capsys):
    recognizer().save(tmp_path / "model")
    patch_format(monkeypatch, load=lambda data: as_the_model)
    output = storage.join(bucket.replace("lines/", "nobody/", 1), "model.pt2")
    assert Export.call([str(tmp_path / "model"), output], "export") == 1
    assert f"{output}: cannot be written: " in capsys.readouterr().err
