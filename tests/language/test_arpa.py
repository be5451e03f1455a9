"""ARPA files: round trips, files of SRILM and KenLM, and damaged ones."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language import arpa, kneser_ney, model_files
from raycrnn.language.ngram_model import UNKNOWN, NgramModel

UNITS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3).filter(
    lambda unit: unit not in ("<s>", "</s>", "<unk>")
)

KENLM = """\\data\\
ngram 1=5
ngram 2=4

\\1-grams:
-1.2\t<unk>\t0
0\t<s>\t-0.30103
-0.9\t</s>\t0
-0.4\ta\t-0.2
-0.7\t<space>\t-0.1

\\2-grams:
-0.3\t<s> a
-0.5\ta <space>
-0.6\t<space> a
-0.25\ta </s>

\\end\\
"""
"""As KenLM's lmplz writes it: `<unk>`, no back-off weights in the highest order."""

SRILM = """
written by ngram-count

\\data\\
ngram  1=       4
ngram  2=       2
ngram  3=       1

\\1-grams:
-0.8\t</s>
-99\t<s>\t-0.5
-0.3\ta -0.25
-0.6\tb

\\2-grams:
-0.1\t<s> a\t-0.125
-0.4\ta b

\\3-grams:
-0.05\tb b a

\\end\\
"""
"""As SRILM writes it: no `<unk>`, missing weights, -99 for the beginning, spaces; pruned, without the context `b b`."""


def after(model: NgramModel, context: str, unit: str) -> float:
    """Return the log10-probability of a unit after a context of units that are separated by spaces."""
    node = np.array([0])
    for each in context.split():
        number = np.array([model.ids[arpa.unescape(each)]])
        while (found := model.child(node, number))[0] < 0:
            node = model.suffix_S[node]
        node = found
    return float(model.after(node, np.array([model.ids[unit]]))[0])


@given(unit=UNITS)
def test_a_token_has_no_white_space_and_stands_for_its_unit(unit):
    token = arpa.escape(unit)
    assert len(token.split()) == 1
    assert not set(token) & {" ", "\t", "\n", "\r"}
    assert arpa.unescape(token) == unit


@given(lines=st.lists(st.lists(UNITS, min_size=1, max_size=6), min_size=1, max_size=8), order=st.integers(1, 4))
def test_a_model_is_the_same_after_a_round_trip(lines, order):
    model = kneser_ney.estimate(lines, order)
    for compressed in (False, True):
        read = arpa.from_bytes(arpa.to_bytes(model, compressed), "x.arpa")
        assert read.units == model.units
        assert (read.key_S == model.key_S).all()
        assert read.log_prob_S == pytest.approx(model.log_prob_S, rel=1e-6)
        assert read.backoff_S == pytest.approx(model.backoff_S, rel=1e-6, abs=1e-7)


def test_the_file_of_a_small_model():
    model = arpa.from_bytes(KENLM.encode(), "x")
    assert list(arpa.to_lines(model))[:12] == [
        "\\data\\",
        "ngram 1=5",
        "ngram 2=4",
        "",
        "\\1-grams:",
        "-1.2\t<unk>\t0",
        "0\t<s>\t-0.30103",
        "-0.9\t</s>\t0",
        "-0.7\t<space>\t-0.1",
        "-0.4\ta\t-0.2",
        "",
        "\\2-grams:",
    ]


def test_a_model_of_kenlm_is_read():
    model = arpa.from_bytes(KENLM.encode(), "x")
    assert model.order == 2
    assert after(model, "a", " ") == pytest.approx(-0.5)
    assert after(model, "a", "a") == pytest.approx(-0.2 - 0.4)
    assert after(model, "<s>", UNKNOWN) == pytest.approx(-0.30103 - 1.2)
    assert model.log_probs([["a", " ", "?"]]) == pytest.approx([-0.3, -0.5, -0.1 - 1.2, -0.9])


def test_a_model_of_srilm_is_read():
    model = arpa.from_bytes(SRILM.replace("\n", "\r\n").encode("utf-8-sig"), "x")
    assert model.order == 3
    assert after(model, "<s> a", "b") == pytest.approx(-0.125 - 0.4)
    assert after(model, "<s> a", "a") == pytest.approx(-0.125 - 0.25 - 0.3)
    # Contexts that were pruned have the probability that backing off gives them.
    assert after(model, "b b", "a") == pytest.approx(-0.05)
    assert after(model, "b", "b") == pytest.approx(-0.6)
    # Without <unk>, an unknown unit is as unlikely as the most unlikely one.
    assert model.log_prob_S[1] == pytest.approx(-0.8)


def test_files_are_read_by_path_and_problems_name_it(tmp_path: Path):
    (tmp_path / "a.arpa").write_text(KENLM)
    (tmp_path / "a.arpa.gz").write_bytes(gzip.compress(KENLM.encode()))
    digests = {model_files.read(tmp_path / name).digest for name in ("a.arpa", "a.arpa.gz")}
    assert len(digests) == 1
    with pytest.raises(UsageError, match=r"b\.arpa: no such language model"):
        model_files.read(tmp_path / "b.arpa")
    with pytest.raises(UsageError, match="cannot be read"):
        model_files.read(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "x: not an ARPA file: it has no line"),
        ("ngram 1=5\n", "ngram 1=6\n", "line 12: 5 n-grams of order 1 instead of the 6"),
        ("ngram 1=5\n", "ngram 1=4\n", "line 10: expected .2-grams:, not '-0.7"),
        ("ngram 2=4\n", "ngram 2=99999999999\n", "line 18: 4 n-grams of order 2 instead of the 99,999,999,999"),
        ("ngram 2=4\n", "ngram 2=3\n", "line 16: expected .end"),
        ("ngram 2=4\n", "ngram 7=4\n", "line 3: expected `ngram 2=NUMBER`"),
        ("ngram 1=5\n", "ngram 1=many\n", "line 2: expected `ngram 1=NUMBER`"),
        ("ngram 2=4\n", "\n".join(f"ngram {n}=1" for n in range(2, 12)), "line 11: the n-grams are longer than 9"),
        ("-0.4\ta", "nan\ta", "line 9: the log-probability is nan"),
        ("-0.4\ta", "-inf\ta", "line 9: the log-probability is -inf"),
        ("-0.4\ta", "0.4\ta", "line 9: the log-probability is 0.4; it must be a finite number that is at most 0"),
        ("-0.4\ta", "x\ta", "line 9: could not convert"),
        ("a\t-0.2", "a\tinf", "line 9: the back-off weight is inf"),
        ("-0.4\ta\t-0.2", "-0.4", "line 9: 1 fields instead of 2 or 3"),
        ("-0.3\t<s> a", "-0.3\t<s> c", "line 13: the unit 'c' is not among the 1-grams"),
        ("<space>\t-0.1", "a\t-0.1", "line 10: the unit 'a' stands twice"),
        ("<space>\t-0.1", "<U+0061>\t-0.1", "line 10: the unit 'a' stands twice"),
        ("-0.5\ta <space>", "-0.5\t<s> a", "x: an n-gram of order 2 stands twice"),
        ("\\2-grams:", "\\3-grams:", "line 12: expected .2-grams:"),
        ("\\end\\", "", "line 19: expected .end"),
    ],
)
def test_damaged_files_are_refused_with_the_line(old, new, message):
    assert old in KENLM
    with pytest.raises(RaycrnnError, match=message):
        arpa.from_bytes(KENLM.replace(old, new, 1).encode(), "x")


@given(end=st.integers(0, len(KENLM) - 3))
def test_a_truncated_file_is_refused(end):
    with pytest.raises(RaycrnnError, match=r"x.*: "):
        arpa.from_bytes(KENLM[:end].encode(), "x")


@given(data=st.binary(max_size=60), place=st.integers(0, len(KENLM)))
def test_any_damage_ends_in_a_message_or_in_a_model(data, place):
    damaged = KENLM.encode()[:place] + data + KENLM.encode()[place + len(data) :]
    try:
        model = arpa.from_bytes(damaged, "x")
    except RaycrnnError as error:
        assert str(error).startswith("x")
    else:
        assert math.isfinite(model.log_probs([["a", " "]]).sum())


def test_a_damaged_gzip_file_and_bytes_that_are_not_utf_8_are_refused():
    with pytest.raises(RaycrnnError, match="x: damaged"):
        arpa.from_bytes(gzip.compress(KENLM.encode())[:-9], "x")
    with pytest.raises(RaycrnnError, match="line 9: not UTF-8"):
        arpa.from_bytes(KENLM.encode().replace(b"-0.4\ta", b"-0.4\t\xe9"), "x")
