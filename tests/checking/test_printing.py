"""The result of a check as text."""

import numpy as np

from raycrnn.checking.findings import CheckResult, Finding, FindingExample, Histogram, Section
from raycrnn.checking.printing import to_text


def text_of(findings=(), csvs=("a.csv",), **section) -> list[str]:
    sections = [Section("units", "Units", "3", findings=findings, **section)]
    return to_text(CheckResult(sections, [], csvs)).splitlines()


def finding(examples=1, **values) -> Finding:
    rows = [FindingExample("a.csv", line, f"{line}.png", f"/{line}.png", "x" * line) for line in range(1, examples + 1)]
    return Finding(
        **{"kind": "look-alike", "rows": examples, "problem": "odd", "remedy": "mend", **values}, examples=rows
    )


def test_a_section_without_findings_is_one_line():
    assert text_of() == ["Units: 3", "", "Result: nothing was found."]


def test_a_finding_has_its_remedy_and_the_first_rows():
    assert text_of([finding(5, data_set="train", costs_samples=True)]) == [
        "Units: 3",
        "  LEFT OUT 5 train rows: odd",
        "      → mend",
        "      line 1: 1.png: x",
        "      line 2: 2.png: xx",
        "      line 3: 3.png: xxx",
        "      …",
        "",
        "Result: 1 finding costs samples; nothing else was found.",
    ]


def test_the_csv_is_named_if_there_are_several():
    assert "      a.csv, line 1: 1.png: x" in text_of([finding()], ["a.csv", "b.csv"])


def test_of_many_findings_of_a_kind_the_first_are_printed():
    lines = text_of([finding(rows=number) for number in range(1, 12)])
    assert sum(line.startswith("  CHECK") for line in lines) == 8
    assert "  … 3 more of the kind 'look-alike': --json and --report list all" in lines
    assert lines[-1] == "Result: no row is left out; 11 findings to look at."


def test_a_histogram_is_one_line():
    values = np.array([1] * 8 + [2] * 4 + [4])
    [_, line, *_] = text_of(histograms=[Histogram.of("units in a label", values)])
    assert line == "  units in a label       1 █▄ ▁ 4, median 1"
