"""Lengths of the labels against the frames of their images."""

from collections.abc import Sequence

import numpy as np

from raycrnn.checking.findings import Finding, Histogram, Section
from raycrnn.checking.labelled_set import LabelledSet
from raycrnn.data import csv_files, image
from raycrnn.data.image import WIDTH_STEP

HEIGHT_STEP = 16
"""Heights of `image.input_shape` are multiples of this."""

MAX_HEIGHT = 128
"""The greatest height that is suggested to keep rows. Training takes time in proportion to the area of the images."""

MAX_WIDTH = 8192
"""The greatest width that is suggested."""

Shape = tuple[int, int]
"""Height and greatest width of the network's input in pixels."""


def lengths_section(sets: Sequence[LabelledSet]) -> Section:
    """Return the section on the lengths of the labels, and the input shapes that would keep rows that are left out."""
    train = sets[0]
    shape = train.configuration.image.input_shape
    lengths = np.array([len(label) for label in train.labels], np.int64)
    shares = np.array([frames / _available(train, number) for number, frames in _needs(train)])
    histograms = [Histogram.of("units in a label", lengths)] if len(lengths) else []
    summary = "no label can be used"
    if len(lengths):
        least, median, most = histograms[0].least, histograms[0].median, histograms[0].most
        summary = f"{least:,} to {most:,} units, median {median:,.0f}"
    lines = []
    if len(shares):
        median, most = np.median(shares), shares.max()
        lines.append(f"Labels need {median:.0%} of the frames of their images in the median, at most {most:.0%}.")
    saved, lost = saving_shapes(_too_long(train), shape)
    lines += [
        f"image.input_shape=[{height}, {width}] would keep {count:,} of the rows whose labels are too long."
        for (height, width), count in saved.items()
    ]
    if lost:
        lines.append(
            f"{lost:,} of the labels that are too long would be so at any height up to {MAX_HEIGHT}: look whether "
            "label and image belong together."
        )
    return Section(
        name="lengths",
        title="Label lengths",
        summary=summary,
        lines=lines,
        findings=[finding for each in sets[1:] for finding in _too_long_to_read(each)],
        histograms=histograms,
        figures={
            "saving_shapes": [{"input_shape": list(each), "rows": count} for each, count in saved.items()],
            "too_long_at_any_shape": lost,
            "shares_of_frames": np.quantile(shares, [0.5, 1]).tolist() if len(shares) else None,
        },
    )


def _needs(data_set: LabelledSet) -> list[tuple[int, int]]:
    """Return the number of each usable row and the frames that its label needs."""
    return list(zip(data_set.usable, data_set.frames, strict=True))


def _available(data_set: LabelledSet, number: int) -> int:
    """Return the frames of a row's image."""
    width = image.fitted_width(data_set.size(number), data_set.configuration.image.input_shape)
    return image.frames(width)


def _too_long(train: LabelledSet) -> list[tuple[tuple[int, int], int]]:
    """Return the size of the image and the frames needed of each row whose label is too long."""
    files = {file.path: file for file in train.files}
    found = []
    for rejection in train.rejections:
        if rejection.reason == "label too long":
            number = train.number(files[rejection.csv], rejection.line)
            size = train.size(number)
            if size[0]:
                found.append((size, csv_files.min_frames(train.units(number))))
    return found


def saving_shapes(rows: Sequence[tuple[tuple[int, int], int]], shape: Shape) -> tuple[dict[Shape, int], int]:
    """Find the input shapes with which rows could be used whose labels are too long for a shape.

    Args:
        rows: Width and height of each image, and the number of frames that its label needs.
        shape: The present input shape, with which none of the rows can be used.

    Returns:
        The number of rows that each shape would keep, with rising heights, each including the rows of the shapes
        before; and the number of rows that none would keep.
    """
    least: dict[int, list[int]] = {}
    lost = 0
    for size, frames in rows:
        needed = 4 * (frames + 1)
        heights = range(shape[0], MAX_HEIGHT + 1, HEIGHT_STEP)
        # Without a greatest width, so that the lowest height that is enough is found.
        height = next((each for each in heights if image.fitted_width(size, (each, MAX_WIDTH)) >= needed), None)
        if height is None:
            lost += 1
        else:
            least.setdefault(height, []).append(needed)
    saved: dict[Shape, int] = {}
    width, kept = shape[1], 0
    for height in sorted(least):
        width = max(width, -(-max(least[height]) // WIDTH_STEP) * WIDTH_STEP)
        kept += len(least[height])
        saved[height, width] = kept
    return saved, lost


def _too_long_to_read(evaluation: LabelledSet) -> list[Finding]:
    numbers = [number for number, frames in _needs(evaluation) if frames > _available(evaluation, number)]
    if not numbers:
        return []
    return [
        Finding(
            kind="label too long to read",
            rows=len(numbers),
            problem="the labels need more frames than their images give: the model cannot read these lines exactly",
            remedy="check the labels, or increase image.input_shape",
            examples=evaluation.examples(numbers),
            data_set="eval",
        )
    ]
