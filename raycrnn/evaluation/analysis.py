"""Analyse the transcriptions of a labelled set: scores, kinds of errors, and the comparison of two models."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from raycrnn.data.alphabet import Alphabet
from raycrnn.data.orientation import LineOrientation
from raycrnn.data.rejections import Rejection
from raycrnn.metrics import error_rates, reliability, significance
from raycrnn.metrics.error_rates import AlignmentStep, Counts
from raycrnn.metrics.reliability import Bin, Point
from raycrnn.metrics.significance import Difference, Interval

CONFIDENT = 0.9
"""Confidence from which a transcription needs no review."""

NAMES = {"cer": "CER", "wer": "WER", "accuracy": "exact"}

SIGNIFICANCE_LEVEL = 0.05
"""A difference is statistically significant if its p-value is below this."""

MAX_EXAMPLES = 3
"""Examples of each confusion."""


@dataclass(frozen=True)
class EvaluatedLine:
    """A labelled image and its transcription."""

    csv: str
    number: int
    """Line number in the CSV."""
    path: str
    """Path of the image as written in the CSV."""
    place: str
    """Resolved path or URI of the image."""
    reference: tuple[str, ...]
    units: tuple[str, ...]
    confidence: float
    counts: Counts
    spans: np.ndarray | None = field(default=None, compare=False)
    """int32 [units, 2]: the columns [left, right) of each unit, in pixels of the image, which is upright and
    turned so that the line runs horizontally. None: not requested."""

    @property
    def badness(self) -> tuple[float, int]:
        """Sort key: the error rate, then the number of edits."""
        return self.counts.cer, self.counts.unit_edits

    def steps(self) -> list[AlignmentStep]:
        """Return the alignment of the label with the transcription."""
        return error_rates.align(self.reference, self.units)

    def pair(self, step: AlignmentStep) -> "Pair":
        """Return the two units of a step."""
        reference = None if step.reference is None else self.reference[step.reference]
        return reference, None if step.hypothesis is None else self.units[step.hypothesis]


Pair = tuple[str | None, str | None]
"""A unit of the reference and the unit read for it. None is a gap."""


@dataclass(frozen=True)
class ModelInfo:
    """What a report says about a model."""

    name: str
    """Its directory, as the user typed it."""
    alphabet: Alphabet
    input_shape: tuple[int, int]
    """Height and maximum width, in pixels."""
    temperature: float = 1.0
    """Temperature of the confidences: 1, except in models of version 0.1."""
    calibrated_on: int = 0
    """Number of samples that the confidences were calibrated on. 0: not calibrated."""
    facts: dict[str, str] = field(default_factory=dict)
    """Further facts, formatted for display."""
    orientation: LineOrientation = "horizontal"
    """How the lines run in the images."""


@dataclass(frozen=True)
class Evaluation:
    """The lines that a model transcribed, and the rows that could not be read."""

    model: ModelInfo
    lines: tuple[EvaluatedLine, ...]
    rejections: tuple[Rejection, ...]

    @cached_property
    def counts(self) -> Counts:
        """Counts of all lines together."""
        return sum((line.counts for line in self.lines), Counts())

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of the rates in `NAMES`."""
        return significance.intervals([line.counts for line in self.lines])

    @cached_property
    def unknown_units(self) -> Counter[str]:
        """Units of the labels that are missing from the alphabet, with their counts."""
        return Counter(unit for line in self.lines for unit in line.reference if unit not in self.model.alphabet)

    @cached_property
    def unknown(self) -> int:
        """Number of samples whose label has a unit that is missing from the alphabet."""
        return sum(any(unit in self.unknown_units for unit in line.reference) for line in self.lines)

    @property
    def empty(self) -> int:
        """Number of samples without a label or with an empty one."""
        return sum(not line.reference for line in self.lines)

    @property
    def unreadable(self) -> int:
        """Number of samples that could not be read and are left out."""
        return len(self.rejections)

    @cached_property
    def worst(self) -> list[EvaluatedLine]:
        """All lines, those with the highest error rate first."""
        return sorted(self.lines, key=lambda line: line.badness, reverse=True)

    @cached_property
    def by_length(self) -> list["Bucket"]:
        return by_length(self.lines)

    @cached_property
    def confusions(self) -> list["Confusion"]:
        return confusions(self.lines)

    @property
    def spaces(self) -> "Spaces":
        return spaces(self.lines, self.confusions)

    @property
    def confident(self) -> Point:
        """Share and accuracy of the transcriptions with a confidence of at least `CONFIDENT`."""
        return reliability.keep_above(*self._confidences, CONFIDENT)

    @cached_property
    def reliability(self) -> list[Bin]:
        return reliability.reliability(*self._confidences)

    @cached_property
    def coverage(self) -> list[Point]:
        return reliability.coverage(*self._confidences)

    @cached_property
    def _confidences(self) -> tuple[list[float], list[int]]:
        return [line.confidence for line in self.lines], [line.counts.exact for line in self.lines]

    def table(self) -> str:
        """Return the scores as text for the terminal."""
        lines = [f"{'':<7}{'':>9}   95 % interval"]
        for key, name in NAMES.items():
            value, bounds = getattr(self.counts, key), show_interval(self.intervals[key])
            lines.append(f"{name:<7}{100 * value:>7.2f} %   {bounds}")
        lines.append(f"{self.counts.samples:,} samples, {self.counts.units:,} units, {self.counts.words:,} words")
        lines.append(self.about_confidence())
        if self.unknown:
            lines.append(
                f"{self.unknown:,} samples have units that are missing from the model's alphabet; they count as errors"
            )
        if self.empty:
            lines.append(f"{self.empty:,} samples have no label; all units read in them count as errors")
        if self.unreadable:
            lines.append(f"{self.unreadable:,} samples could not be read and are left out")
        return "\n".join(lines)

    def about_confidence(self) -> str:
        """Return what the confidences are worth, as text for the terminal."""
        kept, error = self.confident, reliability.calibration_error(self.reliability)
        exact = f", of which {100 * kept.exact:.1f} % are exact" if kept.coverage else ""
        not_calibrated = "" if self.model.calibrated_on else "; the model's confidences are not calibrated"
        return (
            f"confidence {CONFIDENT:g} or more: {100 * kept.coverage:.1f} % of the transcriptions{exact}\n"
            f"expected calibration error {100 * error:.1f} %{not_calibrated}"
        )

    def as_json(self) -> dict:
        """Return the scores as JSON values."""
        scores = {key: getattr(self.counts, key) for key in NAMES}
        intervals = {key: [interval.low, interval.high] for key, interval in self.intervals.items()}
        counts = {"unknown": self.unknown, "empty": self.empty, "unreadable": self.unreadable, **asdict(self.counts)}
        kept = self.confident
        confidence = {
            "threshold": kept.threshold,
            "share": kept.coverage,
            "exact": kept.exact,
            "calibration_error": reliability.calibration_error(self.reliability),
            "temperature": self.model.temperature,
            "calibrated_on": self.model.calibrated_on,
        }
        return {**scores, "intervals": intervals, **counts, "confidence": confidence}


def show_interval(interval: Interval) -> str:
    """Format an interval of a rate in percent."""
    return f"{100 * interval.low:.2f} – {100 * interval.high:.2f} %"


# --- kinds of errors


@dataclass(frozen=True)
class Bucket:
    """Lines whose references have a similar length."""

    least: int
    """Fewest units of a reference."""
    most: int
    counts: Counts
    intervals: dict[str, Interval]

    @property
    def name(self) -> str:
        return f"{self.least}" if self.least == self.most else f"{self.least}–{self.most}"


def by_length(lines: Sequence[EvaluatedLine]) -> list[Bucket]:
    """Group lines by the length of their reference. Each bucket is twice as wide as the last: 0, 1, 2–3, 4–7, …"""
    groups: dict[int, list[Counts]] = {}
    for line in lines:
        groups.setdefault(len(line.reference).bit_length(), []).append(line.counts)
    return [
        Bucket(2**bits // 2, max(0, 2**bits - 1), sum(scores, Counts()), significance.intervals(scores))
        for bits, scores in sorted(groups.items())
    ]


@dataclass(frozen=True)
class Example:
    """An edit in a line."""

    line: EvaluatedLine
    step: int
    """Index of the step in the line's alignment."""


@dataclass(frozen=True)
class Confusion:
    """A unit read as another, missed (read is None) or inserted (reference is None)."""

    reference: str | None
    read: str | None
    count: int
    examples: tuple[Example, ...]
    """Examples from different lines. Lines with few errors come first, because their alignment is clearest."""


def confusions(lines: Sequence[EvaluatedLine]) -> list[Confusion]:
    """Return the confusions, most frequent first."""
    counts: Counter[Pair] = Counter()
    examples: dict[Pair, list[Example]] = {}
    for line, place, pair in _edits(sorted(lines, key=lambda line: line.badness)):
        counts[pair] += 1
        own = examples.setdefault(pair, [])
        if len(own) < MAX_EXAMPLES and not (own and own[-1].line is line):
            own.append(Example(line, place))
    return [Confusion(*pair, count, tuple(examples[pair])) for pair, count in counts.most_common()]


def _edits(lines: Sequence[EvaluatedLine]) -> Iterator[tuple[EvaluatedLine, int, Pair]]:
    for line in lines:
        steps = line.steps() if line.counts.unit_edits else []
        yield from ((line, place, line.pair(step)) for place, step in enumerate(steps) if not step.equal)


@dataclass(frozen=True)
class Spaces:
    """Counts of the errors in spaces, that is units of white space only."""

    total: int
    """Spaces in the references."""
    missed: int
    inserted: int
    replaced: int
    """Spaces read as another unit."""
    mistaken: int
    """Other units read as a space."""


def spaces(lines: Sequence[EvaluatedLine], kinds: Sequence[Confusion]) -> Spaces:
    """Count the errors in spaces, given the confusions of the lines."""

    def count(reference: bool | None, read: bool | None) -> int:
        return sum(
            each.count for each in kinds if (_is_space(each.reference), _is_space(each.read)) == (reference, read)
        )

    total = sum(unit.isspace() for line in lines for unit in line.reference)
    return Spaces(total, count(True, None), count(None, True), count(True, False), count(False, True))


def _is_space(unit: str | None) -> bool | None:
    return None if unit is None else unit.isspace()


# --- two models


@dataclass(frozen=True)
class Comparison:
    """Two models on the same lines."""

    model: Evaluation
    other: Evaluation

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """The rates of the other model minus those of the model."""
        return significance.compare(*self._scores)

    @property
    def disagreements(self) -> tuple[int, int]:
        """Number of lines that only the model has exact, and that only the other has."""
        return significance.disagreements(*self._scores)

    @property
    def _scores(self) -> tuple[list[Counts], list[Counts]]:
        model, other = ([line.counts for line in each.lines] for each in (self.model, self.other))
        return model, other

    @property
    def apart(self) -> list[tuple[EvaluatedLine, EvaluatedLine]]:
        """Lines on which the models made different numbers of errors, the largest difference first."""
        pairs = zip(self.model.lines, self.other.lines, strict=True)
        differing = [(own, others) for own, others in pairs if own.counts.unit_edits != others.counts.unit_edits]
        return sorted(differing, key=_gap, reverse=True)

    def table(self) -> str:
        """Return the model's scores and the comparison as text for the terminal."""
        lines = [self.model.table(), "", f"compared with {self.other.model.name}:"]
        lines.append(f"{'':<7}{'model':>9}{'other':>11}{'difference':>14}   95 % interval")
        for key, name in NAMES.items():
            own, others = (getattr(each.counts, key) for each in (self.model, self.other))
            difference = self.differences[key]
            values = f"{100 * own:>7.2f} %{100 * others:>9.2f} %{100 * difference.value:>+12.2f} %"
            lines.append(f"{name:<7}{values}   {show_difference(difference.interval)}")
        return "\n".join([*lines, *self.verdicts()])

    def verdicts(self) -> list[str]:
        """Return the conclusions in words."""
        alone, other_alone = self.disagreements
        return [
            self._verdict("cer", "paired bootstrap"),
            self._verdict("accuracy", "McNemar's exact test"),
            f"exact only by {self.model.model.name}: {alone:,}; only by {self.other.model.name}: {other_alone:,}",
        ]

    def _verdict(self, key: str, test: str) -> str:
        difference = self.differences[key]
        if not difference.value:
            return f"{NAMES[key]}: no difference"
        other_is_better = (difference.value > 0) == (key == "accuracy")
        better = (self.other if other_is_better else self.model).model.name
        outcome = "statistically significant" if difference.p < SIGNIFICANCE_LEVEL else "not statistically significant"
        points = f"{100 * abs(difference.value):.2f} percentage points"
        return f"{NAMES[key]}: {better} is better by {points}; {outcome} ({show_p(difference.p)}, {test})"

    def as_json(self) -> dict:
        """Return the scores of both models and their differences as JSON values."""
        alone, other_alone = self.disagreements
        differences = {
            key: {
                "value": difference.value,
                "interval": [difference.interval.low, difference.interval.high],
                "p": difference.p,
            }
            for key, difference in self.differences.items()
        }
        exact_alone = {"model": alone, "other": other_alone}
        against = {"model": self.other.model.name, **self.other.as_json(), "differences": differences}
        return {**self.model.as_json(), "against": {**against, "exact_alone": exact_alone}}


def _gap(pair: tuple[EvaluatedLine, EvaluatedLine]) -> tuple[float, int]:
    own, others = (line.counts for line in pair)
    return abs(own.cer - others.cer), abs(own.unit_edits - others.unit_edits)


def show_difference(interval: Interval) -> str:
    """Format an interval of a difference in percent, with signs."""
    return f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f} %"


def show_p(p: float) -> str:
    """Format a p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
