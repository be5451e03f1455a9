"""The data of a training run: its CSVs are read and checked, and their rows put into the object store."""

import hashlib
import logging
from dataclasses import dataclass

from raycrnn import storage
from raycrnn.config import Configuration
from raycrnn.data import bidi, csv_files
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.bidi import TextDirection
from raycrnn.data.csv_files import CsvFile
from raycrnn.data.rejections import check_rejections, write_rejected
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.ingest import sample_table
from raycrnn.ingest.image_sizes import ImageSizes
from raycrnn.ingest.sample_table import SampleTable
from raycrnn.storage import Directory

logger = logging.getLogger(__name__)


@dataclass
class LabelledCsvs:
    """The rows of a run's CSVs. Those of long CSVs take hundreds of megabytes."""

    train: list[CsvFile]
    eval: list[CsvFile]
    alphabet: Alphabet | None
    """The alphabet; None if `put` builds it from the usable training rows."""
    text_direction: TextDirection
    digests: dict[str, str]
    """SHA-256 of each file, by its path."""
    row_digests: dict[str, str]
    """SHA-256 of the labels and file names in each file, by its path."""


@dataclass(frozen=True)
class TrainingData:
    """The samples of a run, in the object store, and their alphabet. Small itself; can be sent to any process."""

    alphabet: Alphabet
    train: SampleTable
    eval: SampleTable | None
    csv_digests: dict[str, str]
    """SHA-256 of each CSV, by its path."""
    csv_row_digests: dict[str, str]
    """SHA-256 of the file names and labels in each CSV, by its path."""

    @property
    def sets(self) -> dict[str, SampleTable]:
        """The tables by the name of their data set: `train`, and `eval` if there is one."""
        return {"train": self.train} | ({"eval": self.eval} if self.eval else {})

    @property
    def warnings(self) -> list[str]:
        """The warnings about all data sets."""
        return [warning for samples in self.sets.values() for warning in samples.warnings]

    def __str__(self) -> str:
        eval_rows = self.eval.usable if self.eval else 0
        return f"{self.train.usable:,} rows to train on, {eval_rows:,} to evaluate, {len(self.alphabet)} units"


def read(configuration: Configuration) -> LabelledCsvs:
    """Read the CSVs, and load the alphabet if one is configured.

    Raises:
        UsageError: A file cannot be read, or has no usable label.
    """
    data = configuration.data
    train = csv_files.read_labelled_csvs(data.train_csvs, data)
    evaluation = csv_files.read_labelled_csvs(data.csv_files_eval, data)
    digests = {path: csv_files.digest(path) for path in (*data.train_csvs, *data.csv_files_eval)}
    row_digests = {file.path: digest_rows(file) for file in (*train, *evaluation)}
    alphabet = None
    if data.lookup_alphabet_file is not None:
        alphabet = Alphabet.load(data.lookup_alphabet_file, data.unicode_form)
    elif not any(csv_files.units_of(row, data) for file in train for row in file.rows):
        names = ", ".join(file.path for file in train)
        raise UsageError(f"{names}: all labels are empty; a row is path{data.csv_delimiter}label")
    direction = data.text_direction
    if direction == "auto":
        direction = bidi.direction_of(row.label for file in train for row in file.rows if row.label)
    return LabelledCsvs(train, evaluation, alphabet, direction, digests, row_digests)


def digest_rows(file: CsvFile) -> str:
    """Return a SHA-256 of the labels and file names in a file. The folders of the images do not change it."""
    digest = hashlib.sha256()
    for row in file.rows:
        name = row.path.rpartition("/")[2]
        # No label is another one than an empty label. A NUL is in no path.
        label = "-" if row.label is None else f"+{row.label}"
        digest.update(f"{name}\0{len(label)}{label}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def put(
    csvs: LabelledCsvs, configuration: Configuration, output: Directory, search: Directory | None = None
) -> TrainingData:
    """Measure the images, encode the labels and put the rows into the object store.

    If no alphabet is configured, it is built from the usable training rows: a row that is left out adds no units.

    Args:
        csvs: The rows.
        configuration: The run's configuration.
        output: The run's output directory. It keeps the sizes of images in object storage.
        search: The output directory of the run's search, which has measured images as well.

    Raises:
        RaycrnnError: More than `data.max_rejected` of a data set is unusable; `rejected.csv` is written to `output`.
        StorageError: Object storage fails while images are measured.
    """
    sizes = ImageSizes(output, *filter(None, [search]))
    direction = csvs.text_direction
    train, alphabet = sample_table.put_samples(csvs.train, csvs.alphabet, configuration, direction, True, sizes)
    sets = {"train": train}
    if csvs.eval:
        sets["eval"], _ = sample_table.put_samples(csvs.eval, alphabet, configuration, direction, False, sizes)
    try:
        for name, samples in sets.items():
            check_rejections(name, samples.rejections, samples.rows, configuration.data)
    except RaycrnnError as error:
        # They may explain the rejections: a page is too narrow for its label.
        for warning in (warning for samples in sets.values() for warning in samples.warnings):
            logger.warning(warning)
        rejections = [rejection for samples in sets.values() for rejection in samples.rejections]
        try:
            write_rejected(output.path / "rejected.csv", rejections)
            output.sync()
        except OSError as problem:
            reason = storage.describe(problem)
            raise RaycrnnError(f"{error}\n{output}/rejected.csv: cannot be written: {reason}") from None
        raise RaycrnnError(f"{error}\nall of them are listed in {output}/rejected.csv") from None
    return TrainingData(alphabet, train, sets.get("eval"), csvs.digests, csvs.row_digests)
