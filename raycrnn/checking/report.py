"""The page of a check: all findings with sample images, self-contained."""

import itertools

from raycrnn import __version__
from raycrnn.checking.findings import CheckResult, Finding, FindingExample, Histogram
from raycrnn.data.characters import name_of, with_code_points
from raycrnn.data.orientation import LineOrientation
from raycrnn.evaluation import page
from raycrnn.evaluation.pictures import Album, Picture

EXAMPLES_SHOWN = 6
"""Sample images of a finding."""

LEFT_OUT_SHOWN = 200
"""Rows in the table of rows that are left out. `--left-out` writes all of them."""


def render(result: CheckResult, orientation: LineOrientation = "horizontal") -> str:
    """Return the page as HTML. Lines that stand upright are turned."""
    album = Album(orientation=orientation)
    counts = {section.name: section.figures for section in result.sections}["units"]["counts"]
    assert isinstance(counts, dict)
    costly = [finding for finding in result.findings if finding.costs_samples]
    return page.template("raycrnn.checking").render(
        result=result,
        pictures={id(finding): _examples(album, finding) for finding in result.findings},
        bars={id(histogram): _bars(histogram) for section in result.sections for histogram in section.histograms},
        costly=sum(finding.rows for finding in costly),
        others=len(result.findings) - len(costly),
        units=_units(counts),
        set_names=list(counts),
        left_out=result.rejections[:LEFT_OUT_SHOWN],
        id=id,
        shown=with_code_points,
        version=__version__,
    )


def _units(counts: dict[str, dict[str, int]]) -> list[tuple[str, str, list[int]]]:
    """Return each unit with the names of its characters and its count in each set, the most frequent ones first."""
    units = dict.fromkeys(unit for own in counts.values() for unit in own)
    return [(unit, ", ".join(map(name_of, unit)), [own.get(unit, 0) for own in counts.values()]) for unit in units]


def _examples(album: Album, finding: Finding) -> list[tuple[FindingExample, Picture | None]]:
    return [(example, album.full(example.place)) for example in finding.examples[:EXAMPLES_SHOWN]]


def _bars(histogram: Histogram) -> list[tuple[float, str]]:
    """Return the height in percent and the description of each bar."""
    most = max(histogram.counts)
    bounds = itertools.pairwise(histogram.edges)
    return [
        (round(100 * count / most, 1), f"{low:,.4g} to {high:,.4g}: {count:,}")
        for count, (low, high) in zip(histogram.counts, bounds, strict=True)
    ]
