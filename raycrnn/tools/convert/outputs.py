"""Write labelled images as a CSV with images, or packed into Parquet files."""

import csv
import json
import os
import re
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO

from raycrnn import __version__, config, storage
from raycrnn.data import image_files
from raycrnn.data.csv_files import write_field
from raycrnn.errors import UsageError
from raycrnn.tools.convert.records import LeftOut, UnusableLine, shown

CSV_NAME, IMAGES_NAME, LEFT_OUT_NAME, ALPHABET_NAME = "labels.csv", "images", "left_out.csv", "alphabet.json"

MARKER_NAME = "convert.json"
"""File in every output folder. Other tools and people write folders with the other names, too."""

FIXED_NAMES = (CSV_NAME, IMAGES_NAME, LEFT_OUT_NAME, ALPHABET_NAME, MARKER_NAME)

OUTPUT_NAMES = re.compile(rf"{'|'.join(map(re.escape, FIXED_NAMES))}|\d{{5,}}\.parquet")
"""Matches the names of all that is written to an output folder."""

SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"RIFF", ".webp"),
    (b"\0\0\0\x0cjP  ", ".jp2"),
    (b"\xff\x4f\xff\x51", ".jp2"),
    (b"P", ".pnm"),
)
"""How files in the formats that raycrnn reads begin, and their suffixes."""

MAX_NAME_BYTES = 100
"""Bytes of the name of an image that is written, without its suffix. File systems allow 255."""

EXAMPLES = 3
"""Examples of what is left out for the same reason."""


def write_marker(folder: Path, source_format: str) -> None:
    """Mark a folder as one that this command wrote. Raises `OSError`."""
    values = {"format": source_format, "raycrnn": __version__}
    storage.write_text(folder / MARKER_NAME, f"{json.dumps(values)}\n")


def is_marked(folder: Path) -> bool:
    """Return whether this command wrote a folder."""
    try:
        return {"format", "raycrnn"} <= config.read_json_object(folder / MARKER_NAME).keys()
    except UsageError:
        return False


class LabelsCsv:
    """Rows `path;label`. Images that are files are referred to; others are written to a folder beside the CSV."""

    def __init__(self, folder: Path, final_folder: Path, copies: bool):
        """
        Args:
            folder: The folder to write to.
            final_folder: What it is renamed to afterwards; paths of images are relative to it.
            copies: Whether to copy images that are files, too.
        """
        self._folder, self._final_folder, self._copies = folder, os.path.realpath(final_folder), copies
        # The number of images with the same name. Names that occur once are not kept, as there may be millions.
        self._uses: dict[str, int] = {}

    def __enter__(self) -> "LabelsCsv":
        self._file = (self._folder / CSV_NAME).open("w", encoding="utf-8", newline="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, image: Path | bytes, label: str | None, name: str, size: tuple[int, int]) -> None:
        """Write an image.

        Args:
            image: The image file itself, or its bytes.
            label: The label in the form of raycrnn's CSV files.
            name: The path or name of the image in the source.
            size: Upright width and height in pixels.

        Raises:
            UnusableLine: No row can hold the path.
            Rejected: The image cannot be read.
            OSError: The output cannot be written.
        """
        if isinstance(image, Path) and not self._copies:
            field = self._row_path(image)
        else:
            data = image_files.read_bytes(str(image)) if isinstance(image, Path) else image
            field = self._write_image(data, name)
        # The label is checked already: write_field() refuses line ends only.
        row = field if label is None else f"{field};{write_field(label)}"
        self._file.write(f"{row}\n")

    def _row_path(self, image: Path) -> str:
        # The folder is resolved, but not the image: `a/../b` is not `b` if `a` is a link.
        parent = os.path.relpath(os.path.realpath(image.parent), self._final_folder)
        path = os.path.normpath(os.path.join(parent, image.name))
        try:
            path.encode("utf-8")
            return write_field(path)
        except ValueError:
            raise UnusableLine(
                "a path that no row can hold", f"{shown(path)}: rename the file, or use --copy"
            ) from None

    def _write_image(self, data: bytes, name: str) -> str:
        """Write an image under a name that does not exist yet, and return its path in the CSV."""
        folder = self._folder / IMAGES_NAME
        folder.mkdir(exist_ok=True)
        stem, suffix = file_name(name), suffix_of(data)
        while True:
            number = self._uses.get(stem, 1)
            written = f"{stem}{f'_{number}' if number > 1 else ''}{suffix}"
            try:
                with (folder / written).open("xb") as file:
                    file.write(data)
                return f"{IMAGES_NAME}/{written}"
            except FileExistsError:
                self._uses[stem] = number + 1


class PackedParquet:
    """Parquet files with the bytes of the images, in shards."""

    def __init__(self, folder: Path, shard_bytes: int):
        from raycrnn.data.packed_images import PackedImagesWriter

        self._writer = PackedImagesWriter(folder, shard_bytes)

    def __enter__(self) -> "PackedParquet":
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def add(self, image: Path | bytes, label: str | None, name: str, size: tuple[int, int]) -> None:
        """Write an image; see `LabelsCsv.add`."""
        data = image_files.read_bytes(str(image)) if isinstance(image, Path) else image
        if name.encode("utf-8", "ignore").decode() != name:
            raise UnusableLine("a path that no row can hold", f"{shown(name)}: rename the file")
        self._writer.add(data, label, name, size)


def suffix_of(data: bytes) -> str:
    """Return the usual suffix of an image's format, such as ".png"."""
    return next(suffix for signature, suffix in SIGNATURES if data.startswith(signature))


def file_name(name: str) -> str:
    """Return a name for the file of an image without a suffix: letters, digits, `.`, `_` and `-`."""
    last = re.split(r"[/\\]", name)[-1]
    stem = last[: last.rindex(".")] if image_files.has_image_suffix(last) else last
    plain = re.sub(r"[^\w.-]+", "_", stem).strip("._").encode("utf-8", "ignore")
    return plain[:MAX_NAME_BYTES].decode("utf-8", "ignore") or "image"


class LeftOutList:
    """What was left out: a CSV file (RFC 4180) with all of it, counts by reason, and the first examples."""

    def __init__(self, path: Path):
        self._path = path
        self._file: IO[str] | None = None
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[LeftOut]] = {}

    def __enter__(self) -> "LeftOutList":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def add(self, item: LeftOut) -> None:
        """Count something and write it to the file, which has a header."""
        if self._file is None:
            # Names of files may have bytes that are not text.
            self._file = self._path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            csv.writer(self._file).writerow(("file", "place", "reason", "detail"))
        csv.writer(self._file).writerow((item.file, item.place, item.reason, item.detail))
        self.counts[item.reason] += 1
        if self.counts[item.reason] <= EXAMPLES:
            self._examples.setdefault(item.reason, []).append(item)

    def summary(self) -> str:
        """Return the reasons, the most frequent ones first, each with its first examples."""
        lines = []
        for reason, count in self.counts.most_common():
            lines.append(f"  {count:>7,}  {reason}")
            for item in self._examples[reason]:
                parts = [f"{item.file}{f', {item.place}' if item.place else ''}", item.detail]
                lines.append("           " + ": ".join(filter(None, parts)))
        return "\n".join(lines)
