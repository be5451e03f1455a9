"""An export from the model to the renamed file."""

import os
from dataclasses import replace

import pytest

from raycrnn.errors import RaycrnnError
from raycrnn.exporting import graph
from raycrnn.exporting.comparison import generate_images
from raycrnn.exporting.formats import FORMATS
from raycrnn.exporting.run import _write_output, export
from tests.exporting.test_comparison import as_the_model
from tests.model.test_recognizer import recognizer


def test_a_file_is_flushed_to_disk_before_it_is_renamed(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, path.exists())))
    path = tmp_path / "model.onnx"
    with _write_output(path) as temporary:
        temporary.write_bytes(b"whole")
    assert synced == [(5, False)]
    assert path.read_bytes() == b"whole"


def patch_format(monkeypatch, **changes) -> None:
    monkeypatch.setitem(FORMATS, ".pt2", replace(FORMATS[".pt2"], **{"write": lambda program, about: b"", **changes}))
    monkeypatch.setattr(graph, "trace", lambda recognizer: None)


@pytest.mark.parametrize("before", [None, b"an older one"])
def test_an_export_that_differs_leaves_the_folder_as_it_was(tmp_path, monkeypatch, before):
    def wrong(images_BCHW, widths_B):
        return as_the_model(images_BCHW, widths_B)[0] + 0.1, widths_B // 4 - 1

    patch_format(monkeypatch, load=lambda data: wrong)
    path = tmp_path / "model.pt2"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(RaycrnnError, match=r"by up to 1\.0e-01"):
        export(recognizer(), path, generate_images(recognizer()))
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == ({"model.pt2": before} if before else {})
