"""Texts from patterns, compared with Python's own regular expressions."""

import random
import re

import pytest

from raycrnn.data.synthetic.patterns import pattern_source
from raycrnn.errors import UsageError


@pytest.mark.parametrize(
    "pattern",
    [
        r"[A-Z]{2}-\d{4}",
        r"(?:Mr|Mrs|Dr)\. [A-Z][a-z]{2,8}",
        r"[а-яё]{3,7}",
        r"[^a-z]{5}",
        r"(\w)\1{2}",
        r"a*b+?c?",
        r"^x{3}$",
        r"\d{200}",
        r"[ab\d]",
    ],
)
def test_texts_match_the_pattern_as_a_whole_and_differ(pattern):
    draw = pattern_source(pattern, 1000)
    generator = random.Random(1)
    texts = [draw(generator) for _ in range(50)]
    assert all(re.fullmatch(pattern, text) for text in texts)
    assert len(set(texts)) > 1 or pattern == "^x{3}$"


@pytest.mark.parametrize("pattern", ["((a+)+)+", "(a{1000}){1000}", "((a?){1000}){100000}", "(((a*)*)*)*b"])
def test_nested_repeats_end_at_the_greatest_length(pattern):
    draw = pattern_source(pattern, 40)
    assert all(len(draw(random.Random(seed))) <= 41 * 41 for seed in range(20))


@pytest.mark.parametrize("pattern", [r"(?=b)a", r"a\bb", r"(?<!x)y(?<=x)"])
def test_patterns_for_which_no_text_is_made_are_refused(pattern):
    with pytest.raises(UsageError, match=r"text\.pattern"):
        pattern_source(pattern, 40)
