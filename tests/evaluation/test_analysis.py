"""Test the analysis of transcriptions, and the comparison of two models."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data.alphabet import Alphabet
from raycrnn.data.rejections import Rejection
from raycrnn.evaluation.analysis import Comparison, EvaluatedLine, Evaluation, ModelInfo, by_length, confusions, spaces
from raycrnn.metrics import error_rates

ALPHABET = Alphabet((*"abcdefgh ", "ſt"))


def line(reference, units, confidence: float = 0.5, place: str = "gone.png", number: int = 1) -> EvaluatedLine:
    """Return a line whose units are ten pixels wide."""
    edges = 10 * np.arange(len(units) + 1)
    spans = np.stack([edges[:-1], edges[1:]], axis=1).astype(np.int32)
    reference, units = tuple(reference), tuple(units)
    scores = error_rates.score(reference, units)
    return EvaluatedLine("set.csv", number, place, place, reference, units, confidence, scores, spans)


def evaluation(*lines: EvaluatedLine, name: str = "model", calibrated_on: int = 100, rejections=()) -> Evaluation:
    model = ModelInfo(name, ALPHABET, (32, 1024), 1.5, calibrated_on, {"network": "tiny"})
    return Evaluation(model, lines, tuple(rejections))


TEXT = st.text("abc ", max_size=8)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8)


@given(PAIRS)
def test_confusions_count_all_edits_and_have_matching_examples(pairs):
    lines = [line(*pair) for pair in pairs]
    found = confusions(lines)
    assert sum(each.count for each in found) == sum(each.counts.unit_edits for each in lines)
    assert [each.count for each in found] == sorted((each.count for each in found), reverse=True)
    for each in found:
        assert 1 <= len(each.examples) <= 3
        for example in each.examples:
            assert example.line.pair(example.line.steps()[example.step]) == (each.reference, each.read)


def test_confusions_are_between_units_with_examples_from_the_best_lines():
    bad, good = line(["ſt", "a", "b", "c"], ["a"]), line(["d", "ſt", "e"], ["d", "e"])
    found = {(each.reference, each.read): each for each in confusions([bad, good, line("ab", "ab")])}
    assert found["ſt", None].count == 2
    assert [example.line for example in found["ſt", None].examples] == [good, bad]


@given(PAIRS)
def test_errors_in_spaces_are_counted_by_kind(pairs):
    lines = [line(*pair) for pair in pairs]
    found = spaces(lines, confusions(lines))
    right = sum(step.equal and each.reference[step.reference] == " " for each in lines for step in each.steps())
    assert found.total == sum(reference.count(" ") for reference, _ in pairs)
    assert found.total == right + found.missed + found.replaced
    assert sum(read.count(" ") for _, read in pairs) == right + found.inserted + found.mistaken


def test_length_buckets_double():
    lines = [line("a" * n, "a" * n) for n in (0, 1, 2, 3, 4, 7, 8)]
    found = by_length(lines)
    assert [(bucket.name, bucket.counts.samples) for bucket in found] == [
        ("0", 1),
        ("1", 1),
        ("2–3", 2),
        ("4–7", 2),
        ("8–15", 1),
    ]
    assert all(bucket.counts.accuracy == 1 for bucket in found)
    assert [bucket.intervals["accuracy"].low for bucket in found[:3]] == pytest.approx(
        [0.2065, 0.2065, 0.3424], abs=1e-4
    )


def test_the_worst_lines_have_the_highest_error_rate():
    a, b, c = line("abcd", "ab"), line("ab", "c"), line("abcdefgh", "abcd")
    assert evaluation(line("ab", "ab"), a, b, c).worst[:3] == [b, c, a]


def test_unknown_units_and_lines_with_them_are_counted():
    found = evaluation(line("axx", "a"), line("xy", ""), line("", "a"), rejections=[Rejection("s", 4, "p", "r", "d")])
    assert found.unknown_units == {"x": 3, "y": 1}
    assert (found.unknown, found.empty, found.unreadable) == (2, 1, 1)
    assert found.as_json()["unknown"] == 2
    assert "2 samples have units that are missing from the model's alphabet" in found.table()


def test_the_table_shows_how_reliable_confidences_are():
    sure = [line("ab", "ab", 0.95), line("ab", "ab", 0.9), line("ab", "ac", 0.99), line("ab", "b", 0.2)]
    table = evaluation(*sure).table()
    assert "confidence 0.9 or more: 75.0 % of the transcriptions, of which 66.7 % are exact" in table
    assert "not calibrated" not in table
    assert "not calibrated" in evaluation(*sure, calibrated_on=0).table()
    unsure = evaluation(line("ab", "ab", 0.1)).table()
    assert "confidence 0.9 or more: 0.0 % of the transcriptions\n" in unsure
    confidence = evaluation(*sure).as_json()["confidence"]
    assert (confidence["share"], confidence["exact"]) == (0.75, pytest.approx(2 / 3))
    assert confidence["calibration_error"] == pytest.approx((abs(0.95 + 0.9 + 0.99 - 2) + 0.2) / 4)


def test_the_comparison_of_two_models_has_a_verdict():
    model = evaluation(*[line("abcd", "abcd")] * 8, *[line("abcd", "abxx")] * 2, name="here")
    other = evaluation(*[line("abcd", "xxxx")] * 8, *[line("abcd", "abcd")] * 2, name="there")
    found = Comparison(model, other)
    cer, exact, alone = found.verdicts()
    assert cer.startswith("CER: here is better by 70.00 percentage points; statistically significant (p = 0.002")
    # 8 to 2: p is 2 × (1 + 10 + 45) / 1024.
    assert "exact: here is better by 60.00 percentage points; not statistically significant (p = 0.109" in exact
    assert alone == "exact only by here: 8; only by there: 2"
    back = Comparison(other, model).verdicts()
    assert "CER: here is better by 70.00" in back[0]
    assert "exact: here is better by 60.00" in back[1]
    against = found.as_json()["against"]
    assert against["exact_alone"] == {"model": 8, "other": 2}
    assert against["differences"]["cer"]["value"] == pytest.approx(0.7)
    assert against["model"] == "there"
    assert "compared with there:" in found.table()


def test_models_with_equal_counts_do_not_differ():
    found = Comparison(evaluation(line("ab", "a")), evaluation(line("ab", "b")))
    assert found.verdicts()[:2] == ["CER: no difference", "exact: no difference"]
    assert found.apart == []


def test_lines_with_the_largest_difference_come_first():
    own = [line("abcd", "abcd"), line("abcd", "a"), line("ab", "ab")]
    others = [line("abcd", "abc"), line("abcd", "abcd"), line("ab", "ab")]
    pairs = Comparison(evaluation(*own), evaluation(*others)).apart
    assert pairs == [(own[1], others[1]), (own[0], others[0])]
