"""Files by path or URI, with moto's S3 on loopback and pyarrow's local filesystem."""

import asyncio
import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from raycrnn import storage
from raycrnn.bench.object_store import ObjectStore
from raycrnn.bench.serve import free_port
from raycrnn.errors import StorageError, UsageError
from raycrnn.evaluate import Evaluate
from raycrnn.model import model_files
from raycrnn.model.recognizer import Recognizer
from raycrnn.predict import Predict
from raycrnn.serving import service
from raycrnn.storage import Directory, files
from tests.conftest import words, write_set
from tests.model.test_recognizer import recognizer

# Names and places


@pytest.mark.parametrize(
    ("folder", "names", "joined"),
    [
        ("out", ["model"], "out/model"),
        ("s3://b/out", ["model"], "s3://b/out/model"),
        ("s3://b/out/?region=eu-west-1", ["logs", "a b"], "s3://b/out/logs/a%20b?region=eu-west-1"),
        ("s3://b", ["100%?#"], "s3://b/100%25%3F%23"),
    ],
)
def test_names_are_joined_before_the_options_of_a_uri(folder, names, joined):
    assert storage.join(folder, *names) == joined


@pytest.mark.parametrize(
    ("csv", "field", "path"),
    [
        ("s3://b/sets/lines.csv?scheme=http", "images/a b%.png", "s3://b/sets/images/a%20b%25.png?scheme=http"),
        ("s3://b/sets/lines.csv", "gs://other/a.png", "gs://other/a.png"),
        ("s3://b/sets/lines.csv", "/scans/a.png", "/scans/a.png"),
        ("/sets/lines.csv", "a.png", "/sets/a.png"),
        ("/sets/lines.csv", "/scans/a.png", "/scans/a.png"),
    ],
)
def test_a_path_is_resolved_against_the_folder_of_its_csv(csv, field, path):
    assert storage.resolve_relative(csv, field) == path


@given(name=st.text(min_size=1, max_size=40).filter(lambda name: not {"\0", "/"} & set(name) and name.strip(".")))
def test_any_name_joined_to_a_uri_is_decoded_again(name):
    name = name.encode("utf-8", "ignore").decode() or "x"
    assert storage.locate(storage.join("file:///folder", name))[1] == f"/folder/{name}"


def test_unknown_schemes_and_refused_options_are_os_errors():
    for uri in ("gopher://host/a", "s3://bucket/a?colour=red", "nothing://"):
        with pytest.raises(OSError, match="URI"):
            storage.read(uri)
    with pytest.raises(OSError, match="files on the web are not read: download them first"):
        storage.read("https://example.org/a.png")


# S3


def test_keys_in_a_uri_are_refused_and_not_shown():
    for name in ("read", "names", "listdir", "is_file"):
        with pytest.raises(OSError, match="put them into the environment") as told:
            getattr(storage, name)("s3://key:secret@bucket/run?region=x")
        assert "secret" not in str(told.value) and "s3://…@bucket/run" in str(told.value)
    for act in ("entries", "files", "fetch", "claim", "sync"):
        directory = Directory("s3://key:sec/ret@bucket/run")
        (directory.path / "file").touch()
        with pytest.raises((StorageError, OSError), match="put them into the environment") as told:
            getattr(directory, act)(*["file"] * (act == "fetch"))
        assert "sec/ret" not in str(told.value)


@pytest.mark.parametrize("uri", ["s3://[b/x", "file:///a%00b", "abfs://container@account.dfs.core.windows.net/p"])
def test_an_invalid_uri_is_an_os_error_everywhere(uri):
    for function in (storage.read, storage.names, storage.listdir, storage.exists, storage.delete):
        with pytest.raises(OSError):
            function(uri)


def test_a_whole_bucket_is_never_deleted(bucket):
    storage.write(storage.join(bucket, "precious"), b"1")
    for act in (Directory(bucket).empty, Directory(bucket).delete, lambda: storage.delete(bucket)):
        with pytest.raises(OSError):
            act()
    assert storage.read(storage.join(bucket, "precious")) == b"1"


def test_a_deleted_folder_leaves_nothing_behind(bucket):
    directory = Directory(storage.join(bucket, "run"))
    for step in range(3):
        written(directory, f"checkpoints/step_{step}/state.json", "1")
        directory.sync()
        shutil.rmtree(directory.path / f"checkpoints/step_{step - 1}", ignore_errors=True)
        directory.sync()
    assert directory.entries("checkpoints") == {"step_2"}


def test_nothing_is_copied_from_a_folder_that_is_not_a_model(bucket, monkeypatch):
    storage.write(storage.join(bucket, "run", "checkpoints", "step_1", "tensors.safetensors"), b"1")
    monkeypatch.setattr(files, "_download", lambda *_: pytest.fail("copied"))
    with pytest.raises(UsageError, match="not a model directory"):
        Recognizer.load(storage.join(bucket, "run"))


@pytest.mark.parametrize(
    ("path", "extended"),
    [
        ("search/", "search-best"),
        ("why?", "why?-best"),
        ("s3://b/search/?region=eu-west-1", "s3://b/search-best?region=eu-west-1"),
        # Not another bucket.
        ("s3://b/?region=eu-west-1", "s3://b/-best?region=eu-west-1"),
        ("s3://b", "s3://b/-best"),
    ],
)
def test_a_suffix_stays_in_the_same_bucket(path, extended):
    assert storage.with_suffix(path, "-best") == extended


def test_a_file_is_written_read_listed_and_deleted(bucket):
    uri = storage.join(bucket, "a folder", "ä%20?#.txt")
    storage.write(uri, b"content")
    assert storage.read(uri) == b"content"
    assert storage.is_file(uri) and not storage.is_file(storage.join(bucket, "a folder"))
    assert [(name, size) for name, (size, _) in storage.names(bucket).items()] == [("a folder/ä%20?#.txt", 7)]
    storage.delete(uri)
    storage.delete(uri)
    assert storage.names(bucket) == {}
    with pytest.raises(FileNotFoundError):
        storage.read(uri)


def test_many_files_are_read_in_order_with_errors_for_missing_ones(bucket):
    uris = [storage.join(bucket, f"{number}") for number in range(40)]
    for number, uri in enumerate(uris):
        if number % 7:
            storage.write(uri, b"%d" % number)
    for number, found in enumerate(storage.read_many(uris)):
        assert found == b"%d" % number if number % 7 else isinstance(found, FileNotFoundError)


def test_a_missing_bucket_is_reported(bucket):
    with pytest.raises(UsageError, match="cannot be"):
        Directory(bucket.replace("lines/", "nobody/", 1)).claim()


# A directory, and its copy


def written(directory: Directory, name: str, text: str) -> Path:
    path = directory.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_local_directory_needs_no_copy(tmp_path):
    directory = Directory(tmp_path / "out")
    directory.claim()
    directory.sync()
    assert directory.path == tmp_path / "out" and directory.entries() == set() and str(directory) == f"{tmp_path}/out"


def test_sync_uploads_files_and_deletes_those_that_were_deleted(bucket):
    uri = storage.join(bucket, "run")
    first = Directory(uri)
    first.claim()
    written(first, "checkpoints/step_1/tensors", "1")
    written(first, "checkpoints/step_1/state", "1")
    written(first, ".hidden", "no")
    written(first, "checkpoints/.step_2/state", "no")
    first.sync()
    second = Directory(uri)
    assert second.entries() == {"checkpoints"}
    second.fetch("checkpoints")
    assert (second.path / "checkpoints/step_1/tensors").read_text() == "1"
    second.claim()
    (second.path / "checkpoints/step_1/tensors").unlink()
    written(second, "metrics", "new")
    second.sync()
    assert set(storage.names(uri)) == {"checkpoints/step_1/state", "metrics", storage.OWNER}


def test_sync_uploads_changed_files_in_the_order_of_their_times(bucket, monkeypatch):
    copied = []
    upload = storage.upload
    monkeypatch.setattr(files, "upload", lambda file, uri: (copied.append(file.name), upload(file, uri)))
    directory = Directory(storage.join(bucket, "run"))
    for number, name in enumerate(("z", "state", "a")):
        os.utime(written(directory, name, name), ns=(number, number))
    directory.sync()
    assert copied == ["z", "state", "a"]
    directory.sync()
    written(directory, "state", "other text")
    directory.sync()
    assert copied == ["z", "state", "a", "state"]


def test_claiming_a_directory_ends_the_command_that_claimed_it_before(bucket):
    uri = storage.join(bucket, "run")
    first, worker, second = Directory(uri), Directory(uri), Directory(uri)
    first.claim()
    worker.owner = first.owner
    written(worker, "metrics", "1")
    worker.sync()
    second.claim()
    written(worker, "metrics", "22")
    with pytest.raises(OSError, match="another command"):
        worker.sync()
    assert storage.read(storage.join(uri, "metrics")) == b"1"


def test_storage_that_does_not_answer_is_an_error_after_some_retries(monkeypatch):
    monkeypatch.setattr(files, "RETRY_SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(UsageError, match="cannot be read"):
        Directory("s3://bucket/run?endpoint_override=127.0.0.1:9&scheme=http&region=x").entries()
    assert time.monotonic() - start < 60


def test_a_short_outage_of_the_storage_is_retried(bucket, object_store):
    storage.write(storage.join(bucket, "a"), b"1")
    server = ThreadedMotoServer("127.0.0.1", port := free_port(), verbose=False)
    later = threading.Timer(2, server.start)
    later.start()
    try:
        assert storage.read(storage.join(bucket.replace(object_store, f"127.0.0.1:{port}"), "a")) == b"1"
    finally:
        later.join()
        server.stop()


OUTAGES = [
    "When reading information for key 'a' in bucket 'lines': AWS Error UNKNOWN (HTTP status 503) during HeadObject "
    "operation: No response body.",
    "AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate.",
    "AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 52, Server returned nothing",
    "AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 18, Transferred a partial file",
    "AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 28, Timeout was reached",
    "google::cloud::Status(RESOURCE_EXHAUSTED: Too many requests, HTTP status 429)",
]
"""What pyarrow 26 said about a server that throttles, closes connections or does not answer, and what GCS may say."""


@pytest.mark.parametrize("message", OUTAGES)
def test_an_outage_is_retried_and_says_nothing_about_a_file(message, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    failures, locate = [OSError(message)] * 2, files.locate
    monkeypatch.setattr(files, "locate", lambda uri: locate(raise_next(failures) or uri))
    assert storage.read(f"file://{__file__}") == Path(__file__).read_bytes()
    with pytest.raises(StorageError, match=re.escape(f"s3://b/a: object storage does not deliver it: {message}")):
        storage.check_concerns_file("s3://b/a", OSError(message))
    storage.check_concerns_file("/a/local/file", OSError(message))


def raise_next(errors: list[OSError]) -> None:
    if errors:
        raise errors.pop()


def test_what_concerns_one_file_is_no_outage(bucket):
    for uri in (storage.join(bucket, "missing"), bucket, "file:///a%00b", "file:///tmp"):
        with pytest.raises(OSError) as caught:
            storage.read(uri)
        storage.check_concerns_file(uri, caught.value)
    denied = OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body.")
    storage.check_concerns_file("s3://b/a", denied)


def test_reading_many_files_ends_at_the_first_failure_of_the_storage(monkeypatch):
    monkeypatch.setattr(files, "RETRY_SECONDS", 0.0)
    asked = []
    monkeypatch.setattr(files, "locate", lambda uri: (asked.append(uri), raise_next([OSError(OUTAGES[1])])))
    with pytest.raises(StorageError, match=r"s3://b/0: object storage does not deliver it: .*SLOW_DOWN"):
        storage.read_many([f"s3://b/{number}" for number in range(5000)])
    assert len(asked) < 5000


@pytest.mark.long
@pytest.mark.parametrize(
    "fault", ["slow down", *(pytest.param(name, marks=pytest.mark.extended) for name in ("reset", "cut"))]
)
def test_more_failures_than_the_client_repeats_are_retried(fault, tmp_path):
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "a").write_bytes(bytes(1000))
    faults = [fault] * 40
    with ObjectStore(tmp_path, fault=lambda path: faults.pop() if faults else None) as store:
        assert storage.read(store.uri("lines", "a")) == bytes(1000)
        assert storage.read_head(store.uri("lines", "a"), 10) == (bytes(10), 1000)
    assert not faults


def test_a_missing_file_is_not_retried(bucket, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(bucket, "nowhere"))


# All verbs


@pytest.mark.long
@pytest.mark.ray
def test_predict_and_evaluate_work_on_object_storage(local_ray, tmp_path, bucket, capsys):
    recognizer().save(tmp_path / "model")
    csv = write_set(tmp_path / "set", words(6))
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        storage.write(storage.join(bucket, *path.relative_to(tmp_path).parts), path.read_bytes())
    model, labels, images, out = (
        storage.join(bucket, *name.split("/")) for name in ("model", "set/labels.csv", "set/images", "out/texts.csv")
    )
    assert Predict.call([model, images, labels, "-o", f"{tmp_path}/remote.csv"], "predict") == 0
    here = [f"{tmp_path}/model", f"{tmp_path}/set/images", str(csv), "-o", f"{tmp_path}/local.csv"]
    assert Predict.call(here, "predict") == 0
    remote, local = ((tmp_path / name).read_text().splitlines() for name in ("remote.csv", "local.csv"))
    assert [line.partition(",")[2] for line in remote] == [line.partition(",")[2] for line in local]
    assert Predict.call([model, labels, "-o", out], "predict") == 0
    assert storage.read(out).decode().splitlines() == [local[0], *local[7:]]
    assert Predict.call([model, labels, "-o", out], "predict") == 2
    assert "already exists" in capsys.readouterr().err
    report = ["--report", storage.join(bucket, "report")]
    assert Evaluate.call([model, labels, "data.max_rejected=0", *report], "evaluate") == 0
    there = set(storage.names(storage.join(bucket, "report")))
    assert there == {"index.html", "lines.csv", "rejected.csv", "report.json"}
    assert Evaluate.call([model, labels, *report], "evaluate") == 2
    assert Evaluate.call([model, labels, *report, "--overwrite"], "evaluate") == 0
    # Neither the CSV that is read nor other files may be replaced.
    storage.write(storage.join(bucket, "own", "lines.csv"), storage.read(labels).replace(b"images/", b"../set/images/"))
    storage.write(storage.join(bucket, "other", "a.txt"), b"1")
    own = storage.join(bucket, "own", "lines.csv")
    for place in ("own", "other"):
        said = ["--report", storage.join(bucket, place), "--overwrite"]
        assert Evaluate.call([model, own, *said], "evaluate") == 2
        assert "contains other files and no report" in capsys.readouterr().err
    storage.write(storage.join(bucket, "own", "report.json"), b"{}")
    assert Evaluate.call([model, own, "--report", storage.join(bucket, "own"), "--overwrite"], "evaluate") == 2
    assert "lines.csv in it is one of the CSVs" in capsys.readouterr().err
    assert Predict.call([storage.join(bucket, "nothing"), labels], "predict") == 2
    assert "not a model directory" in capsys.readouterr().err


def test_a_replaced_model_in_object_storage_is_noticed(tmp_path, bucket):
    recognizer().save(tmp_path / "model")
    place = storage.join(bucket, "model")

    def put() -> None:
        for path in (tmp_path / "model").iterdir():
            storage.upload(path, storage.join(place, path.name))

    put()
    before, version = model_files.fingerprint(place), model_files.version_of(place)
    assert version == model_files.version_of(tmp_path / "model") and before == model_files.fingerprint(place)
    # S3 gives times in whole seconds.
    time.sleep(1.1)
    put()
    assert model_files.fingerprint(place) != before and model_files.version_of(place) == version


def test_a_service_changes_to_a_model_in_object_storage(tmp_path, bucket):
    recognizer().save(tmp_path / "model")
    place = storage.join(bucket, "model")
    for path in (tmp_path / "model").iterdir():
        storage.upload(path, storage.join(place, path.name))

    async def change() -> str:
        reading = service.Service(str(tmp_path / "model"))
        await reading.start()
        try:
            await reading.change_model(place)
            return reading.path
        finally:
            await reading.stop()

    assert asyncio.run(change()) == place
