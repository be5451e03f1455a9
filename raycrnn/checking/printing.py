"""Print the result of a check as plain text."""

import textwrap
from collections import Counter
from collections.abc import Iterator

from raycrnn.checking.findings import CheckResult, Finding, Histogram, Section
from raycrnn.data.characters import with_code_points

WIDTH = 80

EXAMPLES_SHOWN = 3

FINDINGS_SHOWN = 8
"""Findings of one kind that are printed."""

MAX_DETAIL = 60
"""Characters of an example's detail that are printed."""

BARS = "▁▂▃▄▅▆▇█"


def to_text(result: CheckResult) -> str:
    """Return the result as lines of text, without characters that control a terminal."""
    several = len(result.csvs) > 1
    lines = [line for section in result.sections for line in _section(section, several)]
    return "\n".join(map(with_code_points, [*lines, *_conclusion(result)]))


def _section(section: Section, several: bool) -> Iterator[str]:
    yield from _wrapped(f"{section.title}: {section.summary}", "")
    for histogram in section.histograms:
        yield f"  {_sparkline(histogram)}"
    for line in section.lines:
        yield from _wrapped(line, "  ")
    shown: Counter[str] = Counter()
    for finding in section.findings:
        shown[finding.kind] += 1
        if shown[finding.kind] <= FINDINGS_SHOWN:
            yield from _finding(finding, several)
    for kind, count in shown.items():
        if count > FINDINGS_SHOWN:
            yield f"  … {count - FINDINGS_SHOWN:,} more of the kind {kind!r}: --json and --report list all"


def _finding(finding: Finding, several: bool) -> Iterator[str]:
    mark = "LEFT OUT" if finding.costs_samples else "CHECK"
    noun = "row" if finding.rows == 1 else "rows"
    rows = " ".join(filter(None, (f"{finding.rows:,}", finding.data_set, noun)))
    yield from _wrapped(f"{mark} {rows}: {finding.problem}", "  ")
    yield from _wrapped(f"→ {finding.remedy}", "      ")
    for example in finding.examples[:EXAMPLES_SHOWN]:
        detail = example.detail if len(example.detail) <= MAX_DETAIL else f"{example.detail[: MAX_DETAIL - 1]}…"
        # Paths are not wrapped, so that they can be copied.
        place = f"{example.csv}, line {example.line}" if several else f"line {example.line}"
        yield f"      {place}: {example.path}" + (f": {detail}" if detail else "")
    if finding.rows > EXAMPLES_SHOWN and len(finding.examples) > EXAMPLES_SHOWN:
        yield "      …"


def _wrapped(text: str, indent: str) -> list[str]:
    further = indent + ("  " if text.startswith("→ ") or not indent else "    ")
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _sparkline(histogram: Histogram) -> str:
    """Return a histogram as one line: its name, its least value, a bar for each bin, its greatest value, its median."""
    most = max(histogram.counts)
    bars = "".join(BARS[-(-count * len(BARS) // most) - 1] if count else " " for count in histogram.counts)
    least, median, greatest = (f"{value:,.4g}" for value in (histogram.least, histogram.median, histogram.most))
    end = "+" if histogram.is_open else ""
    return f"{histogram.name:<17} {least:>6} {bars}{end} {greatest}, median {median}"


def _conclusion(result: CheckResult) -> list[str]:
    costly = sum(finding.costs_samples for finding in result.findings)
    others = len(result.findings) - costly
    if not result.findings:
        return ["", "Result: nothing was found."]
    costs = (
        f"{costly} finding{'s' * (costly != 1)} cost{'s' * (costly == 1)} samples" if costly else "no row is left out"
    )
    looks = f"{others} finding{'s' * (others != 1)} to look at" if others else "nothing else was found"
    return ["", f"Result: {costs}; {looks}."]
