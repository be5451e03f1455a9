"""Images that are probably no lines of text."""

from collections.abc import Iterator, Sequence

from raycrnn.checking.findings import Finding, Section
from raycrnn.checking.labelled_set import LabelledSet
from raycrnn.data.unusual_images import NARROW_UNITS, is_page, is_upright

KINDS = {
    "page": ("as large as a page, but raycrnn reads an image as one line of text", "cut the lines out of the pages"),
    "upright image": (
        "higher than wide, but raycrnn reads an image as one line of text from left to right",
        "for lines that stand upright, set data.line_orientation, or turn them; cut the lines out of pages",
    ),
    "blank image": ("blank: all pixels are equal", "export these images again, or delete the rows"),
}
"""What is wrong with each kind of images, and what to do."""

LYING = "wider than high, but by data.line_orientation={} the lines stand upright"
REMEDY_FOR_LYING = "train another model on horizontal lines"
"""The same of an upright image where lines stand upright: it has been turned."""


def unusual_section(sets: Sequence[LabelledSet]) -> Section:
    """Return the section on pages, upright and blank images among the rows that are used."""
    findings = [finding for each in sets for finding in _unusual(each)]
    total = sum(finding.rows for finding in findings)
    summary = (
        f"{total:,} of {sum(len(each.usable) for each in sets):,}"
        if findings
        else "no page, no upright and no blank image"
    )
    return Section("unusual", "Unusual images", summary, findings=findings)


def _unusual(data_set: LabelledSet) -> Iterator[Finding]:
    orientation = data_set.configuration.data.line_orientation
    numbers: dict[str, list[int]] = {kind: [] for kind in KINDS}
    blank = set(data_set.blank)
    for number, label in zip(data_set.usable, data_set.labels, strict=True):
        size = data_set.size(number)
        # One or two letters may be as high as wide.
        if len(label) > NARROW_UNITS and (is_page(size) or is_upright(size)):
            numbers["page" if is_page(size) else "upright image"].append(number)
        if number in blank:
            numbers["blank image"].append(number)
    for kind, own in numbers.items():
        if own:
            problem, remedy = KINDS[kind]
            if kind == "upright image" and orientation != "horizontal":
                problem, remedy = LYING.format(orientation), REMEDY_FOR_LYING
            examples = [data_set.example(number, _size(data_set.size(number))) for number in own]
            yield Finding(kind, len(own), problem, remedy, examples, data_set.name)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]:,} × {size[1]:,} pixels"
