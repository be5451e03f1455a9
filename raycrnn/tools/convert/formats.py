"""The formats that `raycrnn convert` reads, and how it recognises them.

To add one, write a module and add a line to `FORMATS`. The module has `FILES`, a pattern of the names of its files in a
folder, or None if they have no particular names; `recognises(file, head)` tells whether a file with these first bytes
has the format; `read(file, options)` yields what is in a file; and `read_dictionary(file)` yields the units in a
dictionary, if the format has one.
"""

import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

from raycrnn import storage
from raycrnn.errors import UsageError
from raycrnn.tools.convert.source_files import walk

logger = logging.getLogger(__name__)

FORMATS = {
    "dtrb": ("dtrb_lmdb", "LMDB of deep-text-recognition-benchmark, PARSeq, PaddleOCR"),
    "paddle": ("paddle", "list of PaddleOCR; --dictionary FILE"),
    "pylaia": ("pylaia", "table of PyLaia; --dictionary syms.txt"),
    "gt-txt": ("gt_txt", "pairs NAME.png and NAME.gt.txt of Calamari, kraken, tesstrain"),
    "page": ("page_xml", "PAGE XML of Transkribus, eScriptorium, OCR-D"),
    "alto": ("alto", "ALTO XML of eScriptorium, Transkribus, kraken, ABBYY"),
    "doctr": ("doctr", "labels.json of docTR"),
    "label-studio": ("label_studio", "JSON export of Label Studio's OCR template"),
    "hugging-face": ("hugging_face", "Parquet of Hugging Face, such as CATMuS, or of raycrnn"),
    "webdataset": ("webdataset", "tar archives of WebDataset"),
    "kraken": ("kraken_arrow", "binary data set of kraken (.arrow)"),
    "iam": ("iam", "lines.txt or words.txt of IAM"),
    "easyocr": ("easyocr", "labels.csv of EasyOCR"),
    "csv": ("raycrnn_csv", "raycrnn's own CSV: path;label"),
}
"""The module and one line of help of each format. If files of two formats look alike, the first one is taken."""

READ_AS_FOLDERS = ("gt-txt",)
"""Formats whose `read` is given folders instead of the files in them."""

WITH_IMAGES = ("dtrb", "webdataset", "kraken")
"""Formats whose files contain the images."""

HEAD_BYTES = 4096
"""Bytes from the start of a file by which it is recognised."""

FILES_TO_EXAMINE = 1000
"""Files in a folder that are examined to recognise its format."""


def module_of(name: str) -> ModuleType:
    """Import the module of a format."""
    return importlib.import_module(f"raycrnn.tools.convert.{FORMATS[name][0]}")


def recognise(sources: Sequence[Path], output: Path) -> str:
    """Return the format of files and folders, from which the output folder is left out.

    Raises:
        UsageError: A source is missing, has none of the formats or several, or two sources have different formats.
    """
    written = [Path(os.path.realpath(output))]
    found = {source: _format_of(source, written) for source in sources}
    if len(set(found.values())) > 1:
        listed = "; ".join(f"{source} ({name})" for source, name in found.items())
        raise UsageError(f"files of different formats: {listed}: convert one format at a time")
    return next(iter(found.values()))


def _format_of(source: Path, written: Sequence[Path]) -> str:
    if not source.is_dir():
        name = _format_of_file(source, FORMATS)
        if name is None:
            raise UsageError(f"{source}: not recognised; name its format with --from ({', '.join(FORMATS)})")
        return name
    examples: dict[str, Path] = {}
    for file in _files_to_examine(source, written):
        name = _format_of_file(file, _formats_in_folders(file))
        if name:
            examples.setdefault(name, file)
    if not examples:
        raise UsageError(
            f"{source}: nothing that is recognised in this folder: name a file in it, or its format with --from "
            f"({', '.join(FORMATS)})"
        )
    if len(examples) > 1:
        listed = ", ".join(f"{name} ({file})" for name, file in examples.items())
        raise UsageError(f"{source}: files of several formats: {listed}: choose one with --from")
    return next(iter(examples))


def _files_to_examine(folder: Path, written: Sequence[Path]) -> Iterator[Path]:
    """Yield the first files in a folder that have the name of a format's files."""
    left = FILES_TO_EXAMINE
    for parent, names in walk(folder, written, logs=False):
        for name in names:
            if _formats_in_folders(Path(name)):
                yield parent / name
                left -= 1
                if not left:
                    return


def _formats_in_folders(file: Path) -> list[str]:
    """Return the formats whose files in a folder have such a name."""
    return [name for name in FORMATS if (pattern := module_of(name).FILES) and fnmatch(file.name, pattern)]


def _format_of_file(file: Path, names: Sequence[str] | dict[str, tuple[str, str]]) -> str | None:
    """Return the first of the formats that a file has. Raises `UsageError` if it cannot be read."""
    if file.exists() and not file.is_file():
        # A named pipe cannot be read twice.
        return None
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except FileNotFoundError:
        hint = ": copy it to a disk first" if storage.is_uri(str(file)) or ":/" in str(file) else ""
        raise UsageError(f"{file}: no such file or folder{hint}") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {storage.describe(error)}") from None
    return next((name for name in names if module_of(name).recognises(file, head)), None)
