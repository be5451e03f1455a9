"""Write sets of synthetic lines, drawn in this process or, if there are many, in parallel by Ray."""

import io
import itertools
import logging
import os
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from raycrnn import cluster, storage
from raycrnn.cluster import start_time
from raycrnn.console import ImageProgress
from raycrnn.data.csv_files import write_field
from raycrnn.data.synthetic.contact_sheet import contact_sheet
from raycrnn.data.synthetic.generator import LineGenerator
from raycrnn.errors import RaycrnnError, UsageError

logger = logging.getLogger(__name__)

Drawn = tuple[str, bytes]
"""The label of a line and its image as PNG."""

ROWS_PER_TASK = 200

SHEET_LINES = 48

COMPRESSION = zlib.Z_HUFFMAN_ONLY
"""Method of compressing PNG. On noisy images, the others take up to twice as long and make larger files."""


def draw_rows(generator: LineGenerator, first: int, stop: int) -> list[Drawn]:
    """Draw the lines of some rows."""
    drawn = []
    for row in range(first, stop):
        file = io.BytesIO()
        generator.draw(row).save(file, "PNG", compress_type=COMPRESSION)
        drawn.append((generator.label(row), file.getvalue()))
    return drawn


class Drawer:
    """Draws lines here or with Ray, for the duration of a `with` block.

    Args:
        address: Address of a Ray cluster. With an address or the environment variable RAY_ADDRESS, Ray draws all.
            Otherwise a local Ray is started when it pays for what is left.
        total: Number of lines of all sets.
        import_seconds: CPU time of this process when the imports of its command were done.
    """

    def __init__(self, address: str | None, total: int, import_seconds: float):
        self._address, self._stack = address, ExitStack()
        self._wants_ray = bool(address or os.environ.get("RAY_ADDRESS"))
        self._is_connected = False
        self._ray_start_seconds = start_time.estimate_start_seconds(import_seconds)
        self._progress = ImageProgress(total)

    def __enter__(self) -> "Drawer":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()
        self._stack.close()

    def draw(self, generator: LineGenerator, count: int) -> Iterator[Drawn]:
        """Yield the first `count` lines of a generator."""
        ranges = deque((first, min(first + ROWS_PER_TASK, count)) for first in range(0, count, ROWS_PER_TASK))
        started, done = time.monotonic(), 0
        while ranges and not self._wants_ray:
            first, stop = ranges.popleft()
            yield from self._counted(draw_rows(generator, first, stop))
            done += stop - first
            left = self._progress.total - self._progress.done
            seconds_left = (time.monotonic() - started) / done * left
            self._wants_ray = start_time.is_worth_starting(seconds_left, self._ray_start_seconds)
        if ranges:
            self._connect()
            for drawn in _draw_with_ray(generator, ranges):
                yield from self._counted(drawn)

    def _counted(self, drawn: list[Drawn]) -> list[Drawn]:
        self._progress.add(len(drawn))
        return drawn

    def _connect(self) -> None:
        if not self._is_connected:
            if not self._address:
                left = self._progress.total - self._progress.done
                logger.info(f"{left:,} lines are left: Ray is started to draw them in parallel")
            self._stack.enter_context(cluster.connect(self._address))
            self._is_connected = True


def _draw_with_ray(generator: LineGenerator, ranges: deque[tuple[int, int]]) -> Iterator[list[Drawn]]:
    """Yield the lines of ranges of rows, in their order; a few ranges for each CPU are in memory at a time."""
    import ray

    task = ray.remote(num_cpus=1)(draw_rows)
    shared = ray.put(generator)
    at_a_time = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: deque[ray.ObjectRef] = deque()
    try:
        while ranges or pending:
            while ranges and len(pending) < at_a_time:
                pending.append(task.remote(shared, *ranges.popleft()))
            yield ray.get(pending.popleft())
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RaycrnnError):
            raise type(error.cause)(f"in a worker: {error.cause}") from None
        raise
    except ray.exceptions.RayError as error:
        raise RaycrnnError(f"workers were lost: {error}") from None


def write_sets(
    folder: Path,
    sets: Mapping[str, tuple[LineGenerator, int]],
    overwrite: bool,
    address: str | None,
    import_seconds: float,
) -> dict[str, dict]:
    """Write the images and NAME.csv of each set to a folder, which appears when it is complete.

    Args:
        folder: A new or empty folder.
        sets: Generator and number of lines of each set, by name.
        overwrite: Whether to replace a set that is in the folder.
        address: Address of a Ray cluster; see `Drawer`.
        import_seconds: CPU time of this process when the imports of its command were done.

    Returns:
        For each set the CSV and the numbers of lines, different texts and different characters.

    Raises:
        UsageError: The folder is not empty, or a font or text cannot be used.
        RaycrnnError: The folder cannot be written, or workers were lost.
    """
    _check_folder(folder, sets, overwrite)
    results: dict[str, dict] = {}
    # Errors of the recipe come before anything is written.
    for generator, _ in sets.values():
        generator.label(0)
    try:
        with (
            storage.replacing_directory(folder) as temporary,
            Drawer(address, sum(count for _, count in sets.values()), import_seconds) as drawer,
        ):
            (temporary / "images").mkdir()
            for name, (generator, count) in sets.items():
                numbers = _write(temporary, name, generator, count, drawer)
                results[name] = {"file": str(folder / f"{name}.csv"), **numbers}
    except OSError as error:
        raise RaycrnnError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return results


def _write(folder: Path, name: str, generator: LineGenerator, count: int, drawer: Drawer) -> dict[str, int]:
    texts: set[str] = set()
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as csv:
        for row, (label, png) in enumerate(drawer.draw(generator, count)):
            path = f"images/{name}_{row:06}.png"
            (folder / path).write_bytes(png)
            csv.write(f"{path};{write_field(label)}\n")
            texts.add(label)
    return {"lines": count, "texts": len(texts), "characters": len(set(itertools.chain.from_iterable(texts)))}


def _check_folder(folder: Path, names: Mapping[str, object], overwrite: bool) -> None:
    """Raise `UsageError` unless a folder is new, empty, or contains only what may be replaced."""
    try:
        entries = {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{folder}: not a folder that can be written: {error.strerror}") from None
    if not entries:
        return
    if not overwrite:
        raise UsageError(f"{folder}: exists and is not empty; choose another directory, or use --overwrite")
    if foreign := sorted(entries - {"images", "train.csv", "eval.csv"}):
        raise UsageError(f"{folder}: contains {foreign[0]}, which words did not write; choose another directory")


def write_contact_sheet(file: Path, generator: LineGenerator, overwrite: bool) -> None:
    """Write a picture of the first lines of a generator with their labels.

    Raises:
        UsageError: The file exists or its name does not end in .png, or a font or text cannot be used.
        RaycrnnError: It cannot be written.
    """
    if file.suffix.lower() != ".png":
        raise UsageError(f"{file}: the contact sheet is a PNG: choose a name that ends in .png")
    if file.exists() and not overwrite:
        raise UsageError(f"{file}: already exists; use --overwrite to replace it")
    sheet = contact_sheet(generator, SHEET_LINES)
    try:
        with storage.replacing_file(file) as temporary:
            sheet.save(temporary, "PNG")
    except OSError as error:
        raise RaycrnnError(f"{file}: cannot be written: {error.strerror or error}") from None
