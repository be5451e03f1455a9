"""Data sets whose images need not exist."""

import pyarrow as pa

from raycrnn import config
from raycrnn.checking.labelled_set import LabelledSet
from raycrnn.checking.scan import SCANNED
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.data.labelled_csvs import LabelledCsvs


def labelled_set(labels, name="train", images=None, size=(1000, 32), **data) -> LabelledSet:
    """Return a set with a row for each label.

    Args:
        images: A short text for each image; equal texts are the same image. Default: all images differ.
    """
    rows = [Row(f"{line}.png", label, line) for line, label in enumerate(labels, 1)]
    files = [CsvFile(f"{name}.csv", rows)]
    images = images or [f"{name} {number}" for number in range(len(rows))]
    notes = [
        {"digest": image.encode().ljust(16)[:16], "header_size": size, "size": size, "is_blank": False}
        for image in images
    ]
    configuration = config.parse({"data": {"csv_files_train": "train.csv", **data}})
    csvs = LabelledCsvs(files, [], None, "ltr", {}, {})
    return LabelledSet(name, files, pa.Table.from_pylist(notes, SCANNED), None, csvs, configuration)
