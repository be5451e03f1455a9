"""Image files that are found under other names, and those that are not."""

import unicodedata
from unittest.mock import Mock

import pytest

from raycrnn.bench.object_store import ObjectStore
from raycrnn.data import image_files
from raycrnn.data.image import measure
from raycrnn.data.rejections import Rejected
from raycrnn.errors import StorageError
from raycrnn.storage import files
from tests.conftest import draw


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_csv", ["NFC", "NFD"])
def test_a_name_in_another_unicode_normal_form_is_found(tmp_path, on_disk, in_csv):
    file = tmp_path / unicodedata.normalize(on_disk, "été") / unicodedata.normalize(on_disk, "ligne é.png")
    file.parent.mkdir()
    draw("ab").save(file)
    path = str(tmp_path / unicodedata.normalize(in_csv, "été/ligne é.png"))
    assert image_files.read_bytes(path) == file.read_bytes()
    assert measure(path) == measure(str(file))


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("é.png", ""),
        ("a\u200b.png", " (the path contains U+200B ZERO WIDTH SPACE)"),
        ("scans\\a.png", " (the path contains backslashes: write / between folders)"),
        ("a.png ", " (the path begins or ends with a space)"),
    ],
)
def test_the_rejection_of_a_missing_file_points_out_what_the_path_hides(tmp_path, name, note):
    (tmp_path / "broken.png").symlink_to("é.png")
    for path in (f"{tmp_path}/{name}", f"{tmp_path}/broken.png/{name}"):
        for read in (image_files.read_bytes, measure):
            with pytest.raises(Rejected) as caught:
                read(path)
            assert (caught.value.reason, caught.value.detail) == ("no such file", path + note)


THROTTLED = OSError("AWS Error SLOW_DOWN during GetObject operation: ")


@pytest.mark.parametrize("problem", ["throttled", "denied", "missing"])
def test_throttling_is_an_error_of_the_storage_and_not_of_the_image(problem, tmp_path, monkeypatch):
    (tmp_path / "lines").mkdir()
    for name in () if problem == "missing" else ("a.png", "b.png"):
        draw("ab").save(tmp_path / "lines" / name)
    if problem == "throttled":
        monkeypatch.setattr(files, "RETRY_SECONDS", 0.0)
        monkeypatch.setattr(files, "locate", Mock(side_effect=THROTTLED))
    with ObjectStore(tmp_path, fault=lambda path: "denied" if problem == "denied" else None) as store:
        a, b = store.uri("lines", "a.png"), store.uri("lines", "b.png")
        for read in (
            lambda: image_files.read_bytes(a),
            lambda: image_files.read_head(a, 99_999),
            lambda: image_files.prefetching_reader([a, b])(a),
            lambda: [read_next() for _, read_next in image_files.iter_readers([a])],
        ):
            with pytest.raises((Rejected, StorageError)) as caught:
                read()
            if problem == "throttled":
                assert isinstance(caught.value, StorageError)
                assert str(caught.value) == f"{a}: object storage does not deliver it: {str(THROTTLED).strip()}"
            else:
                assert caught.value.reason == {"denied": "cannot be read", "missing": "no such file"}[problem]
