"""The texts of language models."""

import pytest

from raycrnn import config
from raycrnn.errors import UsageError
from raycrnn.language import texts


def settings(*overrides: str) -> config.Data:
    return config.parse({"data": {"csv_files_train": "x.csv"}}, overrides).data


def test_text_files_and_csvs_follow_the_rules_of_labels(tmp_path):
    (tmp_path / "a.txt").write_bytes("e\u0301t\r\n\n|q|quondam|\n".encode())
    assert texts.read_lines(str(tmp_path / "a.txt"), settings()) == [("é", "t"), ("q", "quondam")]
    (tmp_path / "b.csv").write_text("1.png,|q|quondam|\n2.png,ab\n3.png,\n4.png\n", encoding="utf-8")
    read = texts.read_lines(str(tmp_path / "b.csv"), settings("data.csv_delimiter=,"))
    assert read == [("q", "quondam"), ("a", "b")]


def test_files_without_text_and_csvs_with_another_name_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n")
    with pytest.raises(UsageError, match=r"a\.txt: has no text"):
        texts.read_lines(str(tmp_path / "a.txt"), settings())
    (tmp_path / "a.txt").write_text("1.png;abc\n")
    with pytest.raises(UsageError, match="if it is a CSV, name it so"):
        texts.read_lines(str(tmp_path / "a.txt"), settings())
    (tmp_path / "a.txt").write_text("1.png\ta; b\n")
    with pytest.raises(UsageError, match=r"name it \.tsv and set data\.csv_delimiter=tab"):
        texts.read_lines(str(tmp_path / "a.txt"), settings())
    with pytest.raises(UsageError, match="no such text file"):
        texts.read_lines(str(tmp_path / "b.txt"), settings())


def test_right_to_left_text_is_put_into_display_order():
    lines = [tuple("אב 12"), tuple("ab")]
    assert texts.resolve_direction(lines, settings("data.text_direction=visual")) == "visual"
    assert texts.resolve_direction(lines[1:], settings()) == "ltr"
    assert texts.in_display_order(lines[:1], texts.resolve_direction(lines[:1], settings())) == [tuple("12 בא")]
