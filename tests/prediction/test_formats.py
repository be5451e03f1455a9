"""What predict writes, and the shards of an output that is under way."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from raycrnn import storage
from raycrnn.errors import RaycrnnError, UsageError, WriteError
from raycrnn.prediction import formats, shards
from raycrnn.prediction.formats import ROWS, Layout
from raycrnn.prediction.shards import ShardWriter
from raycrnn.storage import files

JOB = {"images": 9, "the model's config.json": {"sha256": "ab"}}

READ = {"path": "a.png", "text": 'say "a", b\n', "score": 1.5, "confidence": 0.25, "log_prob": -0.5, "error": None}

OTHER = {"text": "c", "confidence": 0.125, "log_prob": -2.0}

UNIT = {"text": "a", "confidence": 0.5, "left": 0, "right": 7}

FAILED = {**dict.fromkeys(ROWS.names), "path": "b.png", "error": "no such file: b.png"}


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), ROWS)


def read(**values) -> dict:
    return {**READ, "alternatives": [OTHER], "units": None, **values}


def numbered(first: int, stop: int) -> pa.Table:
    return table(*(read(path=str(number)) for number in range(first, stop)))


def write(layout: Layout, *tables: pa.Table) -> bytes:
    buffer = io.BytesIO()
    file = buffer if layout.format == "parquet" else io.TextIOWrapper(buffer, "utf-8", newline="", write_through=True)
    writer = formats.make_writer(file, layout)
    for each in tables:
        writer.write(each)
    writer.close()
    assert writer.read == sum(row["error"] is None for each in tables for row in each.to_pylist())
    return buffer.getvalue()


# --- formats


def test_csv_has_the_columns_that_are_asked_for():
    rows = list(csv.reader(io.StringIO(write(Layout("csv", 3), table(read(), FAILED)).decode(), newline="")))
    assert rows == [
        ["path", "text", "score", "error", "text_2", "score_2", "text_3", "score_3"],
        ["a.png", READ["text"], "1.5000", "", "c", "-1.5000", "", ""],
        ["b.png", "", "", "no such file: b.png", "", "", "", ""],
    ]
    rows = list(csv.reader(io.StringIO(write(Layout("csv", 2, confidence=True), table(read(), FAILED)).decode())))
    assert rows[0] == ["path", "text", "score", "error", "confidence", "text_2", "score_2"]
    assert [row[4] for row in rows[1:]] == ["0.2500", ""]


def test_csv_on_stdout_ends_lines_in_lf_and_quotes_every_line_end_in_a_field(monkeypatch):
    stdout = io.StringIO(newline="")
    monkeypatch.setattr(formats.sys, "stdout", stdout)
    formats.make_writer(stdout, Layout("csv")).write(
        table(read(path="a\rb", text="c\nd\r\n"), read(path="x", text="y"))
    )
    assert stdout.getvalue() == 'path,text,score,error\n"a\rb","c\nd\r\n",1.5000,\nx,y,1.5000,\n'


def test_json_lines_carry_all_and_of_a_failure_the_error():
    lines = write(Layout("jsonl"), table(read(), read(units=[UNIT]), FAILED)).decode().splitlines()
    records = [json.loads(line) for line in lines]
    assert records[0] == {**READ, "alternatives": [OTHER]}
    assert records[1] == {**READ, "alternatives": [OTHER], "units": [UNIT]}
    assert records[2] == {"path": "b.png", "text": None, "score": None, "error": "no such file: b.png"}


@pytest.mark.parametrize("spans", [False, True])
def test_parquet_has_typed_columns_that_pandas_reads(spans, monkeypatch):
    monkeypatch.setattr(formats, "ROWS_A_GROUP", 4)
    units = [UNIT] if spans else None
    tables = [table(read(units=units), FAILED), *(table(read(units=units)) for _ in range(5))]
    data = write(Layout("parquet", spans=spans), *tables)
    names = [name for name in ROWS.names if spans or name != "units"]
    file = pq.ParquetFile(io.BytesIO(data))
    assert file.schema_arrow.equals(pa.schema([ROWS.field(name) for name in names]))
    assert file.read().to_pylist() == pa.concat_tables(tables).select(names).to_pylist()
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [4, 3]
    frame = pandas.read_parquet(io.BytesIO(data))
    assert list(frame.columns) == names
    assert frame["confidence"].dtype == float
    assert frame["alternatives"][0][0]["text"] == "c"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)))
def test_any_text_comes_back_from_every_format(texts):
    rows = table(*(read(text=text) for text in texts))
    layouts = {form: write(Layout(form), rows) for form in ("csv", "jsonl", "parquet")}
    assert [row["text"] for row in csv.DictReader(io.StringIO(layouts["csv"].decode(), newline=""))] == texts
    assert [json.loads(line)["text"] for line in layouts["jsonl"].decode().split("\n")[:-1]] == texts
    assert pq.read_table(io.BytesIO(layouts["parquet"]))["text"].to_pylist() == texts


# --- shards


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture(params=["disk", "object storage"])
def place(request, tmp_path):
    """The path or URI of an output."""
    if request.param == "disk":
        return str(tmp_path / "out.jsonl")
    return storage.join(request.getfixturevalue("bucket"), "some folder", "out.jsonl")


def beside(place: str, *names: str) -> str:
    return storage.resolve_relative(place, "/".join(names))


def put(place: str, data: bytes) -> None:
    storage.write(place, data) if storage.is_uri(place) else Path(place).write_bytes(data)


def left(place: str) -> list[str]:
    """Names of what lies where an output is."""
    folder = beside(place, "")
    return sorted(storage.listdir(folder) if storage.is_uri(folder) else os.listdir(folder))


def fill(parts: shards.ShardStore, first: int, *stops: int) -> None:
    filling = ShardWriter(parts, first)
    for stop in stops:
        filling.write(numbered(filling.first, stop))
        filling.close()


def stop_after(output, *stops: int) -> None:
    with shards.open_shards(output, JOB, 9, False, False) as parts:
        fill(parts, 0, *stops)


def paths(output) -> list[str]:
    return [json.loads(line)["path"] for line in storage.read(output).decode().splitlines()]


def test_shards_become_the_output_and_are_gone(place):
    with shards.open_shards(place, JOB, 9, False, False) as parts:
        assert parts.missing() == [(0, 9)]
        fill(parts, 0, 4, 9)
        assert parts.missing() == []
        assert left(place) == [".out.jsonl.parts"]
        assert parts.finish(Layout("jsonl")) == 9
    assert paths(place) == [str(number) for number in range(9)]
    assert left(place) == ["out.jsonl"]


def test_a_shard_is_closed_when_it_is_large_or_took_long(output, monkeypatch):
    with shards.open_shards(output, JOB, 9, False, False) as parts:
        monkeypatch.setattr(shards, "ROWS_A_SHARD", 3)
        filling = ShardWriter(parts, 0)
        for number in range(4):
            filling.write(numbered(number, number + 1))
        assert parts.missing() == [(3, 9)]
        monkeypatch.setattr(shards, "SECONDS_A_SHARD", 0)
        filling.write(ROWS.empty_table())
        assert parts.missing() == [(4, 9)]


def test_a_resumed_run_makes_what_is_missing(place):
    stop_after(place, 2, 4)
    with shards.open_shards(place, JOB, 9, True, False) as parts:
        assert parts.missing() == [(4, 9)]
        fill(parts, 4, 9)
        parts.finish(Layout("jsonl"))
    assert paths(place) == [str(number) for number in range(9)]
    assert left(place) == ["out.jsonl"]


@pytest.mark.parametrize("damage", [lambda data: data[:-50], lambda data: data[:20] + b"?" + data[21:], lambda _: b""])
def test_a_damaged_shard_is_named_and_made_again(place, damage, capsys):
    stop_after(place, 2, 4, 6)
    shard = beside(place, ".out.jsonl.parts", "000000000002_000000000004.parquet")
    put(shard, damage(storage.read(shard)))
    with shards.open_shards(place, JOB, 9, True, False) as parts:
        assert parts.missing() == [(2, 4), (6, 9)]
        assert f"{shard}: damaged" in capsys.readouterr().err
        fill(parts, 6, 9)
        fill(parts, 2, 3, 4)
        parts.finish(Layout("jsonl"))
    assert paths(place) == [str(number) for number in range(9)]


def test_a_stopped_run_is_never_deleted_unasked(place):
    stop_after(place, 2)
    with pytest.raises(UsageError, match=r"--resume goes on(.|\n)*--overwrite starts anew"), hold(place, False, False):
        pass
    with hold(place, True, False) as parts:
        assert parts.missing() == [(2, 9)]
    with hold(place, False, True) as parts:
        assert parts.missing() == [(0, 9)]
    assert left(place) == []


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
def test_another_run_is_refused_by_what_differs(place, job, said):
    stop_after(place, 2)
    with pytest.raises(UsageError, match=said), hold(place, True, False, job):
        pass
    with hold(place, True, False) as parts:
        assert parts.missing() == [(2, 9)]


def delete(place: str) -> None:
    storage.delete(place) if storage.is_uri(place) else os.unlink(place)


@pytest.mark.parametrize("damage", [delete, lambda place: put(place, b"{")])
def test_a_stopped_run_of_which_nobody_can_say_what_it_was_is_only_started_anew(place, damage):
    stop_after(place, 2)
    damage(beside(place, ".out.jsonl.parts", "job.json"))
    with pytest.raises(UsageError, match=r"cannot be resumed(.|\n)*--overwrite starts anew"), hold(place, True, False):
        pass
    with hold(place, False, True) as parts:
        assert parts.missing() == [(0, 9)]


def test_what_is_no_shard_by_its_name_is_none(output):
    stop_after(output, 2)
    folder = output.parent / ".out.jsonl.parts"
    for name in ("000000000002_000000000009 (1).parquet", "2_9.parquet", "000000000002_000000000009.parquet.tmp"):
        (folder / name).write_bytes(b"stray")
    (folder / "folder").mkdir()
    with hold(output, True, False) as parts:
        assert parts.missing() == [(2, 9)]
        fill(parts, 2, 9)
        parts.finish(Layout("jsonl"))
    assert os.listdir(output.parent) == ["out.jsonl"]
    (folder / "folder").mkdir(parents=True)
    with hold(output, False, True) as parts:
        assert parts.missing() == [(0, 9)]


def test_a_kill_while_shards_are_deleted_leaves_no_half_run(output, monkeypatch):
    with monkeypatch.context() as patch, hold(output, False, False) as parts:
        fill(parts, 0, 9)
        patch.setattr(shards.shutil, "rmtree", lambda *_, **__: None)
        parts.finish(Layout("jsonl"))
        left = sorted(os.listdir(output.parent))
    assert left == [".out.jsonl.parts.finished", "out.jsonl"]
    with hold(output, False, True) as parts:
        fill(parts, 0, 9)
        parts.finish(Layout("jsonl"))
    assert os.listdir(output.parent) == ["out.jsonl"]


def test_an_output_that_somebody_made_meanwhile_stays(place):
    with hold(place, False, False) as parts:
        fill(parts, 0, 9)
        put(place, b"precious")
        with pytest.raises(RaycrnnError, match="made it meanwhile"):
            parts.finish(Layout("jsonl"))
    assert storage.read(place) == b"precious"
    with hold(place, True, True) as parts:
        assert parts.finish(Layout("jsonl")) == 9
    assert paths(place) == [str(number) for number in range(9)]


def test_a_run_without_finished_rows_leaves_nothing(place, capsys):
    with pytest.raises(RuntimeError), hold(place, True, False):
        raise RuntimeError
    assert "nothing to resume" in capsys.readouterr().err
    assert left(place) == []


def test_two_commands_cannot_write_one_output(output):
    with hold(output, False, False) as parts:
        fill(parts, 0, 2)
        for resume, overwrite in ((False, False), (True, False), (False, True)):
            with pytest.raises(UsageError, match="another command writes it"), hold(output, resume, overwrite):
                pass
        assert parts.missing() == [(2, 9)]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from raycrnn.prediction import formats, shards
from raycrnn.errors import RaycrnnError
from tests.prediction.test_formats import JOB, fill

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with shards.open_shards(Path(sys.argv[1]), JOB, 9, False, False) as parts:
    fill(parts, 0, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    try:
        fill(parts, 2, 9) if sys.argv[2] == "shard" else parts.finish(formats.Layout(sys.argv[2]))
    except RaycrnnError as error:
        print(error)
"""


@pytest.mark.parametrize("what", ["shard", "csv", "jsonl", "parquet"])
def test_a_disk_that_takes_no_more_is_told_and_what_is_finished_stays(output, what):
    """Files of at most ten bytes, which a limit of the process gives, stand for the disk."""
    command = [sys.executable, "-c", FULL_DISK, str(output), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "out.jsonl" in done.stdout
    assert "File too large; finished rows are kept, and --resume goes on" in done.stdout
    assert done.stderr == ""
    assert not output.exists()
    with hold(output, True, False) as parts:
        assert parts.missing() == [(2, 9)]


def test_a_shard_that_rots_before_the_end_is_named(output):
    with hold(output, False, False) as parts:
        fill(parts, 0, 9)
        parts.shards()[0].path.write_bytes(b"rotten")
        with pytest.raises(RaycrnnError, match="damaged; --resume reads its images again"):
            parts.finish(Layout("csv"))
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
from tests.prediction.test_formats import JOB, fill

def upload(file, uri, upload=files.upload):
    if file.name == "000000000004_000000000006.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    upload(file, uri)

files.upload = upload
with shards.open_shards(sys.argv[1], JOB, 9, False, False) as parts:
    fill(parts, 0, 2, 4, 6)
"""


def test_what_is_left_of_a_machine_that_vanished_is_gone_on_with_on_another(uri):
    assert subprocess.run([sys.executable, "-c", KILLED, uri]).returncode == -signal.SIGKILL
    with hold(uri, True, False) as parts:
        assert parts.missing() == [(4, 9)]
        fill(parts, 4, 9)
        assert parts.finish(Layout("jsonl")) == 9
    assert paths(uri) == [str(number) for number in range(9)]
    assert left(uri) == ["out.jsonl"]


def test_who_takes_an_output_over_ends_the_command_before(uri):
    overtaken = pytest.raises(RaycrnnError, match=r"out\.jsonl\S+: another command has begun to write it since")
    with hold(uri, False, False) as first:
        fill(first, 0, 2)
        with pytest.raises(UsageError, match="--resume goes on"), hold(uri, False, False):
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


def test_a_command_without_finished_rows_deletes_nothing_of_the_one_that_took_over(uri):
    with ExitStack() as first:
        first.enter_context(hold(uri, False, False))
        with hold(uri, False, False) as second:
            first.close()
            fill(second, 0, 2)
    with hold(uri, True, False) as parts:
        assert parts.missing() == [(2, 9)]


def test_rows_that_two_shards_hold_come_once(uri):
    """As of a command that was overtaken while it uploaded a shard."""
    stop_after(uri, 2, 4)
    shard = io.BytesIO()
    pq.write_table(numbered(1, 3), shard, write_page_checksum=True)
    put(beside(uri, ".out.jsonl.parts", "000000000001_000000000003.parquet"), shard.getvalue())
    with hold(uri, True, False) as parts:
        assert parts.missing() == [(4, 9)]
        fill(parts, 4, 9)
        parts.finish(Layout("jsonl"))
    assert paths(uri) == [str(number) for number in range(9)]


def test_storage_that_vanishes_is_named_and_what_is_finished_stays(bucket, object_store, monkeypatch):
    # Of the same buckets as the other one, for both are of this process.
    monkeypatch.setattr(files, "PATIENCE", 1.0)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    uri = storage.join(bucket.replace(object_store, "{}:{}".format(*server.get_host_and_port())), "out.jsonl")
    with pytest.raises(WriteError) as told, hold(uri, False, False) as parts:
        fill(parts, 0, 2)
        server.stop()
        fill(parts, 2, 9)
    assert f"{shards.folder_of(uri)}: cannot be written: " in str(told.value)
    assert str(told.value).endswith("finished rows are kept, and --resume goes on with them")
    with hold(storage.join(bucket, "out.jsonl"), True, False) as parts:
        assert parts.missing() == [(2, 9)]


def test_storage_that_refuses_is_told_before_anything_is_read(bucket):
    nowhere = storage.join(bucket.replace("lines/", "nobody/", 1), "out.jsonl")
    with pytest.raises(UsageError, match="cannot be written"), hold(nowhere, False, False):
        pass


def test_storage_that_deletes_nothing_keeps_the_output_from_nobody(uri, monkeypatch, capsys):
    def refuse(uri):
        raise PermissionError(13, "access denied")

    with hold(uri, False, False) as parts:
        fill(parts, 0, 9)
        monkeypatch.setattr(files, "delete", refuse)
        assert parts.finish(Layout("jsonl")) == 9
    assert "not needed any more, but not deleted: access denied" in capsys.readouterr().err
    assert paths(uri) == [str(number) for number in range(9)]
