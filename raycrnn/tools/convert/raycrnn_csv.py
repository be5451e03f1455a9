"""raycrnn's own CSV files: `path;label`. Used to pack their images, or to copy them to one folder."""

import itertools
from pathlib import Path

from raycrnn import storage
from raycrnn.config import Data
from raycrnn.data import csv_files, image_files
from raycrnn.data.rejections import Rejected
from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut

FILES = None
"""CSV files in a folder are not recognised by their names."""


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file has the name of a CSV."""
    return file.suffix.lower() in (".csv", ".tsv")


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the rows of a CSV. Images at URIs are read, and many at a time."""
    settings = Data(csv_files_train=(str(file),), csv_delimiter=options.delimiter, encoding=options.encoding)
    # Relative paths are relative to the folder of the CSV.
    csv = csv_files.CsvFile(str(options.images / file.name if options.images else file), [])
    rows = csv_files.iter_list(file, settings)
    while group := list(itertools.islice(rows, image_files.IMAGES_READ_AHEAD)):
        places = ["" if row.problem else csv.resolve(row) for row in group]
        read_bytes = image_files.prefetching_reader(places)
        for row, place in zip(group, places, strict=True):
            where = f"line {row.line}"
            if row.problem:
                yield LeftOut(file, where, "malformed row", f"{row.problem}: {row.path}")
                continue
            try:
                image = read_bytes(place) if storage.is_uri(place) else Path(place)
            except Rejected as error:
                yield LeftOut(file, where, error.reason, error.detail)
                continue
            yield LabelledImage(file, where, row.path, image, row.label, is_row_label=True)
