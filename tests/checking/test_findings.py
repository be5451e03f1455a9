"""Histograms, compared with counts of each value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.checking.findings import BINS, MAX_EXAMPLES, Finding, FindingExample, Histogram


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=200))
def test_a_histogram_counts_every_whole_number_once(values):
    histogram = Histogram.of("width", np.array(values))
    assert sum(histogram.counts) == len(values)
    assert len(histogram.counts) == len(histogram.edges) - 1 <= BINS
    assert (histogram.least, histogram.most) == (min(values), max(values))
    assert histogram.median == np.median(values)
    *first, last = histogram.counts
    for count, low, high in zip(first, histogram.edges, histogram.edges[1:], strict=False):
        assert count == sum(low <= value < high for value in values)
    end = np.inf if histogram.is_open else histogram.edges[-1]
    assert last == sum(histogram.edges[-2] <= value <= end for value in values)


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=100))
def test_a_histogram_counts_every_ratio_once(values):
    histogram = Histogram.of("width / height", np.array(values))
    assert sum(histogram.counts) == len(values)
    if not histogram.is_open and len(set(values)) > 1:
        expected, edges = np.histogram(values, BINS)
        assert histogram.counts == expected.tolist()
        assert histogram.edges == pytest.approx(edges.tolist())


def test_one_page_among_lines_does_not_hide_their_distribution():
    widths = np.array([*range(100, 300), 9000])
    histogram = Histogram.of("width", widths)
    assert histogram.is_open
    assert histogram.edges[-1] < 310
    assert histogram.most == 9000


def test_a_finding_keeps_the_first_examples():
    examples = [FindingExample("a.csv", line, "a.png", "/a.png") for line in range(100)]
    finding = Finding("blank image", 100, "blank", "delete", examples)
    assert finding.examples == tuple(examples[:MAX_EXAMPLES])
