"""Lexicons: their files, and what a model can read of them."""

import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn import config
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.lexicon import Lexicon, problem_of
from raycrnn.errors import UsageError

SETTINGS = config.Data(csv_files_train="lines.csv")


def lexicon_file(folder, data: bytes):
    path = folder / "words.txt"
    path.write_bytes(data)
    return path


def test_each_line_is_an_entry_with_units_as_in_a_label(tmp_path):
    text = "Haus\n|q|u|o| |quondam|\nNew York\ncafe\u0301\n"
    lexicon = Lexicon.read(lexicon_file(tmp_path, text.encode()), SETTINGS)
    assert lexicon.entries == (
        ("H", "a", "u", "s"),
        ("q", "u", "o", " ", "quondam"),
        tuple("New York"),
        ("c", "a", "f", "é"),
    )


@pytest.mark.parametrize(
    "data",
    [
        b"ab\nc",
        b"ab\r\nc\r\n",
        b"\xef\xbb\xbfab\nc\n",
        b"\n\nab\n\nc\n",
        "ab\nc\n".encode("utf-16"),
        b"ab\nc\nab\n",
    ],
    ids=["no last line end", "CRLF", "BOM", "blank lines", "UTF-16", "an entry twice"],
)
def test_variants_of_a_file_have_the_same_entries(data, tmp_path):
    assert Lexicon.read(lexicon_file(tmp_path, data), SETTINGS).entries == (("a", "b"), ("c",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no entries"),
        (b"\n\r\n", "no entries"),
        (b"ab\n\xff\xfe\x00\x81", "line 2: the text is not utf-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100), "words.txt"),
        (b"PK\x03\x04" + bytes(100), "words.txt"),
        (b"a\n||\n", "line 2: the entry has no units"),
    ],
    ids=["empty", "only blank lines", "not UTF-8", "an image", "an archive", "only delimiters"],
)
def test_a_file_that_is_no_lexicon_is_refused(data, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        Lexicon.read(lexicon_file(tmp_path, data), SETTINGS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.txt: no such lexicon file"):
        Lexicon.read(tmp_path / "none.txt", SETTINGS)


def test_spaces_at_the_ends_of_entries_are_kept_and_said(tmp_path, caplog):
    lexicon = Lexicon.read(lexicon_file(tmp_path, b"ab\nc \n"), SETTINGS)
    assert lexicon.entries[1] == ("c", " ")
    assert "1 entries begin or end with a space" in caplog.text
    assert "line 2" in caplog.text


@pytest.mark.parametrize(
    ("entries", "message"),
    [([], "no entries"), (["a", ""], "entry 2: the entry has no units"), ([3], "not a string"), ("ab", "one string")],
)
def test_a_sequence_that_is_no_lexicon_is_refused(entries, message):
    with pytest.raises(UsageError, match=message):
        Lexicon.of(entries, SETTINGS)


def test_entries_that_a_model_cannot_read_are_left_out_with_their_lines(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    text = "ab\n\nbad\n" + 10_000 * "ab" + "\nb\n"
    lexicon = Lexicon.read(lexicon_file(tmp_path, text.encode()), SETTINGS).readable(Alphabet(("a", "b")), 20)
    assert lexicon.entries == (("a", "b"), ("b",))
    assert lexicon.numbers == (1, 5)
    assert "2 of 4 entries are left out" in caplog.text
    assert "line or entry 3, 'bad': not in the alphabet: 'd'" in caplog.text
    assert "needs 20,000 frames, and the widest image has 20" in caplog.text
    assert len(caplog.text) < 1000


def test_a_lexicon_without_a_readable_entry_is_refused():
    with pytest.raises(UsageError, match="can read none of the entries: line or entry 1, 'x'"):
        Lexicon.of(["x", "y"], SETTINGS).readable(Alphabet(("a",)), 20)


def test_equal_neighbours_need_a_frame_between_them():
    assert problem_of(("a", "a"), Alphabet(("a",)), 3) is None
    assert "needs 3 frames" in problem_of(("a", "a"), Alphabet(("a",)), 2)


def test_units_that_would_combine_in_plain_text_are_written_one_by_one(tmp_path):
    lexicon = Lexicon.of(["|e|\u0301|n|", "en"], SETTINGS)
    assert lexicon.to_text(SETTINGS) == "|e|\u0301|n|\nen\n"
    assert Lexicon.read(lexicon_file(tmp_path, lexicon.to_text(SETTINGS).encode()), SETTINGS) == lexicon


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\r\n\ufeff", exclude_categories=["Cs"]), min_size=1), min_size=1
    ),
    st.sampled_from(["NFC", "NFD"]),
)
def test_a_written_lexicon_is_read_again(tmp_path_factory, texts, form):
    settings = config.Data(csv_files_train="lines.csv", unicode_form=form)
    texts = [text for text in texts if text.strip("|")] or ["a"]
    lexicon = Lexicon.of(texts, settings)
    path = lexicon_file(tmp_path_factory.mktemp("lexicon"), lexicon.to_text(settings).encode())
    assert Lexicon.read(path, settings) == lexicon
    assert all(unicodedata.is_normalized(form, unit) for entry in lexicon.entries for unit in entry)
