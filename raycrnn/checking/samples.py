"""The rows that would be used and those that would be left out, by reason."""

from collections.abc import Sequence
from dataclasses import replace

from raycrnn.checking.findings import MAX_EXAMPLES, Finding, FindingExample, Section
from raycrnn.checking.labelled_set import LabelledSet
from raycrnn.data.rejections import REMEDIES, Rejection

NAMES = {"train": "training", "eval": "evaluation"}


def samples_section(sets: Sequence[LabelledSet]) -> Section:
    """Return the section on the rows that are left out, and on evaluation rows without a label."""
    used = [f"{len(each.usable):,} of {len(each):,} {NAMES[each.name]} rows" for each in sets]
    findings = [finding for each in sets for finding in (*_left_out(each), *_without_label(each))]
    return Section(
        name="samples",
        title="Rows",
        summary=f"{' and '.join(used)} would be used",
        lines=[line for each in sets for line in _refusal(each)],
        findings=findings,
        figures={each.name: {"rows": len(each), "used": len(each.usable)} for each in sets},
    )


def _left_out(data_set: LabelledSet) -> list[Finding]:
    """Return a finding for each reason for which rows are left out, in the order of `REMEDIES`."""
    by_reason: dict[str, list[Rejection]] = {reason: [] for reason in REMEDIES}
    for rejection in data_set.rejections:
        by_reason[rejection.reason].append(rejection)
    return [
        Finding(
            kind=reason,
            rows=len(rejections),
            problem=reason,
            remedy=REMEDIES[reason],
            examples=[_example(data_set, rejection) for rejection in rejections[:MAX_EXAMPLES]],
            data_set=data_set.name,
            costs_samples=True,
        )
        for reason, rejections in by_reason.items()
        if rejections
    ]


def _without_label(data_set: LabelledSet) -> list[Finding]:
    """Return a finding if rows that are used have only a path, which training leaves out. Empty labels may be meant."""
    numbers = [number for number in data_set.usable if data_set.row(number)[1].label is None]
    if not numbers:
        return []
    row = f"path{data_set.configuration.data.csv_delimiter}"
    return [
        Finding(
            kind="no label",
            rows=len(numbers),
            problem="the rows have only a path: all units that the model reads there count as errors",
            remedy=f"add the labels, or delete the rows; the row of an image without text is {row}",
            examples=data_set.examples(numbers),
            data_set=data_set.name,
        )
    ]


def _example(data_set: LabelledSet, rejection: Rejection) -> FindingExample:
    file = next(file for file in data_set.files if file.path == rejection.csv)
    example = data_set.example(data_set.number(file, rejection.line))
    # The detail often begins with the whole path.
    return replace(example, detail=rejection.detail.removeprefix(example.place).lstrip(": "))


def _refusal(data_set: LabelledSet) -> list[str]:
    """Return a line if training would refuse the set, as `rejections.check_rejections` does."""
    share, limit = len(data_set.rejections) / len(data_set), data_set.configuration.data.max_rejected
    if share <= limit and data_set.usable:
        return []
    return [
        f"Training would not start: {share:.1%} of the {NAMES[data_set.name]} rows are left out, more than "
        f"data.max_rejected={limit:g} allows."
    ]
