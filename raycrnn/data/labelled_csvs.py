"""The CSVs of a training run: their rows, the configured alphabet and lexicon, and the direction of the text."""

import hashlib
from dataclasses import dataclass

from raycrnn.config import Configuration
from raycrnn.data import bidi, csv_files, grouping
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
    """Read the CSVs, divide them if a fold is trained, and load the alphabet and the lexicon if they are configured.

    The alphabet of a fold also has the units of the rows that it holds back, so that all folds have the same.

    Raises:
        UsageError: A file cannot be read, or has no usable label.
    """
    data = configuration.data
    train = csv_files.read_labelled_csvs(data.train_csvs, data)
    evaluation = csv_files.read_labelled_csvs(configuration.eval_csvs, data)
    digests = {path: csv_files.digest(path) for path in (*data.train_csvs, *configuration.eval_csvs)}
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
    more_units: tuple[str, ...] = ()
    if configuration.training.fold is not None:
        train, evaluation = _divide(train, configuration, configuration.training.fold)
        held_back = (csv_files.units_of(row, data) for file in evaluation for row in file.rows)
        more_units = tuple(dict.fromkeys(unit for units in held_back for unit in units))
    lexicon = Lexicon.read(configuration.decoding.lexicon, data) if configuration.decoding.lexicon else None
    return LabelledCsvs(train, evaluation, alphabet, direction, digests, row_digests, more_units, lexicon)


def _divide(files: list[CsvFile], configuration: Configuration, fold: int) -> tuple[list[CsvFile], list[CsvFile]]:
    """Return the files with the rows that a fold trains on, and those with the rows that it holds back.

    Raises:
        UsageError: The rows cannot be divided into folds, or a fold holds back all rows of a CSV that has a weight.
    """
    train, held_back = grouping.hold_back(files, fold, folds_of_rows(files, configuration))
    empty = [file.path for file in train if not file.rows]
    if empty and configuration.data.train_weights:
        raise UsageError(
            f"{', '.join(empty)}: fold {fold} holds back all rows, but data.csv_files_train has a weight for them: "
            "remove the weights, or choose smaller groups (data.fold_group)"
        )
    return train, held_back


def folds_of_rows(files: list[CsvFile], configuration: Configuration) -> list[list[int | None]]:
    """Return the fold that holds back each row of the training CSVs; see `grouping.folds_of_rows`."""
    training = configuration.training
    assert training.folds is not None
    return grouping.folds_of_rows(files, training.folds, configuration.data.fold_group, training.seed)


def digest_rows(file: CsvFile) -> str:
    """Return a SHA-256 of the labels and file names in a file. The folders of the images do not change it."""
    digest = hashlib.sha256()
    for row in file.rows:
        name = row.path.rpartition("/")[2]
        # No label is another one than an empty label. A NUL is in no path.
        label = "-" if row.label is None else f"+{row.label}"
        digest.update(f"{name}\0{len(label)}{label}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
