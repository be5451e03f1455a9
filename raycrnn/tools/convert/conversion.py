"""Convert the lines of a source: read, check, write, and count."""

import io
import logging
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from raycrnn import storage
from raycrnn.console import LineTimer, ProgressBar
from raycrnn.data import image as images
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.csv_files import split_label
from raycrnn.data.rejections import Rejected
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.tools.convert import formats, outputs
from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine, row_label
from raycrnn.tools.convert.source_files import check_not_written, files_in

logger = logging.getLogger(__name__)

OutputFormat = Literal["csv", "parquet"]

LINES_PER_STEP = 100
"""Lines between two updates of the progress."""

MAX_LISTED = 20
"""Units that a message lists."""


@dataclass(frozen=True)
class ConversionJob:
    """What to convert, and to what."""

    sources: Sequence[Path]
    format: str
    """A key of `formats.FORMATS`."""
    options: ImportOptions
    dictionary: Path | None
    output: Path
    to: OutputFormat
    copies: bool
    """Whether a CSV refers to copies of images that are files."""
    shard_bytes: int
    """Bytes of the images in a Parquet file."""


@dataclass
class ConversionResult:
    """What was converted."""

    lines: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of things that were left out, by reason."""
    units: set[str] = field(default_factory=set)
    """The units of all labels."""


def check_output(output: Path, sources: Sequence[Path], overwrite: bool) -> None:
    """Check that an output folder is new or empty, or may be replaced.

    Raises:
        UsageError: It is not, or something that is read is in it.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"{output}: is a file; name a folder")
    if output.samefile(os.curdir):
        raise UsageError(f"{output}: is the current folder, which would be replaced: name a new one")
    names = sorted(path.name for path in output.iterdir())
    if names and not outputs.is_marked(output):
        raise UsageError(
            f"{output}: is not empty, and `convert` did not write it, or an earlier version did (there is no valid "
            f"{outputs.MARKER_NAME} in it): use another folder, or delete this one yourself"
        )
    if names and not overwrite:
        raise UsageError(f"{output}: is not empty; use --overwrite to replace it, or another folder")
    others = [name for name in names if not outputs.OUTPUT_NAMES.fullmatch(name)]
    if others:
        raise UsageError(f"{output}: is not replaced, because it contains {others[0]}, which `convert` does not write")
    inside = [source for source in sources if names and source.resolve().is_relative_to(output.resolve())]
    if inside:
        raise UsageError(f"{inside[0]}: is in {output}, which would be replaced: use another folder")


def convert(job: ConversionJob) -> ConversionResult:
    """Write an output folder in one step. If no line can be used, nothing is written.

    Raises:
        UsageError: A source or the dictionary cannot be read, or an image is in the folder that is replaced.
        RaycrnnError: No line can be used, or the output cannot be written.
    """
    if job.options.images and job.format in formats.WITH_IMAGES:
        raise UsageError(
            f"{job.options.images}: files of the format {job.format} contain their images; leave --images out"
        )
    # The target of a link is replaced, not the link.
    replaced = Path(os.path.realpath(job.output))
    try:
        with storage.replacing_directory(replaced, flush=False) as folder:
            result = _convert_to(folder, replace(job, options=replace(job.options, written=(replaced, folder))))
            if not result.lines:
                # Raised here, so that the folder is not written.
                raise RaycrnnError(f"no line that can be used in {', '.join(map(str, job.sources))}")
            # There may be millions of images. To flush each would take longer than everything else.
            os.sync()
        return result
    except OSError as error:
        raise RaycrnnError(f"{job.output}: cannot be written: {storage.describe(error)}") from None


def _convert_to(folder: Path, job: ConversionJob) -> ConversionResult:
    result = ConversionResult()
    outputs.write_marker(folder, job.format)
    with outputs.LeftOutList(folder / outputs.LEFT_OUT_NAME) as left_out:
        alphabet, options = None, job.options
        if job.dictionary:
            units, alphabet = _read_dictionary(job, left_out)
            options = replace(options, units=frozenset(units))
            storage.write_text(folder / outputs.ALPHABET_NAME, alphabet.to_json())
        with _open_output(folder, job) as output:
            for item in _with_progress(_items(job, options)):
                if isinstance(item, LeftOut):
                    left_out.add(item)
                    continue
                try:
                    label = _add(item, output, options)
                except (UnusableLine, Rejected) as error:
                    left_out.add(LeftOut(item.file, item.place, error.reason, error.detail))
                    continue
                result.lines += 1
                result.units.update(split_label(label or ""))
        result.left_out = dict(left_out.counts.most_common())
        if left_out.counts:
            logger.warning(f"{left_out.counts.total():,} left out:\n{left_out.summary()}")
    if alphabet:
        _warn_of_unknown_units(result.units - set(alphabet.units))
    return result


def _open_output(folder: Path, job: ConversionJob) -> outputs.LabelsCsv | outputs.PackedParquet:
    if job.to == "csv":
        return outputs.LabelsCsv(folder, job.output, job.copies)
    return outputs.PackedParquet(folder, job.shard_bytes)


def _add(item: LabelledImage, output: outputs.LabelsCsv | outputs.PackedParquet, options: ImportOptions) -> str | None:
    """Check an image and its label, write both, and return the label.

    Raises:
        UnusableLine: The label or the path cannot be used.
        Rejected: The image cannot be used.
        UsageError: The image is in the folder that is replaced.
    """
    label = row_label(item)
    if isinstance(item.image, bytes):
        size = images.size_of(io.BytesIO(item.image))
    else:
        size = images.measure(str(item.image))
        check_not_written(item.image, options.written)
    output.add(item.image, label, item.name, size)
    return label


def _items(job: ConversionJob, options: ImportOptions) -> Items:
    """Yield what is in the sources. A file that cannot be read is left out."""
    module = formats.module_of(job.format)
    for source in job.sources:
        if module.FILES is None and source.is_dir():
            raise UsageError(f"{source}: is a folder; name a file of the format {job.format}")
        is_whole = module.FILES is None or job.format in formats.READ_AS_FOLDERS
        for file in [source] if is_whole else files_in(source, module.FILES, options.written):
            if file.exists() and not file.is_file() and not is_whole:
                yield LeftOut(file, "", "not a regular file")
                continue
            try:
                yield from module.read(file, options)
            except UnusableLine as error:
                yield LeftOut.because(error, file)
            except OSError as error:
                yield LeftOut(Path(error.filename or file), "", "cannot be read", storage.describe(error))


def _with_progress(items: Items) -> Items:
    """Yield items, and show their number: on a terminal in place, else in a line every 30 seconds."""
    bar, timer = ProgressBar(None, unit=" lines"), LineTimer()
    try:
        for number, item in enumerate(items, 1):
            yield item
            if number % LINES_PER_STEP == 0:
                bar.show(number)
                if timer.is_due():
                    logger.info(f"{number:,} lines so far")
                    timer.restart()
    finally:
        bar.close()


# --- dictionaries


def _read_dictionary(job: ConversionJob, left_out: outputs.LeftOutList) -> tuple[list[str], Alphabet]:
    """Return the units in a dictionary as they are written there, and the alphabet of all different ones.

    Raises:
        UsageError: There are none, or the format has no dictionaries.
    """
    module = formats.module_of(job.format)
    file = job.dictionary
    assert file is not None
    if not hasattr(module, "read_dictionary"):
        raise UsageError(f"{file}: the format {job.format} has no dictionary; leave --dictionary out")
    units: list[str] = []
    different: dict[str, None] = {}
    try:
        for found in module.read_dictionary(file):
            if isinstance(found, LeftOut):
                left_out.add(found)
                continue
            units.append(found)
            normalised = unicodedata.normalize("NFC", found)
            if normalised in different:
                left_out.add(LeftOut(file, f"unit {len(units)}", "a unit that is repeated in the dictionary", found))
            different[normalised] = None
        return units, Alphabet(tuple(different))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {storage.describe(error)}") from None
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def _warn_of_unknown_units(unknown: set[str]) -> None:
    if unknown:
        shown = ", ".join(repr(unit) for unit in sorted(unknown)[:MAX_LISTED])
        more = f" and {len(unknown) - MAX_LISTED} more" if len(unknown) > MAX_LISTED else ""
        logger.warning(
            f"{len(unknown)} units of the labels are not in the dictionary: {shown}{more}: add them to "
            f"{outputs.ALPHABET_NAME}, or train without it"
        )
