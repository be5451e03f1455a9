"""The compact files of language models."""

import numpy as np
import pytest
import safetensors.numpy

from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language import kneser_ney, model_files

MODEL = kneser_ney.estimate([("a", "b", "ſt"), ("b", " ")], 3)


def test_a_compact_file_is_read_as_the_same_model(tmp_path):
    (tmp_path / "x").write_bytes(model_files.to_bytes(MODEL))
    read = model_files.read(tmp_path / "x")
    assert read.units == MODEL.units
    assert read.digest == MODEL.digest
    assert read.log_probs([("a", "b", "b")]) == pytest.approx(MODEL.log_probs([("a", "b", "b")]))


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("keys"),
        lambda arrays: arrays.update(units=np.frombuffer(b"{", np.uint8)),
        lambda arrays: arrays.update(units=np.frombuffer(b'["a"]', np.uint8)),
        lambda arrays: arrays.update(keys=arrays["keys"][::-1].copy()),
        lambda arrays: arrays.update(keys=arrays["keys"] * 3),
        lambda arrays: arrays.update(log_probs=arrays["log_probs"][:-1]),
        lambda arrays: arrays.update(backoffs=arrays["backoffs"] * np.nan),
    ],
)
def test_a_damaged_compact_file_is_refused(tmp_path, change):
    arrays = dict(safetensors.numpy.load(model_files.to_bytes(MODEL)))
    change(arrays)
    (tmp_path / "x").write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(RaycrnnError, match="x: damaged"):
        model_files.read(tmp_path / "x")


def test_a_truncated_compact_file_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(model_files.to_bytes(MODEL)[:-5])
    with pytest.raises(RaycrnnError, match="x: damaged"):
        model_files.read(tmp_path / "x")


def test_a_binary_file_of_kenlm_is_refused_by_name(tmp_path):
    (tmp_path / "model.binary").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0\xff\xfe")
    with pytest.raises(UsageError, match=r"model\.binary: a binary file of KenLM or SRILM: name the ARPA file"):
        model_files.read(tmp_path / "model.binary")
