"""Findings about units and labels."""

from collections import Counter

import pytest

from raycrnn.checking.units import units_section
from raycrnn.data.alphabet import Alphabet
from tests.checking.sets import labelled_set

CLEAN = ["abc ab", "bca ca", "cab bc"] * 10


def findings(train, evaluation=None, alphabet=None, **data):
    sets = [labelled_set(train, **data)]
    if evaluation:
        sets.append(labelled_set(evaluation, "eval"))
    return units_section(sets, alphabet, "ltr").findings


def test_frequent_units_cause_no_finding_and_are_counted():
    section = units_section([labelled_set(CLEAN)], None, "ltr")
    assert section.findings == []
    assert section.figures["counts"] == {"train": dict(Counter("".join(CLEAN)))}
    assert section.summary == "4, which occur 180 times in the training labels"


def test_units_that_occur_fewer_than_ten_times_are_rare():
    [finding] = findings([*CLEAN, *["xy"] * 9, "y"])
    assert (finding.kind, finding.rows) == ("rare unit", 9)
    assert "1 of 6 units" in finding.problem and "'x' 9" in finding.problem
    assert finding.examples[0].line == 31


def test_rare_units_that_the_initial_model_reads_are_no_finding():
    section = units_section([labelled_set([*CLEAN, "xy"])], None, "ltr", "x")
    [finding] = section.findings
    assert "1 of 6 units" in finding.problem and "'y' 1" in finding.problem


def test_evaluation_units_that_no_training_row_has_are_found_even_if_the_alphabet_has_them():
    for alphabet in (None, Alphabet(tuple(" abcé"))):
        [finding] = findings(CLEAN, ["ab", "éa"], alphabet)
        assert (finding.kind, finding.rows) == ("unit not in training", 1)
        assert "'é'" in finding.problem
        assert finding.examples[0].csv == "eval.csv"


def test_evaluation_units_that_the_initial_model_reads_are_no_finding():
    sets = [labelled_set(CLEAN), labelled_set(["éa"] * 10, "eval")]
    for alphabet, learned, expected in (("abcé ", "é", []), ("abcé ", "x", ["é"]), ("abc ", "é", ["é"])):
        section = units_section(sets, Alphabet(tuple(alphabet)), "ltr", learned)
        unknown = [each for each in section.findings if each.kind == "unit not in training"]
        assert len(unknown) == len(expected)


def test_units_of_the_alphabet_that_no_label_has_are_said():
    section = units_section([labelled_set(CLEAN)], Alphabet(tuple(" abcxy")), "ltr")
    assert section.figures["not_in_training"] == ["x", "y"]
    assert "2 units of the alphabet" in section.lines[-1]


@pytest.mark.parametrize(
    ("latin", "greek", "found"), [(2000, 12, True), (1000, 12, False), (30, 9, True), (30, 30, False)]
)
def test_a_look_alike_is_a_slip_only_if_it_is_rare(latin, greek, found):
    labels = [f"a{number % 10}b" for number in range(latin)] + [f"α{number % 10}b" for number in range(greek)]
    labels = [label.replace("b", "o") for label in labels] + ["ο"] * greek
    kinds = [finding.kind for finding in findings(labels)]
    assert ("look-alike" in kinds) == found


def test_a_look_alike_is_named_with_its_code_points_and_rows():
    *_, finding = findings([*CLEAN, "аb"])
    assert finding.kind == "look-alike"
    assert "U+0430 CYRILLIC SMALL LETTER A" in finding.problem and "Latin beside Cyrillic" in finding.problem
    assert [example.line for example in finding.examples] == [31]


def test_one_finding_names_all_units_that_a_slip_looks_like():
    *_, finding = findings([*["a-b"] * 200, *["b–a"] * 30, "a—b"])
    assert finding.problem.startswith("'—'")
    assert "'-' (U+002D HYPHEN-MINUS), 200 ×" in finding.problem and "'–' (U+2013 EN DASH), 30 ×" in finding.problem


def test_words_that_look_like_a_frequent_word_are_found_though_their_units_are_frequent():
    labels = ["il eſt la"] * 40 + ["le feu eſt"] * 20 + ["il eft la"]
    [finding] = findings(labels)
    assert (finding.kind, finding.rows) == ("look-alike word", 1)
    assert "'eft' 1 × and 'eſt' 60 ×" in finding.problem
    assert finding.examples[0].line == 61


@pytest.mark.parametrize("label", ["eft il le", "il eft¬", "il eft-"])
def test_parts_of_words_are_no_slips(label):
    assert findings(["il eſt la"] * 40 + ["le feu- eſt¬ la"] * 20 + [label]) == []


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("ab\u200bc", "invisible character"),
        ("ab\u00a0c", "invisible character"),
        ("ab\x07c", "invisible character"),
        ("abc\ufeff", "byte order mark"),
        ("ab  c", "repeated space"),
        ("ab ", "outer space"),
        ("|a|b|", "labels in two forms"),
    ],
)
def test_labels_with_a_fault_are_found(label, kind):
    found = [finding for finding in findings([*CLEAN, label]) if finding.kind != "rare unit"]
    assert [(each.kind, each.rows, each.examples[0].line) for each in found] == [(kind, 1, 31)]


def test_a_unit_at_the_start_or_the_end_of_every_label_is_found():
    for labels, kind in (
        ([f"#{label}" for label in CLEAN], "common beginning"),
        ([f"{label}#" for label in CLEAN], "common ending"),
        ([f" {label}" for label in CLEAN], "common space"),
    ):
        [finding] = findings(labels)
        assert (finding.kind, finding.rows) == (kind, 30)


def test_repeated_spaces_in_a_sequence_of_units_are_found():
    labels = ["|a|b| |c|"] * 20 + ["|a| | |b|", "|a | b|"]
    assert [finding.kind for finding in findings(labels)] == ["rare unit", "repeated space"]
