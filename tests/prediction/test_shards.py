"""The shards of an output that is being written."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from raycrnn import storage
from raycrnn.errors import RaycrnnError, UsageError, WriteError
from raycrnn.prediction import shards
from raycrnn.prediction.formats import ROWS, Layout
from raycrnn.prediction.shards import ShardWriter
from raycrnn.storage import files
from tests.prediction.test_formats import numbered

JOB = {"images": 9, "the model's config.json": {"sha256": "ab"}}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture(params=["disk", "object storage"])
def place(request, tmp_path):
    """Return the path or URI of an output."""
    if request.param == "disk":
        return str(tmp_path / "out.jsonl")
    return storage.join(request.getfixturevalue("bucket"), "some folder", "out.jsonl")


def beside(place: str, *names: str) -> str:
    return storage.resolve_relative(place, "/".join(names))


def put(place: str, data: bytes) -> None:
    storage.write(place, data) if storage.is_uri(place) else Path(place).write_bytes(data)


def names_beside(place: str) -> list[str]:
    """Return the names in the folder of an output."""
    folder = beside(place, "")
    return sorted(storage.listdir(folder) if storage.is_uri(folder) else os.listdir(folder))


def fill(store: shards.ShardStore, first: int, *stops: int) -> None:
    filling = ShardWriter(store, first)
    for stop in stops:
        filling.write(numbered(filling.first, stop))
        filling.close()


def stop_after(output, *stops: int) -> None:
    with shards.open_shards(output, JOB, 9, False, False) as store:
        fill(store, 0, *stops)


def paths(output) -> list[str]:
    return [json.loads(line)["path"] for line in storage.read(output).decode().splitlines()]


def test_finished_shards_become_the_output_and_are_deleted(place):
    with shards.open_shards(place, JOB, 9, False, False) as store:
        assert store.missing() == [(0, 9)]
        fill(store, 0, 4, 9)
        assert store.missing() == []
        assert names_beside(place) == [".out.jsonl.parts"]
        assert store.finish(Layout("jsonl")) == 9
    assert paths(place) == [str(number) for number in range(9)]
    assert names_beside(place) == ["out.jsonl"]


def test_a_shard_is_written_when_it_is_large_or_took_long(output, monkeypatch):
    with shards.open_shards(output, JOB, 9, False, False) as store:
        monkeypatch.setattr(shards, "ROWS_PER_SHARD", 3)
        filling = ShardWriter(store, 0)
        for number in range(4):
            filling.write(numbered(number, number + 1))
        assert store.missing() == [(3, 9)]
        monkeypatch.setattr(shards, "SECONDS_PER_SHARD", 0)
        filling.write(ROWS.empty_table())
        assert store.missing() == [(4, 9)]


def test_a_resumed_run_writes_the_missing_shards(place):
    stop_after(place, 2, 4)
    with shards.open_shards(place, JOB, 9, True, False) as store:
        assert store.missing() == [(4, 9)]
        fill(store, 4, 9)
        store.finish(Layout("jsonl"))
    assert paths(place) == [str(number) for number in range(9)]
    assert names_beside(place) == ["out.jsonl"]


@pytest.mark.parametrize("damage", [lambda data: data[:-50], lambda data: data[:20] + b"?" + data[21:], lambda _: b""])
def test_a_damaged_shard_is_named_and_written_again(place, damage, capsys):
    stop_after(place, 2, 4, 6)
    shard = beside(place, ".out.jsonl.parts", "000000000002_000000000004.parquet")
    put(shard, damage(storage.read(shard)))
    with shards.open_shards(place, JOB, 9, True, False) as store:
        assert store.missing() == [(2, 4), (6, 9)]
        assert f"{shard}: damaged" in capsys.readouterr().err
        fill(store, 6, 9)
        fill(store, 2, 3, 4)
        store.finish(Layout("jsonl"))
    assert paths(place) == [str(number) for number in range(9)]


def test_a_stopped_run_is_deleted_only_on_request(place):
    stop_after(place, 2)
    with (
        pytest.raises(UsageError, match=r"--resume continues it(.|\n)*--overwrite starts over"),
        hold(place, False, False),
    ):
        pass
    with hold(place, True, False) as store:
        assert store.missing() == [(2, 9)]
    with hold(place, False, True) as store:
        assert store.missing() == [(0, 9)]
    assert names_beside(place) == []


def hold(output, resume, overwrite, job=JOB):
    return shards.open_shards(output, job, 9, resume, overwrite)


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({**JOB, "images": 8}, "images: 9 then, 8 now"),
        ({**JOB, "the model's config.json": {"sha256": "cd"}}, "the model's config.json changed"),
        ({"images": 9}, "the model's config.json changed"),
    ],
)
def test_resuming_a_different_run_is_refused_with_the_difference(place, job, said):
    stop_after(place, 2)
    with pytest.raises(UsageError, match=said), hold(place, True, False, job):
        pass
    with hold(place, True, False) as store:
        assert store.missing() == [(2, 9)]


def delete(place: str) -> None:
    storage.delete(place) if storage.is_uri(place) else os.unlink(place)


@pytest.mark.parametrize("damage", [delete, lambda place: put(place, b"{")])
def test_a_stopped_run_without_its_record_can_only_be_started_over(place, damage):
    stop_after(place, 2)
    damage(beside(place, ".out.jsonl.parts", "job.json"))
    with pytest.raises(UsageError, match=r"cannot be resumed(.|\n)*--overwrite starts over"), hold(place, True, False):
        pass
    with hold(place, False, True) as store:
        assert store.missing() == [(0, 9)]


def test_files_with_other_names_are_not_shards(output):
    stop_after(output, 2)
    folder = output.parent / ".out.jsonl.parts"
    for name in ("000000000002_000000000009 (1).parquet", "2_9.parquet", "000000000002_000000000009.parquet.tmp"):
        (folder / name).write_bytes(b"stray")
    (folder / "folder").mkdir()
    with hold(output, True, False) as store:
        assert store.missing() == [(2, 9)]
        fill(store, 2, 9)
        store.finish(Layout("jsonl"))
    assert os.listdir(output.parent) == ["out.jsonl"]
    (folder / "folder").mkdir(parents=True)
    with hold(output, False, True) as store:
        assert store.missing() == [(0, 9)]


def test_a_kill_while_shards_are_deleted_leaves_no_partial_run(output, monkeypatch):
    with monkeypatch.context() as patch, hold(output, False, False) as store:
        fill(store, 0, 9)
        patch.setattr(shards.shutil, "rmtree", lambda *_, **__: None)
        store.finish(Layout("jsonl"))
        left = sorted(os.listdir(output.parent))
    assert left == [".out.jsonl.parts.finished", "out.jsonl"]
    with hold(output, False, True) as store:
        fill(store, 0, 9)
        store.finish(Layout("jsonl"))
    assert os.listdir(output.parent) == ["out.jsonl"]


def test_an_output_that_was_created_during_the_run_stays(place):
    with hold(place, False, False) as store:
        fill(store, 0, 9)
        put(place, b"precious")
        with pytest.raises(RaycrnnError, match="was created while this command ran"):
            store.finish(Layout("jsonl"))
    assert storage.read(place) == b"precious"
    with hold(place, True, True) as store:
        assert store.finish(Layout("jsonl")) == 9
    assert paths(place) == [str(number) for number in range(9)]


def test_a_run_without_finished_rows_leaves_nothing(place, capsys):
    with pytest.raises(RuntimeError), hold(place, True, False):
        raise RuntimeError
    assert "nothing to resume" in capsys.readouterr().err
    assert names_beside(place) == []


def test_two_commands_cannot_write_one_output(output):
    with hold(output, False, False) as store:
        fill(store, 0, 2)
        for resume, overwrite in ((False, False), (True, False), (False, True)):
            with pytest.raises(UsageError, match="another command writes it"), hold(output, resume, overwrite):
                pass
        assert store.missing() == [(2, 9)]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from raycrnn.prediction import formats, shards
from raycrnn.errors import RaycrnnError
from tests.prediction.test_shards import JOB, fill

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for what in sys.argv[2:]:
    with shards.open_shards(Path(sys.argv[1], what), JOB, 9, False, False) as store:
        fill(store, 0, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, most))
        try:
            fill(store, 2, 9) if what == "shard" else store.finish(formats.Layout(what))
        except RaycrnnError as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""


def test_a_full_disk_is_reported_and_finished_rows_stay(tmp_path):
    """A limit of the process on the size of files, ten bytes, stands for the full disk."""
    written = ["shard", "csv", "jsonl", "parquet"]
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), *written]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for what, said in zip(written, done.stdout.splitlines(), strict=True):
        assert said.startswith(str(tmp_path)) and what in said
        assert said.endswith("File too large; finished rows are kept, and --resume continues")
        assert not (tmp_path / what).exists()
        with hold(tmp_path / what, True, False) as store:
            assert store.missing() == [(2, 9)]


def test_a_shard_that_is_damaged_before_the_end_is_named(output):
    with hold(output, False, False) as store:
        fill(store, 0, 9)
        store.shards()[0].path.write_bytes(b"rotten")
        with pytest.raises(RaycrnnError, match=r"damaged (.|\n)*; --resume reads its images again"):
            store.finish(Layout("csv"))
    assert not output.exists()


# --- shards in object storage


@pytest.fixture
def uri(bucket):
    return storage.join(bucket, "out.jsonl")


@pytest.mark.parametrize(
    ("output", "folder"),
    [
        ("/lines/out.csv", "/lines/.out.csv.parts"),
        ("s3://b/my%20lines/a%3Fb.csv?region=eu-west-1", "s3://b/my%20lines/.a%3Fb.csv.parts?region=eu-west-1"),
    ],
)
def test_shards_are_beside_their_output(output, folder):
    assert shards.folder_of(output) == folder


KILLED = """
import os, signal, sys
from raycrnn.prediction import shards
from raycrnn.storage import files
from tests.prediction.test_shards import JOB, fill

def upload(file, uri, upload=files.upload):
    if file.name == "000000000004_000000000006.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    upload(file, uri)

files.upload = upload
with shards.open_shards(sys.argv[1], JOB, 9, False, False) as store:
    fill(store, 0, 2, 4, 6)
"""


def test_another_machine_resumes_a_run_whose_machine_is_lost(uri):
    assert subprocess.run([sys.executable, "-c", KILLED, uri]).returncode == -signal.SIGKILL
    with hold(uri, True, False) as store:
        assert store.missing() == [(4, 9)]
        fill(store, 4, 9)
        assert store.finish(Layout("jsonl")) == 9
    assert paths(uri) == [str(number) for number in range(9)]
    assert names_beside(uri) == ["out.jsonl"]


def test_claiming_an_output_ends_the_command_that_claimed_it_before(uri):
    overtaken = pytest.raises(RaycrnnError, match=r"out\.jsonl\S+: another command has started to write it")
    with hold(uri, False, False) as first:
        fill(first, 0, 2)
        with pytest.raises(UsageError, match="--resume continues"), hold(uri, False, False):
            pass
        fill(first, 2, 4)
        with hold(uri, True, False) as second:
            assert second.missing() == [(4, 9)]
            with overtaken:
                fill(first, 4, 6)
            fill(second, 4, 9)
            assert second.finish(Layout("jsonl")) == 9
        with overtaken:
            first.finish(Layout("jsonl"))
    assert paths(uri) == [str(number) for number in range(9)]


def test_a_command_without_finished_rows_deletes_nothing_of_the_next_one(uri):
    with ExitStack() as first:
        first.enter_context(hold(uri, False, False))
        with hold(uri, False, False) as second:
            first.close()
            fill(second, 0, 2)
    with hold(uri, True, False) as store:
        assert store.missing() == [(2, 9)]


def test_rows_in_two_shards_are_written_once(uri):
    """Two shards overlap if another command claimed the output during an upload."""
    stop_after(uri, 2, 4)
    shard = io.BytesIO()
    pq.write_table(numbered(1, 3), shard, write_page_checksum=True)
    put(beside(uri, ".out.jsonl.parts", "000000000001_000000000003.parquet"), shard.getvalue())
    with hold(uri, True, False) as store:
        assert store.missing() == [(4, 9)]
        fill(store, 4, 9)
        store.finish(Layout("jsonl"))
    assert paths(uri) == [str(number) for number in range(9)]


def test_storage_that_stops_answering_is_named_and_finished_rows_stay(bucket, object_store, monkeypatch):
    # Two servers of one process share their buckets.
    monkeypatch.setattr(files, "RETRY_SECONDS", 1.0)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    uri = storage.join(bucket.replace(object_store, "{}:{}".format(*server.get_host_and_port())), "out.jsonl")
    with pytest.raises(WriteError) as told, hold(uri, False, False) as store:
        fill(store, 0, 2)
        server.stop()
        fill(store, 2, 9)
    assert f"{shards.folder_of(uri)}: cannot be written: " in str(told.value)
    assert str(told.value).endswith("finished rows are kept, and --resume continues")
    with hold(storage.join(bucket, "out.jsonl"), True, False) as store:
        assert store.missing() == [(2, 9)]


def test_storage_that_refuses_is_reported_before_anything_is_read(bucket):
    nowhere = storage.join(bucket.replace("lines/", "nobody/", 1), "out.jsonl")
    with pytest.raises(UsageError, match="cannot be written"), hold(nowhere, False, False):
        pass


def test_the_output_is_written_although_the_storage_cannot_delete_shards(uri, monkeypatch, capsys):
    def refuse(uri):
        raise PermissionError(13, "access denied")

    with hold(uri, False, False) as store:
        fill(store, 0, 9)
        monkeypatch.setattr(files, "delete", refuse)
        assert store.finish(Layout("jsonl")) == 9
    assert "no longer needed, but cannot be deleted: access denied" in capsys.readouterr().err
    assert paths(uri) == [str(number) for number in range(9)]
