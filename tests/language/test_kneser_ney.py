"""Kneser-Ney smoothing, compared with an implementation by dictionaries and recursion."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.errors import RaycrnnError
from raycrnn.language import kneser_ney
from raycrnn.language.ngram_model import BEGIN, BEGIN_ID, END, SPECIAL, UNKNOWN

LINES = st.lists(st.text("abc", min_size=1, max_size=9).map(tuple), min_size=1, max_size=12)


class Reference:
    """Interpolated modified Kneser-Ney smoothing, from the formulas of Chen and Goodman (1999)."""

    def __init__(self, lines, order, units=()):
        self.order = order
        self.vocabulary = [*sorted({unit for line in lines for unit in line}.union(units)), END, UNKNOWN]
        texts = [(BEGIN, *line, END) for line in lines]
        raw = [
            Counter(text[i : i + n] for text in texts for i in range(len(text) - n + 1)) for n in range(1, order + 1)
        ]
        self.counts = []
        for n in range(1, order + 1):
            if n == order:
                counts = dict(raw[n - 1])
            else:
                counts = {
                    gram: count if gram[0] == BEGIN else len({longer[0] for longer in raw[n] if longer[1:] == gram})
                    for gram, count in raw[n - 1].items()
                }
            counts.pop((BEGIN,), None)
            self.counts.append(counts)

    def discounts(self, n):
        number = [sum(count == k for count in self.counts[n - 1].values()) for k in range(5)]
        if number[1] and number[2] and number[3]:
            y = number[1] / (number[1] + 2 * number[2])
            found = [0, *(k - (k + 1) * y * number[k + 1] / number[k] for k in (1, 2, 3))]
            if all(0 < found[k] <= k for k in (1, 2, 3)):
                return found
        return [0, 0.5, 1.0, 1.5]

    def prob(self, unit, context):
        """Return the probability of a unit after a context, of which only the last units count."""
        if context is None:
            return 1 / len(self.vocabulary)
        context = context[max(0, len(context) - self.order + 1) :]
        lower = self.prob(unit, context[1:] if context else None)
        counts = {gram[-1]: c for gram, c in self.counts[len(context)].items() if gram[:-1] == context}
        if not counts:
            return lower
        discount, total = self.discounts(len(context) + 1), sum(counts.values())
        left = sum(discount[min(count, 3)] for count in counts.values())
        own = counts.get(unit, 0)
        return (own - discount[min(own, 3)] + left * lower) / total


@given(lines=LINES, order=st.integers(1, 4))
def test_probabilities_are_those_of_the_formulas_after_every_context(lines, order):
    model, reference = kneser_ney.estimate(lines, order, "d"), Reference(lines, order, "d")
    units = [*"abcd"]
    for length in range(order):
        for context in itertools.product(units, repeat=length):
            for start in ((), (BEGIN,)):
                node = np.array([0])
                for unit in (*start, *context):
                    node = longest(model, node, unit)
                expected = [reference.prob(unit, (*start, *context)) for unit in reference.vocabulary]
                numbers = np.array([model.ids.get(unit, 0) for unit in reference.vocabulary])
                found = 10 ** model.after(np.repeat(node, len(numbers)), numbers)
                assert found == pytest.approx(expected, rel=1e-5)
                assert found.sum() == pytest.approx(1, rel=1e-5)


def longest(model, node, unit):
    """Return the longest n-gram that a node and a unit end in."""
    while (found := model.child(node, np.array([model.ids.get(unit, 0)])))[0] < 0:
        node = model.suffix_S[node]
    return found


@given(lines=LINES, order=st.integers(1, 5))
def test_the_probability_of_a_line_is_the_product_over_its_units_and_its_end(lines, order):
    model, reference = kneser_ney.estimate(lines, order), Reference(lines, order)
    text = [*lines[0], *"cxba"]
    expected = [
        math.log10(reference.prob(unit if unit in model.ids else UNKNOWN, (BEGIN, *text[:place])))
        for place, unit in enumerate([*text, END])
        # The reference has no unknown unit in a context.
        if "x" not in text[:place]
    ]
    found = model.log_probs([lines[-1], text])[len(lines[-1]) + 1 :]
    assert found[: len(expected)] == pytest.approx(expected, rel=1e-4)


def test_discounts_of_hand_computed_counts():
    # Counts of unigrams: one different unit before each of a (the beginning), b (a) and the end (b).
    model = kneser_ney.estimate([("a", "b")], 2)
    assert model.units == (*SPECIAL, "a", "b")
    # Too few counts for estimates: the discount of a count of 1 is 0.5, so half of all is left for the uniform part.
    unigram = 0.5 / 3 + 0.5 * (1 / 4)
    after_a = model.after(np.full(2, 1 + model.ids["a"]), np.array([model.ids["b"], model.ids["a"]]))
    assert 10**after_a == pytest.approx([0.5 + 0.5 * unigram, 0.5 * unigram], rel=1e-6)
    assert 10 ** model.log_prob_S[1 + model.ids[UNKNOWN]] == pytest.approx(0.5 / 4)
    assert model.log_prob_S[1 + BEGIN_ID] == -99


def test_every_back_off_weight_is_finite_if_an_estimated_discount_would_be_0():
    # 2, 2 and 4 units occur once, twice and three times, for which the formulas give a discount of 0 for two.
    counts = np.repeat([1, 2, 3], [2, 2, 4])
    discount_D, are_estimated = kneser_ney._discounts(counts)
    assert not are_estimated
    assert (discount_D[1:] > 0).all()


def test_lines_without_units_count_for_nothing_and_texts_without_units_are_refused():
    lines = [tuple("ab"), (), tuple("b")]
    assert kneser_ney.estimate(lines, 3).digest == kneser_ney.estimate([lines[0], lines[2]], 3).digest
    with pytest.raises(RaycrnnError, match="empty"):
        kneser_ney.estimate([(), ()], 3)
    with pytest.raises(RaycrnnError, match="'<s>' is reserved"):
        kneser_ney.estimate([("a", "<s>")], 3)


def test_no_n_gram_is_longer_than_the_lines():
    model = kneser_ney.estimate([tuple("ab")], 9)
    assert model.order == 4
    assert [end - first for first, end in model.levels] == [5, 3, 2, 1]
