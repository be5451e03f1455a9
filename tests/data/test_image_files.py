"""Image files that are found under other names, and those that are not."""

import unicodedata

import pytest

from raycrnn.data import image_files
from raycrnn.data.image import measure
from raycrnn.data.rejections import Rejected
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
