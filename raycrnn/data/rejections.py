"""Samples that are left out: reasons, remedies, limits and rejected.csv."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from raycrnn import config
from raycrnn.errors import RaycrnnError

REMEDIES = {
    "malformed row": "write path;label, and close what a quote opens",
    "no such file": "a relative path is looked for beside its CSV: mend the path or restore the file",
    "cannot be read": "check the file's permissions, or the connection to where it is stored",
    "not an image": "give a PNG, JPEG, TIFF, WebP, BMP, GIF or PNM image",
    "damaged image": "the file is truncated or broken: copy or export it again",
    "too many pixels": "crop the line out of the page, or scale it down",
    "empty label": "write the label, or delete the row",
    "unknown unit": "add the units to the alphabet, or build it from the labels (data.lookup_alphabet_file=null)",
    "label too long": "the image is too narrow for so many units: check the label; else raise image.input_shape",
}
"""Every reason to leave a sample out, with what the user can do about it."""


class Rejected(Exception):
    """A sample that cannot be used. `reason` is a key of `REMEDIES`, `detail` says what about this one."""

    def __init__(self, reason: str, detail: str):
        assert reason in REMEDIES
        # A file's name may hold bytes that are no text; they are shown escaped.
        detail = detail.encode("utf-8", "backslashreplace").decode()
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Rejection:
    """A sample that was left out, as it is listed."""

    csv: str
    line: int
    path: str
    reason: str
    detail: str


def check_rejections(name: str, rejections: Sequence[Rejection], rows: int, settings: config.Data) -> None:
    """Raises `RaycrnnError` with the table of reasons if more than `data.max_rejected` of a set cannot be used."""
    if len(rejections) <= settings.max_rejected * rows and len(rejections) < rows:
        return
    raise RaycrnnError(
        f"{name} set: {len(rejections):,} of {rows:,} samples cannot be used, more than data.max_rejected="
        f"{settings.max_rejected:g} allows:\n{rejection_table(rejections)}"
    )


def rejection_table(rejections: Sequence[Rejection]) -> str:
    """Reasons with their counts, an example of each and the remedy."""
    lines = []
    for reason in dict.fromkeys(rejection.reason for rejection in rejections):
        of_reason = [rejection for rejection in rejections if rejection.reason == reason]
        example = of_reason[0]
        lines.append(f"  {len(of_reason):>7,}  {reason}: {REMEDIES[reason]}")
        lines.append(f"           such as {example.csv}, line {example.line}: {example.path}: {example.detail}")
    return "\n".join(lines)


def write_rejected(path: Path, rejections: Iterable[Rejection]) -> None:
    """rejected.csv: comma-separated (RFC 4180), a header, one line a sample that was left out, by file and line."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "line", "path", "reason", "detail"))
        writer.writerows(sorted(map(astuple, rejections)))
    temporary.replace(path)
