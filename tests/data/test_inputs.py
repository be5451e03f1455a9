"""The images that names on a command line stand for."""

import os
import unicodedata

import pytest

from raycrnn import config
from raycrnn.data.inputs import is_one_of, list_inputs
from raycrnn.errors import UsageError

SETTINGS = config.Data(csv_files_train="none.csv")


def listed(*names) -> list[str]:
    return list_inputs(list(map(str, names)), SETTINGS)["name"].to_pylist()


def test_broken_links_do_not_affect_other_images(tmp_path):
    for name in ("a.png", "c.PNM", "d.jfif", "e.jpe"):
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "b.png").symlink_to("b.png")
    assert listed(tmp_path) == [f"{tmp_path}/{name}" for name in ("a.png", "b.png", "c.PNM", "d.jfif", "e.jpe")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "missing': no such image, folder, CSV file or model directory"),
        ("scan.v2/missing", "missing': no such image, folder"),
        ("beam_width=3", "no key of the configuration; did you mean decoding.beam_width?"),
        ("two\u200bwords", "the path contains U+200B"),
        ("", "'': no such image"),
    ],
)
def test_an_input_that_does_not_exist_is_refused(tmp_path, monkeypatch, name, message):
    # A model directory that is missing looks like one of the inputs after it.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        listed(name)
    assert message in str(caught.value)


def test_a_missing_file_with_the_name_of_an_image_is_one_of_the_images(tmp_path):
    assert len(listed(tmp_path / "missing.PNG")) == 1


def test_a_folder_of_nothing_in_object_storage_is_refused(bucket):
    place, _, options = bucket.partition("?")
    with pytest.raises(UsageError, match="no such image, folder"):
        listed(f"{place}missing?{options}")


def test_a_link_to_a_folder_is_skipped_with_a_warning_unless_it_is_named(tmp_path, capsys):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    (tmp_path / "here" / "more").symlink_to(tmp_path / "there")
    assert listed(tmp_path / "here") == [f"{tmp_path}/here/a.png"]
    assert f"{tmp_path}/here/more: skipped, because it is a link to a folder" in capsys.readouterr().err
    assert listed(tmp_path / "here" / "more") == [f"{tmp_path}/here/more/a.png"]


@pytest.mark.parametrize("way", ["{}/a b.png", "file://{}/a%20b.png", "{}/link", "{}/hard", "{}/x/../a b.png"])
def test_a_file_is_recognised_under_every_name(tmp_path, way):
    file = tmp_path / "a b.png"
    file.touch()
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "hard").hardlink_to(file)
    others = ["s3://a b.png", f"{tmp_path}/gone", "nul\0", os.fsencode(tmp_path)]
    assert not is_one_of(file, others)
    assert is_one_of(file, [*others, os.fsencode(way.format(tmp_path))])
    assert not is_one_of(tmp_path / "gone", [f"{tmp_path}/gone"])


def test_a_file_is_recognised_in_another_unicode_normal_form(tmp_path):
    composed, decomposed = (tmp_path / unicodedata.normalize(form, "é.csv") for form in ("NFC", "NFD"))
    decomposed.touch()
    assert is_one_of(decomposed, [str(composed)]) and is_one_of(composed, [str(decomposed)])


def test_an_object_is_recognised_under_every_name():
    own = "s3://b/set/a%20b.png?region=us-east-1"
    assert is_one_of(own, ["s3://b/set/%61%20b.png?region=us-east-1&scheme=http"])
    assert not is_one_of(own, ["s3://b/set/a.png?region=us-east-1", "/b/set/a b.png", "gopher://b/set/a%20b.png"])


def test_hidden_files_and_folders_are_left_out_and_counted(tmp_path, caplog):
    names = [
        "a.png",
        "._a.png",
        ".ipynb_checkpoints/a-checkpoint.png",
        ".thumbnails/a.png",
        "__MACOSX/a.png",
        "b/c.png",
    ]
    for name in names:
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scans" / name).touch()
    folder = f"{tmp_path}/scans"
    with caplog.at_level("INFO"):
        assert listed(folder) == [f"{folder}/a.png", f"{folder}/b/c.png"]
    assert f"{folder}: 4 hidden files and folders were left out, for example {folder}/._a.png" in caplog.text
    # A hidden folder that is named is read.
    assert listed(f"{folder}/.thumbnails") == [f"{folder}/.thumbnails/a.png"]
    uri = f"file://{folder}"
    assert listed(uri) == [f"{uri}/a.png", f"{uri}/b/c.png"]


@pytest.mark.parametrize("name", ["rows.csv", "rec_gt.txt", "rows.TSV"])
@pytest.mark.parametrize("row", ["a.png;x\tx", "a.png\tx;x", "a.png"])
def test_lists_of_images_may_be_separated_by_tabs(tmp_path, name, row):
    (tmp_path / name).write_text(f"\n{row}\n")
    assert listed(tmp_path / name) == ["a.png"]


def test_the_header_of_a_list_is_no_image(tmp_path):
    (tmp_path / "rows.csv").write_text("filename;words\na.png;1\n")
    assert listed(tmp_path / "rows.csv") == ["a.png"]


def test_folders_and_lists_are_found_in_another_unicode_normal_form(tmp_path):
    folder = tmp_path / unicodedata.normalize("NFD", "été")
    folder.mkdir()
    (folder / "a.png").touch()
    (folder / unicodedata.normalize("NFD", "liste é.csv")).write_text("a.png;1\n")
    given = unicodedata.normalize("NFC", str(folder))
    assert listed(given) == [f"{folder}/a.png"]
    assert listed(f"{given}/liste é.csv") == ["a.png"]


def test_files_not_named_like_images_are_left_out_counted_and_described(tmp_path, caplog):
    files = {
        "a.png": b"",
        "a.xml": b"<PcGts/>",
        "b/IMG_1.HEIC": b"\0\0\0\x18ftypheic",
        "IMG_2.heic": b"\0\0\0\x18ftypheic",
        "scan": b"\x89PNG\r\n\x1a\n",
    }
    (tmp_path / "b").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with caplog.at_level("INFO"):
        assert listed(tmp_path) == [f"{tmp_path}/a.png"]
    left_out = f"{tmp_path}: 2 files with the suffix .heic left out, for example {tmp_path}/IMG_2.heic: a HEIC image"
    assert f"{left_out} (HEIF): convert it to PNG, JPEG or TIFF" in caplog.text
    assert f"{tmp_path}: 1 file with the suffix .xml left out, for example {tmp_path}/a.xml\n" in caplog.text
    assert "1 file without a suffix left out" in caplog.text and "an image: give its name a suffix" in caplog.text
    (tmp_path / "a.png").unlink()
    caplog.clear()
    with caplog.at_level("INFO"), pytest.raises(UsageError, match="no images in"):
        listed(f"file://{tmp_path}")
    assert f"2 files with the suffix .heic left out, for example file://{tmp_path}/IMG_2.heic\n" in caplog.text
