"""Packed data sets: what is packed is read back, and files of other programs are refused."""

import io
import os
import shutil

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from raycrnn import config, storage
from raycrnn.data import csv_files, image, image_files, packed_images
from raycrnn.data.inputs import list_inputs
from raycrnn.data.rejections import Rejected
from raycrnn.errors import UsageError
from tests.conftest import words, write_set

IMAGES = [(b"first", "ab", "a.png", (5, 6)), (b"", None, "b c.png", (1, 1)), (b"x" * 3000, "|a|b|", "ü.jpg", (7, 8))]
SETTINGS = config.parse({"data": {"csv_files_train": "unused.csv"}}).data


def pack(folder, images, shard_bytes=packed_images.SHARD_BYTES):
    folder.mkdir(exist_ok=True)
    with packed_images.PackedImagesWriter(folder, shard_bytes) as writer:
        for each in images:
            writer.add(*each)
    return writer.files


def pack_csv(csv, folder, shard_bytes=packed_images.SHARD_BYTES):
    """Pack the images of a CSV."""
    file = csv_files.read_csv(csv)
    images = []
    for row in file.rows:
        data = image_files.read_bytes(file.resolve(row))
        images.append((data, row.label, row.path, image.size_of(io.BytesIO(data))))
    return pack(folder, images, shard_bytes)


def unpack(folder):
    rows = packed_images.read_rows(packed_images.find_files(str(folder)))
    return [(image_files.read_bytes(row.reference), row.label, row.path, row.size) for row in rows]


def test_rows_are_read_back_and_any_parquet_reader_reads_them(tmp_path):
    (file,) = pack(tmp_path / "set", IMAGES)
    assert unpack(tmp_path / "set") == unpack(file) == IMAGES
    assert pq.read_table(file).select(["image", "label", "path", "width", "height"]).to_pylist() == [
        {"image": image, "label": label, "path": path, "width": width, "height": height}
        for image, label, path, (width, height) in IMAGES
    ]


@given(st.lists(st.tuples(st.binary(max_size=40), st.none() | st.text(max_size=5)), min_size=1, max_size=30), st.data())
def test_files_and_row_groups_of_any_size_hold_the_same_rows(tmp_path_factory, rows, data):
    folder = tmp_path_factory.mktemp("packed")
    images = [(image, label, f"{number}.png", (number + 1, 2)) for number, (image, label) in enumerate(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_images, "ROW_GROUP_BYTES", data.draw(st.integers(1, 100)))
        patch.setattr(packed_images, "ROW_GROUP_ROWS", data.draw(st.integers(1, 10)))
        pack(folder, images, data.draw(st.integers(1, 300)))
    assert unpack(folder) == images


def test_the_digest_changes_with_each_image_and_label(tmp_path):
    sets = [
        IMAGES,
        IMAGES[:2],
        [(b"First", *IMAGES[0][1:]), *IMAGES[1:]],
        [(b"first", "abc", *IMAGES[0][2:]), *IMAGES[1:]],
    ]
    sets.append([IMAGES[0], (b"", "", *IMAGES[1][2:]), IMAGES[2]])
    digests = [packed_images.digest(map(str, pack(tmp_path / str(n), images))) for n, images in enumerate(sets)]
    assert len(set(digests)) == len(sets)
    shutil.copytree(tmp_path / "0", tmp_path / "moved")
    assert csv_files.digest(str(tmp_path / "moved")) == digests[0]


def test_an_error_leaves_only_complete_files(tmp_path):
    with pytest.raises(KeyError), packed_images.PackedImagesWriter(tmp_path, 100) as writer:
        writer.add(b"x" * 200, "a", "a.png", (1, 1))
        writer.add(b"y", "b", "b.png", (1, 1))
        raise KeyError
    assert os.listdir(tmp_path) == ["00000.parquet"]
    assert [path for _, _, path, _ in unpack(tmp_path)] == ["a.png"]


def rewrite(path):
    table = pq.read_table(path)
    pq.write_table(table, path, compression="zstd")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite, "was rewritten by another program: pack it again"),
        (cut, "not a Parquet file, or a damaged one"),
        (lambda path: path.write_bytes(b""), "not a Parquet file, or a damaged one"),
        (lambda path: pq.write_table(pa.table({"image": [b"x"], "text": ["a"]}), path), "has the columns image, text"),
        (os.unlink, "no such file"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder; name a CSV file"),
    ],
)
def test_other_files_are_refused_with_the_reason(tmp_path, change, message):
    (file,) = pack(tmp_path, IMAGES)
    change(file)
    with pytest.raises(UsageError) as caught:
        csv_files.read_labelled_csvs([str(file)], SETTINGS)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_is_gone_or_cut_later_concerns_its_images(tmp_path):
    (file,) = pack(tmp_path, IMAGES)
    last = list(packed_images.read_rows([str(file)]))[-1].reference
    file.write_bytes(file.read_bytes()[:100])
    assert image_files.read_bytes(last) != IMAGES[-1][0]
    file.unlink()
    with pytest.raises(Rejected, match="no such file"):
        image_files.read_bytes(last)


def test_predict_lists_the_images_of_a_set_and_of_a_folder_with_transcriptions(tmp_path):
    pack(tmp_path / "set", IMAGES)
    inputs = list_inputs([str(tmp_path / "set")], SETTINGS)
    assert inputs["name"].to_pylist() == [path for _, _, path, _ in IMAGES]
    assert [image_files.read_bytes(os.fsdecode(path)) for path in inputs["path"].to_pylist()] == [i[0] for i in IMAGES]
    csv = write_set(tmp_path / "folder", words(2))
    pq.write_table(pa.table({"path": ["x.png"], "text": ["a"]}), csv.parent / "read.parquet")
    assert len(list_inputs([str(csv.parent)], SETTINGS)) == 2


def test_neighbours_in_object_storage_are_read_together(tmp_path, bucket, monkeypatch):
    images = [(bytes([number]) * 40_000, "a", f"{number}.png", (1, 1)) for number in range(8)]
    (file,) = pack(tmp_path, images)
    uri = storage.join(bucket, "set", file.name)
    storage.upload(file, uri)
    rows = list(packed_images.read_rows(packed_images.find_files(storage.join(bucket, "set"))))
    requests = []
    read_range = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda *args: requests.append(args) or read_range(*args))
    # Between images 2 and 6, more is left out than is worth reading.
    chosen = [rows[number].reference for number in (6, 0, 2, 1, 6)]
    read = image_files.prefetching_reader(chosen)
    assert [read(reference)[0] for reference in chosen] == [6, 0, 2, 1, 6]
    assert len(requests) == 2
    assert [read()[0] for _, read in image_files.iter_readers([row.reference for row in rows])] == list(range(8))
