"""Widths, heights and aspect ratios of the images, and the input shape that suits them."""

from collections.abc import Sequence

import numpy as np

from raycrnn.checking.findings import Finding, Histogram, Section
from raycrnn.checking.labelled_set import LabelledSet
from raycrnn.checking.lengths import Shape
from raycrnn.data import unusual_images
from raycrnn.data.unusual_images import MAX_REDUCTION

HEIGHTS = (32, 48, 64)
"""Heights that are suggested. Training takes time in proportion to the area of the images."""

COVERED = 0.995
"""Share of the images that the suggested width does not compress."""

ROUNDING = 32
"""The suggested width is a multiple of this."""


def sizes_section(sets: Sequence[LabelledSet], keep_height: bool) -> Section:
    """Return the section on the sizes of all images that can be decoded.

    Args:
        keep_height: Whether the height of the input is that of the model that training starts from, which is not the
            user's choice.
    """
    sizes = np.concatenate([each.sizes() for each in sets])
    if not len(sizes):
        return Section("sizes", "Image sizes", "no image can be decoded")
    shape = sets[0].configuration.image.input_shape
    widths, heights = sizes.T
    aspects = widths / heights
    histograms = [
        Histogram.of("width in pixels", widths),
        Histogram.of("height in pixels", heights),
        Histogram.of("width / height", aspects),
    ]
    suggested = suggested_shape(heights, aspects, shape, keep_height)
    compressed = int(np.sum(np.round(aspects * shape[0]) > shape[1]))
    summary = f"{_range(widths)} × {_range(heights)} pixels"
    return Section(
        name="sizes",
        title="Image sizes",
        summary=summary,
        lines=[_describe(suggested, shape, float(np.median(heights)))],
        findings=[finding for each in sets for finding in _compressed(each, shape, suggested)],
        histograms=histograms,
        figures={"input_shape": list(shape), "suggested_input_shape": list(suggested), "compressed": compressed},
    )


def suggested_shape(heights: np.ndarray, aspects: np.ndarray, shape: Shape, keep_height: bool = False) -> Shape:
    """Return the input shape that suits images: lines of text keep their details, and few are compressed.

    A smaller width than the configured one is never suggested, because it saves nothing: a batch is as wide as its
    widest image.

    Args:
        heights: Heights of the images in pixels.
        aspects: Width / height of each image.
        shape: The configured input shape.
        keep_height: Whether its height must stay.
    """
    median = float(np.median(heights))
    height = next((each for each in HEIGHTS if median <= MAX_REDUCTION * each), HEIGHTS[-1])
    # Scanned lines are often much higher than needed, so a configured height is good enough from there on.
    height = max(height, shape[0]) if shape[0] <= median else height
    if keep_height:
        height = shape[0]
    width = float(np.quantile(aspects, COVERED)) * height
    return height, max(shape[1], -(-round(width) // ROUNDING) * ROUNDING)


def _describe(suggested: Shape, shape: Shape, median: float) -> str:
    """Return a sentence on the suggested input shape, and why it is better than the configured one."""
    if suggested == shape:
        return f"image.input_shape={_shown(shape)} suits them."
    reasons = {
        f"keep more detail of images of {median:,.0f} pixels, the median height": suggested[0] > shape[0],
        f"be faster and lose nothing of images of {median:,.0f} pixels, the median height": suggested[0] < shape[0],
        f"compress at most {1 - COVERED:.1%} of the lines": suggested[1] > shape[1],
    }
    why = " and ".join(reason for reason, applies in reasons.items() if applies)
    return f"Suggested: image.input_shape={_shown(suggested)} instead of {_shown(shape)} would {why}."


def _shown(shape: Shape) -> str:
    return f"[{shape[0]}, {shape[1]}]"


def _range(values: np.ndarray) -> str:
    least, most = values.min(), values.max()
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _compressed(data_set: LabelledSet, shape: Shape, suggested: Shape) -> list[Finding]:
    numbers = [number for number in data_set.usable if unusual_images.is_compressed(data_set.size(number), shape)]
    if not numbers:
        return []
    remedy = "cut the lines into parts, or set a greater width"
    if suggested[1] > shape[1]:
        remedy += f", such as image.input_shape={_shown(suggested)}"
    return [
        Finding(
            kind="compressed line",
            rows=len(numbers),
            problem=f"wider than image.input_shape={_shown(shape)} allows, and compressed to that width",
            remedy=remedy,
            examples=data_set.examples(numbers),
            data_set=data_set.name,
        )
    ]
