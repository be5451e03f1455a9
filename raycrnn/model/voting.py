"""Combine the readings of several models to one text, by a vote on each unit.

This is confidence voting (Reul et al. 2018, https://arxiv.org/abs/1802.10038): the texts are aligned, and at each
place the unit with the largest sum of confidences is taken. Other than there, only the unit that a model has read at a
place counts, not its alternatives. The frames of two networks cannot be aligned instead, because their CTC peaks lie at
different places.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from raycrnn.metrics import error_rates


@dataclass(frozen=True)
class Ballot:
    """The units that a model has read in an image."""

    units: tuple[str, ...]
    confidences: tuple[float, ...]
    """The confidence of each unit, from 0 to 1."""
    confidence: float
    """The confidence of the whole text, which counts for an empty text."""

    def gap(self, index: int) -> float:
        """Return the confidence that there is no unit before the one at an index: the mean of its two neighbours'."""
        neighbours = self.confidences[max(0, index - 1) : index + 1]
        return math.fsum(neighbours) / len(neighbours) if neighbours else self.confidence


@dataclass(frozen=True)
class VotedUnit:
    """A unit of the text that a vote has found."""

    text: str
    confidence: float
    """Sum of the confidences of the ballots with this unit, divided by the number of all ballots."""
    sources: tuple[int | None, ...]
    """For each ballot, the index of this unit, or None if it has another one at this place."""


@dataclass(frozen=True)
class Column:
    """A place of the aligned ballots."""

    indices: tuple[int | None, ...]
    """For each ballot, the index of its unit at this place. None is a gap."""
    places: tuple[int, ...]
    """For each ballot, the index of its next unit, which tells where a gap is."""


def vote(ballots: Sequence[Ballot]) -> list[VotedUnit]:
    """Return the units with the largest sum of confidences at each place of the aligned ballots.

    A ballot without a unit at a place votes against one there, with the mean confidence of the two neighbouring units.
    If two sums are equal, more votes win, then the unit against the gap, then the larger code point. The result does
    not depend on the order of the ballots.
    """
    ranges = [range(len(ballot.units)) for ballot in ballots]
    units = [ballot.units for ballot in ballots]
    return [unit for column in align(units, ranges) if (unit := _elect(ballots, column))]


def vote_on_texts(ballots: Sequence[Ballot]) -> list[VotedUnit]:
    """Return the units of the text with the largest sum of confidences.

    If two sums are equal, more votes win, then the text that sorts last.
    """
    votes: dict[tuple[str, ...], list[float]] = {}
    for ballot in ballots:
        votes.setdefault(ballot.units, []).append(ballot.confidence)
    winner = max(votes, key=lambda units: (math.fsum(votes[units]), len(votes[units]), units))
    voted = []
    for index, unit in enumerate(winner):
        confidences = [ballot.confidences[index] for ballot in ballots if ballot.units == winner]
        sources = tuple(index if ballot.units == winner else None for ballot in ballots)
        voted.append(VotedUnit(unit, math.fsum(confidences) / len(ballots), sources))
    return voted


def align(texts: Sequence[Sequence[str]], ranges: Sequence[range]) -> Iterator[Column]:
    """Align parts of several texts, and yield the places in the order of reading.

    The texts are aligned with the one whose sum of edit distances to the others is least. What others have between two
    of its units is aligned in the same way.

    Args:
        texts: The units of each text.
        ranges: The part of each text, as the range of its indices.
    """
    parts = [tuple(text[own.start : own.stop]) for text, own in zip(texts, ranges, strict=True)]
    if not any(parts):
        return
    middle = min(filter(None, parts), key=lambda part: (sum(Levenshtein.distance(part, each) for each in parts), part))
    # Each text's index at each unit of the middle one, or None, and where its units before that one end.
    aligned = [_places(middle, part) for part in parts]
    last = [own.start for own in ranges]
    for place in range(len(middle) + 1):
        starts = [own.start + each[place][1] for own, each in zip(ranges, aligned, strict=True)]
        yield from align(texts, [range(first, end) for first, end in zip(last, starts, strict=True)])
        if place < len(middle):
            found = [each[place][0] for each in aligned]
            indices = [None if index is None else own.start + index for index, own in zip(found, ranges, strict=True)]
            yield Column(tuple(indices), tuple(starts))
            last = [start + (index is not None) for start, index in zip(starts, found, strict=True)]


def _places(middle: Sequence[str], part: Sequence[str]) -> list[tuple[int | None, int]]:
    """Return, for each unit of the middle text and for its end, the aligned index and the index of the next unit."""
    places: list[tuple[int | None, int]] = []
    following = 0
    for step in error_rates.align(middle, part):
        if step.reference is not None:
            before = following if step.hypothesis is None else step.hypothesis
            places.append((step.hypothesis, before))
        if step.hypothesis is not None:
            following = step.hypothesis + 1
    return [*places, (None, len(part))]


def _elect(ballots: Sequence[Ballot], column: Column) -> VotedUnit | None:
    """Return the unit that wins at a place, or None if the gap does."""
    votes: dict[str | None, list[float]] = {}
    for ballot, index, place in zip(ballots, column.indices, column.places, strict=True):
        unit = None if index is None else ballot.units[index]
        votes.setdefault(unit, []).append(ballot.gap(place) if index is None else ballot.confidences[index])
    winner = max(votes, key=lambda unit: (math.fsum(votes[unit]), len(votes[unit]), unit is not None, unit or ""))
    if winner is None:
        return None
    sources = (
        index if index is not None and ballot.units[index] == winner else None
        for ballot, index in zip(ballots, column.indices, strict=True)
    )
    return VotedUnit(winner, math.fsum(votes[winner]) / len(ballots), tuple(sources))
