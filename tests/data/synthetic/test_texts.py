"""Texts of lines: their sources, their lengths, what is left out, and the texts that are reserved for evaluation."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data.csv_files import split_label
from raycrnn.data.synthetic import fonts, recipe, texts
from raycrnn.data.synthetic.texts import TextSource, cut, is_reserved
from raycrnn.errors import UsageError
from tests.data.synthetic.test_fonts import make_font

BOOK = "the first line\n\n  many\u00a0 spaces\there  \nthe second and much longer line of this small book\n"


def source(**text: object) -> TextSource:
    return TextSource(recipe.parse({"text": {"eval_share": 0, **text}}))


def draw(made: TextSource, count: int = 200) -> list[str]:
    generator = random.Random(5)
    return [made.draw(generator, False) for _ in range(count)]


def write(folder, text: str | bytes, name: str = "book.txt") -> str:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(folder / name)


def test_lines_of_files_are_whole_or_cut_between_words(tmp_path):
    drawn = set(draw(source(files=write(tmp_path, BOOK), characters=[4, 20])))
    assert {"the first line", "many spaces here"} <= drawn
    long = "the second and much longer line of this small book"
    parts = drawn - {"the first line", "many spaces here"}
    assert len(parts) > 10
    assert all(f" {part} " in f" {long} " and 4 <= len(part) <= 20 for part in parts)


@given(st.lists(st.text("ab", min_size=1, max_size=6), min_size=1), st.integers(1, 9), st.integers(0, 9))
def test_a_cut_line_consists_of_consecutive_words(words, least, more):
    line = " ".join(words)
    part = cut(line, (least, least + more), random.Random(len(line)))
    assert part
    assert f" {part} " in f" {line} "
    assert len(part) <= least + more or " " not in part


def test_words_of_files_occur_as_often_as_there(tmp_path):
    made = source(files=write(tmp_path, "rare " + "often " * 9), take="words", words=1)
    counts = Counter(draw(made, 2000))
    assert counts.keys() == {"rare", "often"}
    assert counts["rare"] == pytest.approx(200, abs=50)


def test_words_of_a_language_follow_their_frequencies():
    wordfreq = pytest.importorskip("wordfreq")
    made = source(language="en", words=1, capitals=0, upper=0, punctuation=0)
    counts = Counter(draw(made, 5000))
    for word in ("the", "of", "and"):
        assert counts[word] / 5000 == pytest.approx(wordfreq.word_frequency(word, "en"), rel=0.35)
    assert not any(re.search(r"\d\d", word) for word in counts)


def test_capitals_and_punctuation_are_added_to_words_of_a_language():
    pytest.importorskip("wordfreq")
    drawn = draw(source(language="en", words=1, capitals=0.2, upper=0.2, punctuation=0.5), 1000)
    assert sum(text[-1] in ".,;:!?" for text in drawn) == pytest.approx(500, abs=80)
    assert sum(text[0].isupper() for text in drawn) == pytest.approx(400, abs=80)


def test_sources_are_used_equally_often(tmp_path):
    drawn = draw(source(files=write(tmp_path, "abc\n"), pattern=["[0-9]", "[x-z]"]), 900)
    kinds = Counter("digit" if text.isdigit() else "letter" if len(text) == 1 else "file" for text in drawn)
    assert all(count == pytest.approx(300, abs=70) for count in kinds.values())


def test_words_that_no_font_has_are_left_out_and_named(tmp_path):
    made = source(files=write(tmp_path, "good Жук bad\u00adhyphen good\nЖук\nfine too\n"))
    assert set(draw(made)) == {"good", "fine too"}
    assert made.refusals.count == 3
    assert made.refusals.examples == ["Жук", "bad\u00adhyphen", "Жук"]
    message = str(made.refusals)
    assert "no font has 'Ж' (U+0416 CYRILLIC CAPITAL LETTER ZHE) (2)" in message
    assert "invisible U+00AD SOFT HYPHEN (1)" in message


def test_a_line_is_in_one_font(tmp_path):
    for letters in ("abc", "xyz"):
        make_font(tmp_path / f"{letters}.ttf", letters)
    tree = {"text": {"pattern": "[abcxyz]{3}", "eval_share": 0}, "fonts": {"files": str(tmp_path)}}
    made = TextSource(recipe.parse(tree))
    drawn = draw(made)
    assert {set(text) <= set("abc") for text in drawn} == {True, False}
    assert all(set(text) <= set("abc") or set(text) <= set("xyz") for text in drawn)


def test_lines_of_a_file_are_divided_where_the_font_changes(tmp_path):
    for letters in ("abc", "xyz"):
        make_font(tmp_path / f"{letters}.ttf", letters)
    tree = {"text": {"files": write(tmp_path, "ab ca xy zz b"), "eval_share": 0}, "fonts": {"files": str(tmp_path)}}
    made = TextSource(recipe.parse(tree))
    assert set(draw(made)) == {"ab ca", "xy zz", "b"}
    assert made.refusals.count == 0


def test_labels_are_read_back_as_the_same_units():
    drawn = draw(source(pattern=r"[|;\"a]{1,3}"), 300)
    assert {text[0] for text in drawn} == {";", '"', "a"}
    assert all(split_label(text) == tuple(text) for text in drawn)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"pattern": "Ж+"}, "none of .* no font has 'Ж'"),
        ({"pattern": "a{3}", "characters": [5, 9]}, r"length 3, not 5 to 9 \(text.characters\)"),
        ({"pattern": r"\|a"}, "starts with |"),
        ({"files": "missing.txt"}, "missing.txt: no such file"),
        ({"language": "xx"}, "wordfreq has no such language; it has ar, "),
    ],
)
def test_recipes_without_a_text_are_refused(text, message):
    if "language" in text:
        pytest.importorskip("wordfreq")
    with pytest.raises(UsageError, match=message):
        draw(source(**text), 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Жук\n", "no word can be drawn: 1 words are left out: no font has"),
        ("\n \n", "it is empty"),
        (b"a\nb\xe9\n", "line 2: not UTF-8"),
    ],
)
def test_files_without_a_text_are_refused(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        source(files=write(tmp_path, content))


def test_scripts_that_need_shaping_are_refused_without_libraqm(tmp_path, monkeypatch):
    folder = tmp_path / "fonts"
    folder.mkdir()
    make_font(folder / "a.ttf", "abمرن\u0303")
    monkeypatch.setattr(texts, "has_raqm", lambda: False)
    monkeypatch.setattr(fonts, "has_raqm", lambda: False)
    tree = {"text": {"files": write(tmp_path, "ab\nمرن\na\u0303\n"), "eval_share": 0}, "fonts": {"files": str(folder)}}
    made = TextSource(recipe.parse(tree))
    # NFC has a letter for a with a tilde, which the font lacks.
    assert set(draw(made)) == {"ab"}
    assert "lacks the library libraqm" in str(made.refusals)


def test_texts_from_right_to_left_have_no_vertical_lines(tmp_path):
    make_font(tmp_path / "a.ttf", "abאב")
    tree = {"text": {"pattern": "[ab]|[אב]"}, "fonts": {"files": str(tmp_path)}, "line": {"direction": "vertical"}}
    assert set(draw(TextSource(recipe.parse(tree)))) == {"a", "b"}


def test_texts_of_the_two_parts_differ_for_all_seeds():
    made = source(pattern="[ab]{4,8}", eval_share=0.2)
    train, evaluation = ({made.draw(random.Random(seed), part) for seed in range(300)} for part in (False, True))
    assert len(train) > 100 and len(evaluation) > 20
    assert not train & evaluation


@given(st.floats(0, 0.5))
def test_the_reserved_texts_are_the_given_share(share):
    reserved = sum(is_reserved(str(number), share) for number in range(2000))
    assert reserved / 2000 == pytest.approx(share, abs=0.05)


def test_wordfreq_is_optional(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wordfreq", None)
    with pytest.raises(UsageError, match=r"pip install 'raycrnn\[words\]'"):
        source(language="en")
