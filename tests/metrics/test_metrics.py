"""Test error rates against a reference implementation, and intervals and tests against the binomial distribution."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.metrics.error_rates import Counts, align, score, words
from raycrnn.metrics.reliability import Point, calibration_error, coverage, keep_above, reliability
from raycrnn.metrics.significance import Interval, compare, disagreements, intervals, mcnemar, wilson


def edits(reference: list, hypothesis: list) -> int:
    """Return the Levenshtein distance, computed row by row."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            substituted = diagonal + (expected != found)
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, substituted)
    return row[-1]


LABEL = st.lists(st.sampled_from(["a", "b", " ", "é", "ab", "quondam", "1", "$"]), max_size=12)
TEXT = st.lists(st.characters(), max_size=12)


@given(LABEL | TEXT, LABEL | TEXT)
def test_counts_equal_those_of_the_reference_implementation(reference, hypothesis):
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


@given(LABEL, LABEL)
def test_lists_and_tuples_have_equal_scores(reference, hypothesis):
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
def test_case_and_spaces_count(reference, hypothesis, cer, wer, accuracy):
    found = score(list(reference), list(hypothesis))
    assert found.cer == pytest.approx(cer)
    assert found.wer == pytest.approx(wer)
    assert found.accuracy == accuracy


def test_a_unit_of_several_characters_is_one_unit():
    found = score(["die", " ", "quondam"], ["die", " ", "quodam"])
    assert (found.unit_edits, found.units) == (1, 3)
    assert (found.word_edits, found.words) == (1, 2)
    assert score(["ab"], ["a", "b"]).exact == 0


def test_words_are_separated_by_spaces():
    assert words(["a", "b", " ", "cd", " ", " ", "e"]) == ["ab", "cd", "e"]
    assert words([]) == []


def test_all_rates_are_zero_without_samples():
    assert (Counts().cer, Counts().wer, Counts().accuracy) == (0, 0, 0)


@given(st.lists(st.tuples(LABEL, LABEL), max_size=8))
def test_added_counts_have_the_rates_of_all_samples(pairs):
    total = sum((score(*pair) for pair in pairs), Counts())
    units = sum(len(reference) for reference, _ in pairs)
    assert total.samples == len(pairs)
    if units:
        assert total.cer == pytest.approx(sum(edits(*pair) for pair in pairs) / units)
    if pairs:
        assert total.accuracy == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_counts_are_added_field_by_field():
    assert Counts(1, 2, 3, 4, 5, 6) + Counts(10, 20, 30, 40, 50, 60) == Counts(11, 22, 33, 44, 55, 66)
    assert Counts(1, 2, 3, 4, 5, 6).as_tuple() == (1, 2, 3, 4, 5, 6)


# --- intervals


def binomial_quantile(n: int, p: float, share: float) -> int:
    """Return the smallest k for which the distribution function of B(n, p) reaches `share`."""
    reached, k = 0.0, -1
    while reached < share:
        k += 1
        reached += math.comb(n, k) * p**k * (1 - p) ** (n - k)
    return k


@pytest.mark.parametrize(("n", "wrong"), [(100, 10), (60, 30), (200, 4)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_of_an_error_rate_is_close_to_the_binomial_one(n, wrong, level):
    scores = [Counts(samples=1, unit_edits=int(i < wrong), units=1) for i in range(n)]
    found = intervals(scores, level=level, resamples=4000)["cer"]
    assert found.low * n == pytest.approx(binomial_quantile(n, wrong / n, (1 - level) / 2), abs=1)
    assert found.high * n == pytest.approx(binomial_quantile(n, wrong / n, (1 + level) / 2), abs=1)


@given(st.integers(1, 10**6), st.floats(0, 1), st.sampled_from([0.8, 0.95]))
def test_the_interval_of_the_accuracy_is_the_score_interval(n, share, level):
    exact = round(share * n)
    found = wilson(exact, n, level)
    assert 0 <= found.low <= exact / n <= found.high <= 1
    z = {0.8: 1.2815515655446004, 0.95: 1.959963984540054}[level]
    for bound in (found.low, found.high):
        off = abs(exact / n - bound)
        assert off == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), rel=1e-3, abs=1e-9)


def test_the_interval_of_the_accuracy_has_a_positive_width_at_the_ends():
    found = intervals([Counts(1, 1, 0, 5, 0, 2)] * 20)["accuracy"]
    assert (found.low, found.high) == (pytest.approx(0.8389, abs=1e-4), 1)
    found = intervals([Counts(1, 0, 5, 5, 2, 2)] * 20)["accuracy"]
    assert (found.low, found.high) == (0, pytest.approx(0.1611, abs=1e-4))


def some_scores(n: int, seed: int) -> list[Counts]:
    return [
        Counts(1, int((i * seed) % 3 == 0), (i * seed) % 5, 4 + (i + seed) % 9, (i * seed) % 3, 1 + i % 4)
        for i in range(n)
    ]


@pytest.mark.parametrize("n", [1, 2, 10, 100])
@pytest.mark.parametrize("seed", [1, 2, 7])
def test_an_interval_contains_the_rate(n, seed):
    scores = some_scores(n, seed)
    total = sum(scores, Counts())
    found = intervals(scores, resamples=300)
    assert found.keys() == {"cer", "wer", "accuracy"}
    for name, interval in found.items():
        assert interval.low <= getattr(total, name) <= interval.high


def test_an_interval_narrows_with_the_samples_and_widens_with_the_level():
    few, many = (intervals(some_scores(n, 7), resamples=400)["cer"] for n in (20, 2000))
    assert many.high - many.low < (few.high - few.low) / 5
    sure = intervals(some_scores(20, 7), level=0.99, resamples=400)["cer"]
    assert sure.low <= few.low < few.high <= sure.high


def test_intervals_depend_on_the_seed_alone():
    scores = some_scores(30, 7)
    assert intervals(scores, resamples=200) == intervals(scores, resamples=200)
    assert intervals(scores, resamples=200, seed=1) != intervals(scores, resamples=200)


def test_the_interval_of_equal_samples_is_a_point():
    found = intervals([Counts(1, 1, 1, 4, 1, 2)] * 20, resamples=50)
    assert (found["cer"], found["wer"]) == (Interval(0.25, 0.25), Interval(0.5, 0.5))


def test_without_samples_there_are_no_intervals():
    assert intervals([]) == {}


# --- alignment


@given(LABEL | TEXT, LABEL | TEXT)
def test_an_alignment_covers_both_sequences_with_the_fewest_edits(reference, hypothesis):
    steps = align(reference, hypothesis)
    assert [step.reference for step in steps if step.reference is not None] == list(range(len(reference)))
    assert [step.hypothesis for step in steps if step.hypothesis is not None] == list(range(len(hypothesis)))
    assert sum(not step.equal for step in steps) == edits(reference, hypothesis)
    for step in steps:
        pair = step.reference, step.hypothesis
        assert step.equal == (None not in pair and reference[pair[0]] == hypothesis[pair[1]])


# --- two models


def exact_p(first: int, second: int) -> float:
    """Return the p-value of McNemar's test in exact arithmetic: the share of the 2 ** n splits that are as uneven."""
    n = first + second
    uneven = sum(math.comb(n, k) for k in range(n + 1) if abs(n - 2 * k) >= abs(first - second))
    return float(Fraction(uneven, 2**n))


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_p_value_of_mcnemars_test_is_exact(first, second):
    assert mcnemar(first, second) == pytest.approx(exact_p(first, second))
    assert mcnemar(first, second) == mcnemar(second, first)


def test_the_p_value_of_mcnemars_test_is_accurate_for_large_counts():
    assert mcnemar(2600, 2400) == pytest.approx(exact_p(2600, 2400))
    # Three standard deviations of the normal approximation.
    assert mcnemar(50_000 + 474, 50_000 - 474) == pytest.approx(0.0027, rel=0.05)


def test_differences_are_paired():
    """The second model makes one edit fewer in each line. That is significant although rates vary between lines."""
    first = [Counts(1, 0, 1 + 3 * (i % 2), 10, 1, 2) for i in range(50)]
    second = [Counts(1, int(i % 2 == 0), 3 * (i % 2), 10, 1, 2) for i in range(50)]
    found = compare(first, second, resamples=300)
    assert found["cer"].value == pytest.approx(-0.1)
    assert (found["cer"].interval.low, found["cer"].interval.high) == pytest.approx((-0.1, -0.1))
    assert found["cer"].p < 0.01
    assert (found["wer"].value, found["wer"].p) == (0, 1)
    assert found["accuracy"].value == 0.5
    assert found["accuracy"].p == mcnemar(0, 25)
    assert disagreements(first, second) == (0, 25)


def test_swapping_the_models_changes_the_sign():
    pair = some_scores(40, 7), some_scores(40, 2)
    there, back = compare(*pair, resamples=200), compare(*pair[::-1], resamples=200)
    for name in there:
        assert there[name].value == -back[name].value
        assert there[name].interval.low == pytest.approx(-back[name].interval.high)
        assert there[name].p == back[name].p


def test_a_model_does_not_differ_from_itself():
    found = compare(some_scores(20, 7), some_scores(20, 7), resamples=50)
    assert {(each.value, each.interval, each.p) for each in found.values()} == {(0, Interval(0, 0), 1)}


# --- confidence

SURE = st.lists(st.tuples(st.sampled_from([0, 0.05, 0.1, 0.5, 0.55, 0.9, 0.95, 1]), st.integers(0, 1)), max_size=30)


@given(SURE)
def test_bins_contain_each_sample_once_and_have_correct_means(pairs):
    bins = reliability([sure for sure, _ in pairs], [exact for _, exact in pairs])
    assert sum(each.samples for each in bins) == len(pairs)
    for each in bins:
        own = [pair for pair in pairs if each.low <= pair[0] < each.high or pair[0] == each.high == 1]
        assert each.samples == len(own) > 0
        assert each.confidence == pytest.approx(sum(sure for sure, _ in own) / len(own))
        assert each.exact == pytest.approx(sum(exact for _, exact in own) / len(own))
    assert 0 <= calibration_error(bins) <= 1


def test_the_calibration_error_is_the_mean_gap():
    # Three samples with confidence 0.8, of which two are exact, and one with 0.3 that is not.
    bins = reliability([0.8, 0.8, 0.8, 0.3], [1, 1, 0, 0])
    assert calibration_error(bins) == pytest.approx((3 * (0.8 - 2 / 3) + 0.3) / 4)
    assert calibration_error([]) == 0


@given(SURE)
def test_coverage_has_a_point_for_every_threshold(pairs):
    confidences, exact = [sure for sure, _ in pairs], [right for _, right in pairs]
    points = coverage(confidences, exact)
    assert [point.threshold for point in points] == sorted(set(confidences), reverse=True)
    for point in points:
        kept = [right for sure, right in pairs if sure >= point.threshold]
        assert point.coverage == pytest.approx(len(kept) / len(pairs))
        assert point.exact == pytest.approx(sum(kept) / len(kept))
        found = keep_above(confidences, exact, point.threshold)
        assert (found.coverage, found.exact) == pytest.approx((point.coverage, point.exact))


def test_many_thresholds_are_thinned_and_include_both_ends():
    points = coverage([i / 5000 for i in range(5000)], [1] * 5000, max_points=100)
    assert len(points) == 100
    assert (points[0].threshold, points[-1].threshold, points[-1].coverage) == (4999 / 5000, 0, 1)


def test_no_sample_is_kept_above_the_highest_confidence():
    assert keep_above([0.2, 0.4], [1, 1], 0.9) == Point(0.9, 0, 0)
    assert keep_above([], [], 0.9) == Point(0.9, 0, 0)
