"""Samples that cannot be used: the reasons, what to do about each, the limit, and rejected.csv."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from raycrnn import config, storage
from raycrnn.errors import RaycrnnError

REMEDIES = {
    "malformed row": "write path;label, and close every quote on its line",
    "no such file": "correct the path, which is relative to the CSV's folder, or restore the file",
    "cannot be read": "check the permissions of the file, or the connection to its storage",
    "not an image": "use a PNG, JPEG, TIFF, WebP, BMP, GIF, JPEG 2000 or PNM image",
    "unsupported image": "convert it to a PNG, JPEG or TIFF with 8 bits per channel, in grey or RGB",
    "damaged image": "the file is truncated or corrupt: copy or export it again",
    "too many pixels": "crop the text line from the page, or scale the image down",
    "empty label": "add the label, or delete the row",
    "unknown unit": "add the units to the alphabet, or set data.lookup_alphabet_file=null to build it from the labels "
    "(with training.initial_model also training.initial_alphabet=union)",
    "label too long": "the image is too narrow for the label: check the label, or increase image.input_shape",
}
"""The reasons for which a sample is left out, with what the user can do about each."""

DECODER_DIED = ("damaged image", "its decoder died")
"""Reason and detail for an image that ends the process that decodes it."""


class Rejected(Exception):
    """A sample cannot be used.

    Args:
        reason: A key of `REMEDIES`.
        detail: What is wrong with this sample.
    """

    def __init__(self, reason: str, detail: str):
        assert reason in REMEDIES
        # File names can contain bytes that are not valid text; they are escaped.
        detail = detail.encode("utf-8", "backslashreplace").decode()
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class Rejection:
    """A sample that was left out, as it is listed in rejected.csv."""

    csv: str
    line: int
    path: str
    reason: str
    detail: str


def check_rejections(name: str, rejections: Sequence[Rejection], rows: int, settings: config.Data) -> None:
    """Raise an error if too many samples of a set are unusable.

    Args:
        name: Name of the set, for the message.
        rejections: The samples that cannot be used.
        rows: Number of samples in the set.
        settings: `max_rejected` is the allowed share.

    Raises:
        RaycrnnError: More than `data.max_rejected` of the samples, or all of them, cannot be used. The message
            contains `rejection_table`.
    """
    if len(rejections) <= settings.max_rejected * rows and len(rejections) < rows:
        return
    raise RaycrnnError(
        f"{name} set: {len(rejections):,} of {rows:,} samples cannot be used, more than data.max_rejected="
        f"{settings.max_rejected:g} allows:\n{rejection_table(rejections)}"
    )


def rejection_table(rejections: Sequence[Rejection]) -> str:
    """Return a table of the reasons, each with its count, its remedy and an example."""
    lines = []
    for reason in dict.fromkeys(rejection.reason for rejection in rejections):
        of_reason = [rejection for rejection in rejections if rejection.reason == reason]
        example = of_reason[0]
        lines.append(f"  {len(of_reason):>7,}  {reason}: {REMEDIES[reason]}")
        lines.append(f"           for example {example.csv}, line {example.line}: {example.path}: {example.detail}")
    return "\n".join(lines)


def write_rejected(path: Path, rejections: Iterable[Rejection]) -> None:
    """Write rejected.csv: RFC 4180 with a header, sorted by file and line."""
    with storage.replacing_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "line", "path", "reason", "detail"))
        writer.writerows(sorted(map(astuple, rejections)))
