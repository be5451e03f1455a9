"""Local files whose names are in another Unicode normal form."""

import os
import unicodedata

import pytest

from raycrnn import storage
from raycrnn.storage.normal_forms import as_on_disk


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("given_form", ["NFC", "NFD"])
def test_a_local_name_in_another_unicode_normal_form_is_found(tmp_path, on_disk, given_form):
    file = tmp_path / unicodedata.normalize(on_disk, "Żółć/한글.csv")
    file.parent.mkdir()
    file.write_bytes(b"rows")
    path = unicodedata.normalize(given_form, str(file))
    assert storage.read(path) == b"rows"
    for place in (path, os.path.dirname(path)):
        found = storage.in_other_form(place)
        assert (found is None) == (on_disk == given_form)
        assert found is None or os.path.samefile(found, unicodedata.normalize(on_disk, place))


def test_a_missing_name_has_no_other_form(tmp_path):
    os.mkfifo(tmp_path / unicodedata.normalize("NFD", "é"))
    for name in ("a", "ü", "é/a"):
        assert storage.in_other_form(f"{tmp_path}/{name}") is None
    for name in ("ü", "é"):
        with pytest.raises(FileNotFoundError):
            storage.read(f"{tmp_path}/{name}")
    assert storage.in_other_form("s3://b/é") is None


def test_a_path_to_write_has_the_folders_that_exist(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, f"{tmp_path}/été") for form in ("NFC", "NFD"))
    os.mkdir(decomposed)
    for new in ("", "/é.csv", "/ü/é.csv", "/ü/"):
        assert as_on_disk(composed + new) == decomposed + new
    for name in ("", "é.csv", "ü/é.csv", "nul\0/é.csv", f"{tmp_path}/é.csv", tmp_path):
        assert as_on_disk(name) == str(name)


def test_a_directory_is_found_in_another_unicode_normal_form(tmp_path):
    composed, decomposed = (tmp_path / unicodedata.normalize(form, "modèle") for form in ("NFC", "NFD"))
    assert storage.current_directory(composed) == composed
    decomposed.mkdir()
    assert storage.current_directory(composed) == decomposed
