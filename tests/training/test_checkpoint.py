"""Checkpoints are complete or absent, and damaged ones are skipped."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from raycrnn.training import checkpoint

TENSORS = {"network.weight": torch.arange(12.0).view(3, 4), "optimizer.0.step": torch.tensor(7.0)}


def test_save_and_latest_round_trip(tmp_path):
    state = {"progress": {"step": 7}, "alphabet": ["a", "ſ"]}
    checkpoint.save(tmp_path, 7, state, TENSORS)
    found, problems = checkpoint.latest(tmp_path)
    assert problems == []
    assert found.state == state
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
    ],
)
def test_a_copy_of_tensors_does_not_change_with_them(device):
    kernels = torch.randn(64, 8, 3, 3).to(memory_format=torch.channels_last)
    expected = {"kernels": kernels, "weight": torch.randn(512, 512), "step": torch.tensor(7.0)}
    tensors = {name: tensor.to(device, copy=True).requires_grad_() for name, tensor in expected.items()}
    copied = checkpoint.copy_tensors(tensors)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.add_(1)
    assert copied().keys() == expected.keys()
    for name, tensor in copied().items():
        assert (tensor.device.type, tensor.requires_grad) == ("cpu", False)
        assert torch.equal(tensor, expected[name])


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    for step in (1, 20, 300):
        checkpoint.save(tmp_path, step, {"step": step}, TENSORS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000020", "step_00000300"]


def test_a_missing_directory_has_no_checkpoint(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere") == (None, [])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tensors.safetensors", truncate),
        ("tensors.safetensors", flip),
        ("tensors.safetensors", lambda path: path.unlink()),
        ("state.json", truncate),
        ("state.json", lambda path: path.unlink()),
        ("state.json", lambda path: path.write_text("[]")),
        ("state.json", lambda path: path.write_text(json.dumps({"state": {}}))),
        ("state.json", lambda path: path.write_text(path.read_text().replace('"step": 2', '"step": 3'))),
        ("state.json", lambda path: path.write_text(path.read_text().replace('"format": 2', '"format": 1'))),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_loaded(tmp_path, name, damage):
    checkpoint.save(tmp_path, 1, {"step": 1}, TENSORS)
    checkpoint.save(tmp_path, 2, {"step": 2}, TENSORS)
    damage(tmp_path / "step_00000002" / name)
    found, problems = checkpoint.latest(tmp_path)
    assert found.state == {"step": 1}
    assert len(problems) == 1
    assert "step_00000002" in problems[0]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_failed_save_leaves_the_last_checkpoint_and_no_other_files(tmp_path, monkeypatch, name):
    checkpoint.save(tmp_path, 1, {"step": 1}, TENSORS)
    write_bytes = Path.write_bytes

    def write_until_full(path, data):
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, {"step": 2}, TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoint.latest(tmp_path)[0].state == {"step": 1}


def test_last_of_finds_the_last_complete_checkpoint_among_file_names(tmp_path):
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, step, {}, {"a": torch.zeros(1)})
    (tmp_path / "step_00000015" / "state.json").unlink()
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert checkpoint.last_of(names) == "step_00000010"
    assert checkpoint.last_of(["step_00000015", "step_00000015/tensors.safetensors", "state.json"]) is None
