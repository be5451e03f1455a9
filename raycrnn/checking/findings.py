"""What a check of data sets finds, by section."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from raycrnn.data.rejections import Rejection

MAX_EXAMPLES = 20
"""Examples of a finding. The console and the page show the first of them."""

BINS = 24
"""Bins of a histogram."""

MAX_SPREAD = 2
"""If the largest value is more than this multiple of the 99th percentile, the last bin of a histogram is open-ended."""


@dataclass(frozen=True)
class FindingExample:
    """A row to which a finding applies."""

    csv: str
    line: int
    path: str
    """Path of the image as written in the CSV."""
    place: str
    """Absolute path or URI of the image."""
    detail: str = ""
    """What is found in this row."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or probably wrong, with some rows."""

    kind: str
    """A short name, such as "no such file"."""
    rows: int
    """Number of rows that it applies to."""
    problem: str
    """What is wrong."""
    remedy: str
    """What to do."""
    examples: Sequence[FindingExample] = ()
    """The first rows, at most `MAX_EXAMPLES`."""
    data_set: str = ""
    """"train" or "eval"; empty if it concerns both."""
    costs_samples: bool = False
    """Whether these rows are left out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "examples", tuple(self.examples[:MAX_EXAMPLES]))


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of equal width."""

    name: str
    """What is counted, with its unit, such as "width in pixels"."""
    edges: Sequence[float]
    counts: Sequence[int]
    is_open: bool
    """Whether the last bin also counts all larger values."""
    least: float
    median: float
    most: float

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> "Histogram":
        """Count values, of which there must be at least one. Whole numbers get bins of a whole width."""
        least, most = values.min(), values.max()
        limit = np.quantile(values, 0.99)
        is_open = bool(most > MAX_SPREAD * limit > 0)
        end = limit if is_open else most
        if np.issubdtype(values.dtype, np.integer):
            numbers = int(end) - int(least) + 1
            step = -(-numbers // BINS)
            edges = least + step * np.arange(-(-numbers // step) + 1)
        else:
            edges = np.linspace(least, end, BINS + 1) if end > least else np.array([least, least + 1])
        # np.histogram leaves out values beyond the last edge.
        counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
        return cls(name, edges.tolist(), counts.tolist(), is_open, least.item(), float(np.median(values)), most.item())


@dataclass(frozen=True)
class Section:
    """A part of the result: figures about one subject, and what is wrong with it."""

    name: str
    """Its key in the JSON object."""
    title: str
    summary: str
    """One line."""
    lines: Sequence[str] = ()
    """More lines, for people."""
    findings: Sequence[Finding] = ()
    histograms: Sequence[Histogram] = ()
    figures: dict[str, object] = field(default_factory=dict)
    """All figures, for programs: values that JSON knows."""


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    sections: Sequence[Section]
    """In the order in which they are printed."""
    rejections: Sequence[Rejection]
    """The rows that are left out, sorted by CSV and line."""
    csvs: Sequence[str]
    """Paths of the CSVs."""

    @property
    def findings(self) -> list[Finding]:
        """The findings of all sections."""
        return [finding for section in self.sections for finding in section.findings]

    @property
    def costs_samples(self) -> bool:
        """Whether rows are left out."""
        return any(finding.costs_samples for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """Return all figures, findings and rows that are left out, as values that JSON knows."""
        sections = {
            section.name: {"summary": section.summary, **section.figures}
            | {"histograms": [asdict(histogram) for histogram in section.histograms]}
            for section in self.sections
        }
        findings = [
            {"section": section.name, **asdict(finding)} for section in self.sections for finding in section.findings
        ]
        left_out = [asdict(rejection) for rejection in self.rejections]
        return {
            "csvs": list(self.csvs),
            "costs_samples": self.costs_samples,
            "findings": findings,
            "left_out": left_out,
            **sections,
        }
