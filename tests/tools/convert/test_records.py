"""Labels: what a CSV can hold is read back as it was, and the rest is refused with a reason."""

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from raycrnn.data.csv_files import parse_row, split_label, write_field
from raycrnn.tools.convert.records import LabelledImage, UnusableLine, row_label, shown


def labelled(label: object) -> LabelledImage:
    return LabelledImage(Path("x"), "", "x.png", b"", label)


@given(st.text(st.sampled_from('ab|;" \n\r\0é\ud800\u2028')))
@example("|a|")
@example('"a";b')
def test_a_text_is_read_back_or_refused(text):
    try:
        label = row_label(labelled(text))
    except UnusableLine as error:
        assert not text or text.startswith("|") or set(text) & set("\n\r\ud800"), error.reason
        return
    assert parse_row(f"x.png;{write_field(label)}", 1).label == text
    assert row_label(labelled(text.encode())) == label


@given(st.lists(st.text(st.sampled_from("ab|é"), min_size=1, max_size=2), min_size=1, max_size=5))
@example(["|", "a"])
@example(["a", "|"])
@example(["e", "\u0301", "|"])
def test_units_are_read_back_or_refused(units):
    try:
        label = row_label(labelled(tuple(units)))
    except UnusableLine:
        assert any("|" in unit for unit in units)
        return
    assert split_label(label) == tuple(units)


def test_long_values_are_shortened_in_messages():
    assert len(shown("x" * 10**6)) <= 80
    assert len(shown([["x" * 100]] * 100)) <= 80
    assert shown("x") == "'x'"
