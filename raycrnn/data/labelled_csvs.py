"""The CSVs of a training run: their rows, the configured alphabet and lexicon, and the direction of the text."""

import hashlib
from dataclasses import dataclass

from raycrnn.config import Configuration
from raycrnn.data import bidi, csv_files
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.bidi import TextDirection
from raycrnn.data.csv_files import CsvFile
from raycrnn.data.lexicon import Lexicon
from raycrnn.errors import UsageError


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
    more_units: tuple[str, ...] = ()
    """Units that an alphabet built from the rows has besides those of the labels."""
    lexicon: Lexicon | None = None
    """The lexicon of decoding, if one is configured."""


def read(configuration: Configuration) -> LabelledCsvs:
    """Read the CSVs, and the alphabet and the lexicon if they are configured.

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
    lexicon = Lexicon.read(configuration.decoding.lexicon, data) if configuration.decoding.lexicon else None
    return LabelledCsvs(train, evaluation, alphabet, direction, digests, row_digests, lexicon=lexicon)


def digest_rows(file: CsvFile) -> str:
    """Return a SHA-256 of the labels and file names in a file. The folders of the images do not change it."""
    digest = hashlib.sha256()
    for row in file.rows:
        name = row.path.rpartition("/")[2]
        # No label is another one than an empty label. A NUL is in no path.
        label = "-" if row.label is None else f"+{row.label}"
        digest.update(f"{name}\0{len(label)}{label}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
