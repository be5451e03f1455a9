"""Rows with the same image or the same text."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from raycrnn.checking.findings import Finding, Section
from raycrnn.checking.labelled_set import LabelledSet

Place = tuple[LabelledSet, int]
"""A row: its set and its number there."""


def same_images(sets: Sequence[LabelledSet]) -> list[list[Place]]:
    """Return the groups of two or more usable rows with the same image, by the contents of their files."""
    groups: dict[bytes, list[Place]] = defaultdict(list)
    for data_set in sets:
        digests = data_set.digests
        for number in data_set.usable:
            if digest := digests[number]:
                groups[digest].append((data_set, number))
    return [group for group in groups.values() if len(group) > 1]


def copies_section(sets: Sequence[LabelledSet], same: Sequence[Sequence[Place]]) -> Section:
    """Return the section on images and texts that occur several times.

    Args:
        sets: The data sets.
        same: The groups of rows with the same image.
    """
    findings = [*_shared(same), *(finding for each in sets for finding in _repeated(each, same))]
    texts = {each.name: Counter("".join(label) for label in each.labels) for each in sets}
    lines = [line for name, own in texts.items() for line in _describe_texts(name, own)]
    figures: dict[str, object] = {"distinct_texts": {name: len(own) for name, own in texts.items()}}
    if len(sets) > 1:
        known = sum(count for text, count in texts["eval"].items() if text in texts["train"])
        figures["eval_rows_with_a_text_of_train"] = known
        if known:
            total = texts["eval"].total()
            lines.append(f"{known:,} of {total:,} evaluation rows have a text that is in the training set too.")
    rows = sum(map(len, same))
    summary = f"{rows:,} rows show {len(same):,} images" if same else "every row shows another image"
    return Section("copies", "Same images and texts", summary, lines, findings, figures=figures)


def _describe_texts(name: str, texts: Counter[str]) -> Iterator[str]:
    if texts and len(texts) < texts.total():
        [(text, count)] = texts.most_common(1)
        distinct = f"{len(texts):,} of {texts.total():,} {name} texts are distinct"
        yield f"{distinct}; the most frequent is {text!r}, {count:,} ×."


def _shared(same: Sequence[Sequence[Place]]) -> Iterator[Finding]:
    """Yield a finding if images of evaluation rows are in training rows too."""
    examples, rows = [], 0
    for group in same:
        train = [place for place in group if place[0].name == "train"]
        evaluation = [place for place in group if place[0].name == "eval"]
        if train and evaluation:
            rows += len(evaluation)
            other, number = train[0]
            file, row = other.row(number)
            examples += [each.example(at, f"also {file.path}, line {row.line}") for each, at in evaluation]
    if rows:
        yield Finding(
            kind="image in train and eval",
            rows=rows,
            problem="evaluation rows whose images are in the training set: the scores would be too good",
            remedy="delete them from one of the sets; `raycrnn split` keeps rows with the same image together",
            examples=examples,
            data_set="eval",
        )


def _repeated(data_set: LabelledSet, same: Sequence[Sequence[Place]]) -> Iterator[Finding]:
    """Yield a finding if rows of a set repeat the image and the label of another row."""
    examples, rows = [], 0
    for group in same:
        first: dict[tuple[str, ...], int] = {}
        for each, number in group:
            if each is not data_set:
                continue
            units = data_set.units(number)
            if units in first:
                rows += 1
                file, row = data_set.row(first[units])
                examples.append(data_set.example(number, f"as {file.path}, line {row.line}"))
            else:
                first[units] = number
    if rows:
        yield Finding(
            kind="repeated image",
            rows=rows,
            problem="rows that repeat the image and the label of another row: they count several times",
            remedy="delete the copies, unless their weight is intended",
            examples=examples,
            data_set=data_set.name,
        )


def conflicts_section(same: Sequence[Sequence[Place]]) -> Section:
    """Return the section on images that have several labels."""
    examples, images, rows = [], 0, 0
    for group in same:
        first: dict[tuple[str, ...], Place] = {}
        for data_set, number in group:
            first.setdefault(data_set.units(number), (data_set, number))
        if len(first) > 1:
            images += 1
            rows += len(group)
            examples += [each.example(number, "".join(units)) for units, (each, number) in first.items()]
    if not images:
        return Section("conflicts", "Labels of the same image", "no image has two labels")
    problem = f"{images:,} {'image has' if images == 1 else 'images have'} rows with different labels"
    remedy = "look at the images and correct the labels: at least one label of each image is wrong"
    finding = Finding("different labels", rows, problem, remedy, examples)
    return Section("conflicts", "Labels of the same image", f"{images:,} with different labels", findings=[finding])
