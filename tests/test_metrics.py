"""Error rates against a dynamic program of ten lines, and intervals against the binomial distribution."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycrnn.metrics import Counts, Interval, bootstrap, score, words


def edits(reference: list, hypothesis: list) -> int:
    """Levenshtein's distance, row by row."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            substituted = diagonal + (expected != found)
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, substituted)
    return row[-1]


LABEL = st.lists(st.sampled_from(["a", "b", " ", "é", "ab", "quondam", "1", "$"]), max_size=12)
TEXT = st.lists(st.characters(), max_size=12)


@settings(max_examples=300, deadline=None)
@given(LABEL | TEXT, LABEL | TEXT)
def test_counts_are_those_of_the_dynamic_program(reference, hypothesis):
    found = score(reference, hypothesis)
    reference_words, hypothesis_words = "".join(reference).split(), "".join(hypothesis).split()
    assert found == Counts(
        samples=1,
        exact=reference == hypothesis,
        unit_edits=edits(reference, hypothesis),
        units=len(reference),
        word_edits=edits(reference_words, hypothesis_words),
        words=len(reference_words),
    )


@settings(deadline=None)
@given(LABEL, LABEL)
def test_lists_and_tuples_score_alike(reference, hypothesis):
    assert score(tuple(reference), hypothesis) == score(reference, tuple(hypothesis))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "cer", "wer", "accuracy"),
    [
        ("abcd", "abcd", 0, 0, 1),
        ("abcd", "abxd", 1 / 4, 1, 0),
        ("abcd", "", 1, 1, 0),
        ("abcd", "abcdabcd", 1, 1, 0),
        ("ab", "xyzuvw", 3, 1, 0),
        ("kitten", "sitting", 3 / 6, 1, 0),
        ("a b c d", "a b x d", 1 / 7, 1 / 4, 0),
        ("a b", "ab", 1 / 3, 1, 0),
        ("a b", " a  b ", 3 / 3, 0, 0),
        ("Ab", "ab", 1 / 2, 1, 0),
        ("a.", "a", 1 / 2, 1, 0),
        ("", "", 0, 0, 1),
        ("", "a", 1, 1, 0),
        ("", " ", 1, 0, 0),
        (" ", "", 1, 0, 0),
    ],
)
def test_rates_neither_fold_case_nor_drop_spaces(reference, hypothesis, cer, wer, accuracy):
    found = score(list(reference), list(hypothesis))
    assert found.cer == pytest.approx(cer)
    assert found.wer == pytest.approx(wer)
    assert found.accuracy == accuracy


def test_a_unit_of_several_characters_is_one_unit():
    found = score(["die", " ", "quondam"], ["die", " ", "quodam"])
    assert (found.unit_edits, found.units) == (1, 3)
    assert (found.word_edits, found.words) == (1, 2)
    assert score(["ab"], ["a", "b"]).exact == 0


def test_words_stand_between_spaces_whatever_the_units():
    assert words(["a", "b", " ", "cd", " ", " ", "e"]) == ["ab", "cd", "e"]
    assert words([]) == []


def test_without_samples_nothing_is_wrong_and_nothing_right():
    assert (Counts().cer, Counts().wer, Counts().accuracy) == (0, 0, 0)


@settings(deadline=None)
@given(st.lists(st.tuples(LABEL, LABEL), max_size=8))
def test_counts_add_up_to_the_rates_of_the_whole(pairs):
    total = sum((score(*pair) for pair in pairs), Counts())
    units = sum(len(reference) for reference, _ in pairs)
    assert total.samples == len(pairs)
    if units:
        assert total.cer == pytest.approx(sum(edits(*pair) for pair in pairs) / units)
    if pairs:
        assert total.accuracy == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_adding_takes_field_by_field():
    assert Counts(1, 2, 3, 4, 5, 6) + Counts(10, 20, 30, 40, 50, 60) == Counts(11, 22, 33, 44, 55, 66)
    assert Counts(1, 2, 3, 4, 5, 6).as_tuple() == (1, 2, 3, 4, 5, 6)


# Intervals


def binomial_quantile(n: int, p: float, share: float) -> int:
    """The least k of which B(n, p) reaches the share."""
    reached, k = 0.0, -1
    while reached < share:
        k += 1
        reached += math.comb(n, k) * p**k * (1 - p) ** (n - k)
    return k


@pytest.mark.parametrize(("n", "exact"), [(100, 90), (60, 30), (200, 4)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_of_the_accuracy_is_the_binomial_s(n, exact, level):
    scores = [Counts(samples=1, exact=int(i < exact), units=1) for i in range(n)]
    found = bootstrap(scores, level=level, resamples=4000)["accuracy"]
    assert found.low * n == pytest.approx(binomial_quantile(n, exact / n, (1 - level) / 2), abs=1)
    assert found.high * n == pytest.approx(binomial_quantile(n, exact / n, (1 + level) / 2), abs=1)


def some_scores(n: int, seed: int) -> list[Counts]:
    return [
        Counts(1, int((i * seed) % 3 == 0), (i * seed) % 5, 4 + (i + seed) % 9, (i * seed) % 3, 1 + i % 4)
        for i in range(n)
    ]


@pytest.mark.parametrize("n", [1, 2, 10, 100])
@pytest.mark.parametrize("seed", [1, 2, 7])
def test_an_interval_contains_the_point(n, seed):
    scores = some_scores(n, seed)
    total = sum(scores, Counts())
    found = bootstrap(scores, resamples=300)
    assert found.keys() == {"cer", "wer", "accuracy"}
    for name, interval in found.items():
        assert interval.low <= getattr(total, name) <= interval.high


def test_an_interval_narrows_with_the_samples_and_widens_with_the_level():
    few, many = (bootstrap(some_scores(n, 7), resamples=400)["cer"] for n in (20, 2000))
    assert many.high - many.low < (few.high - few.low) / 5
    sure = bootstrap(some_scores(20, 7), level=0.99, resamples=400)["cer"]
    assert sure.low <= few.low < few.high <= sure.high


def test_intervals_are_the_same_each_time_and_others_by_another_seed():
    scores = some_scores(30, 7)
    assert bootstrap(scores, resamples=200) == bootstrap(scores, resamples=200)
    assert bootstrap(scores, resamples=200, seed=1) != bootstrap(scores, resamples=200)


def test_where_all_samples_are_alike_the_interval_is_a_point():
    found = bootstrap([Counts(1, 1, 1, 4, 1, 2)] * 20, resamples=50)
    assert found == {"cer": Interval(0.25, 0.25), "wer": Interval(0.5, 0.5), "accuracy": Interval(1, 1)}


def test_without_samples_there_are_no_intervals():
    assert bootstrap([]) == {}
