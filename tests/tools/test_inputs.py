"""Arguments that several small verbs have."""

import unicodedata

import pytest

from raycrnn.errors import UsageError
from raycrnn.tools.inputs import check_output


def test_an_output_is_that_of_the_disk_in_any_unicode_normal_form(tmp_path):
    composed, decomposed = (tmp_path / unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    decomposed.mkdir()
    (decomposed / "old.json").touch()
    assert check_output(composed / "new.json", overwrite=False) == decomposed / "new.json"
    with pytest.raises(UsageError, match="already exists; use --overwrite"):
        check_output(composed / "old.json", overwrite=False)
