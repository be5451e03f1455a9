"""Prediction runs that are stopped, and resumed."""

import json
import os
import signal
import subprocess
import sys

import pytest

from raycrnn import storage
from raycrnn.console import ImageProgress
from raycrnn.model.recognizer import Recognizer
from raycrnn.predict import Predict
from raycrnn.prediction import shards
from raycrnn.storage import files
from tests.test_predict import rows


@pytest.fixture(params=["disk", "object storage"])
def folder(request, tmp_path):
    """The path or URI of a folder to write in."""
    if request.param == "object storage":
        return storage.join(request.getfixturevalue("bucket"), "some folder")
    (tmp_path / "out").mkdir()
    return str(tmp_path / "out")


def test_a_run_that_the_storage_stopped_is_resumed(model, listed, bucket, capsys, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 64)
    out, upload = storage.join(bucket, "out.csv"), storage.upload

    def refuse(file, uri):
        if file.name.startswith("000000000064"):
            raise PermissionError(13, "access denied")
        upload(file, uri)

    with monkeypatch.context() as patch:
        patch.setattr(files, "upload", refuse)
        assert Predict.call([model, listed, "-o", out], "predict") == 1
    said = capsys.readouterr().err
    assert f"{shards.folder_of(out)}: cannot be written: access denied; finished rows are kept, and --resume" in said
    assert Predict.call([model, listed, "-o", out, "--resume"], "predict") == 0
    assert "64 of 200 images were read before" in capsys.readouterr().err
    assert len(rows(storage.read(out).decode())) == 200


def test_ctrl_c_keeps_finished_rows_and_resume_continues(model, listed, folder, tmp_path, capsys, monkeypatch):
    out, whole = storage.join(folder, "out.csv"), tmp_path / "whole.csv"
    assert Predict.call([model, listed, "-o", str(whole)], "predict") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        press_ctrl_c_after_the_first_block(patch)
        assert Predict.call([model, listed, "-o", out], "predict") == 130
    assert "stopped at 64 of 200 images; --resume continues" in capsys.readouterr().err
    assert names_in(folder) == [".out.csv.parts"]
    for arguments, said in [
        ([], "--resume continues it, --overwrite starts over"),
        (["--resume", "decoding.beam_width=7"], "decoding.beam_width: 10 then, 7 now"),
        (["--resume", "--format", "jsonl", "--spans"], "--spans or --format=labels: False then, True now"),
        (["--resume", "data.unicode_form=NFD"], "data.unicode_form: NFC then, NFD now"),
    ]:
        assert Predict.call([model, listed, "-o", out, *arguments], "predict") == 2
        assert said in capsys.readouterr().err
    assert Predict.call([model, listed, "-o", out, "--resume"], "predict") == 0
    said = capsys.readouterr().err
    assert "64 of 200 images were read before" in said
    assert "198 of 200 images read" in said
    assert storage.read(out) == whole.read_bytes()
    assert names_in(folder) == ["out.csv"]
    for arguments, said in [
        ([], "already exists; --overwrite replaces it"),
        (["--resume"], "already exists, and there is no run to resume; --overwrite replaces it"),
    ]:
        assert Predict.call([model, listed, "-o", out, *arguments], "predict") == 2
        assert said in capsys.readouterr().err


def names_in(folder: str) -> list[str]:
    return sorted(storage.listdir(folder) if storage.is_uri(folder) else os.listdir(folder))


def press_ctrl_c_after_the_first_block(patch: pytest.MonkeyPatch) -> None:
    add = ImageProgress.add

    def pressing(progress: ImageProgress, images: int) -> None:
        add(progress, images)
        if images:
            os.kill(os.getpid(), signal.SIGINT)

    patch.setattr(ImageProgress, "add", pressing)


def test_the_labels_of_a_stopped_run_are_those_of_a_whole_one_after_it_is_resumed(
    model, listed, tmp_path, capsys, monkeypatch
):
    out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    assert Predict.call([model, listed, "--format=labels", "-o", str(whole)], "predict") == 0
    with monkeypatch.context() as patch:
        press_ctrl_c_after_the_first_block(patch)
        assert Predict.call([model, listed, "--format=labels", "-o", str(out)], "predict") == 130
    capsys.readouterr()
    assert Predict.call([model, listed, "--format=labels", "-o", str(out), "--resume"], "predict") == 0
    assert "64 of 200 images were read before" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes() and out.read_bytes().count(b"\n") == 198


MANY = 8_000
"""So many images take some seconds to read."""

KILLED_AFTER_ONE_SHARD = """
import os, signal
from raycrnn.predict import Predict
from raycrnn.prediction.shards import ShardStore

add = ShardStore.add

def add_and_die(*arguments):
    add(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

ShardStore.add = add_and_die
Predict.main()
"""


@pytest.mark.ray
@pytest.mark.long
def test_a_killed_command_resumes_and_writes_the_same_output(model, images, tmp_path):
    many = tmp_path / "many.csv"
    many.write_text("".join(f"images/{number % 4}.png;x\n" for number in range(MANY)))
    (folder := tmp_path / "out").mkdir()
    out = str(folder / "out.jsonl")
    arguments = [model, str(many), "--address", "local", "-o", out]
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_ONE_SHARD, *arguments])
    assert killed.returncode == -signal.SIGKILL
    assert names_in(folder) == [".out.jsonl.parts"]
    command = [sys.executable, "-m", "raycrnn.predict", *arguments, "--resume"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f" of {MANY:,} images were read before" in done.stderr
    assert names_in(folder) == ["out.jsonl"]
    found = [json.loads(line) for line in storage.read(out).splitlines()]
    assert len(found) == MANY
    expected = Recognizer.load(model, "cpu")([images / f"{number}.png" for number in range(4)])
    for number, row in enumerate(found):
        assert (row["path"], row["text"], row["error"]) == (f"images/{number % 4}.png", expected[number % 4].text, None)
        # The batches differ.
        assert row["log_prob"] == pytest.approx(expected[number % 4].log_prob, abs=1e-3)
