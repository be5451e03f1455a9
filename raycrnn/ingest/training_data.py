"""The data of a training run: its CSVs are read and checked, and their rows put into the object store."""

import hashlib
from dataclasses import dataclass

from raycrnn import storage
from raycrnn.config import Configuration
from raycrnn.data import csv_files
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.csv_files import CsvFile
from raycrnn.data.rejections import check_rejections, write_rejected
from raycrnn.errors import RaycrnnError
from raycrnn.ingest import sample_table
from raycrnn.ingest.sample_table import SampleTable
from raycrnn.storage import Directory


@dataclass
class LabelledCsvs:
    """The rows of a run's CSVs. Those of long CSVs take hundreds of megabytes."""

    train: list[CsvFile]
    eval: list[CsvFile]
    alphabet: Alphabet
    digests: dict[str, str]
    """SHA-256 of each file, by its path."""


@dataclass(frozen=True)
class TrainingData:
    """The samples of a run, in the object store, and their alphabet. Small itself; can be sent to any process."""

    alphabet: Alphabet
    train: SampleTable
    eval: SampleTable | None
    csv_digests: dict[str, str]
    """SHA-256 of each CSV, by its path."""

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
    """Read the CSVs, and load the alphabet or build it from their labels.

    Raises:
        UsageError: A file cannot be read, has no usable label or does not fit the configuration.
    """
    data = configuration.data
    train = csv_files.read_labelled_csvs(data.train_csvs, data)
    evaluation = csv_files.read_labelled_csvs(data.csv_files_eval, data)
    digests = {
        path: hashlib.sha256(storage.read(path)).hexdigest() for path in (*data.train_csvs, *data.csv_files_eval)
    }
    return LabelledCsvs(train, evaluation, csv_files.load_or_build_alphabet(train, data), digests)


def put(csvs: LabelledCsvs, configuration: Configuration, output: Directory) -> TrainingData:
    """Encode the labels, measure the images and put the rows into the object store.

    Raises:
        RaycrnnError: More than `data.max_rejected` of a data set is unusable; `rejected.csv` is written to `output`.
    """
    train = sample_table.put_samples(csvs.train, csvs.alphabet, configuration, training=True)
    evaluation = (
        sample_table.put_samples(csvs.eval, csvs.alphabet, configuration, training=False) if csvs.eval else None
    )
    data = TrainingData(csvs.alphabet, train, evaluation, csvs.digests)
    try:
        for name, samples in data.sets.items():
            check_rejections(name, samples.rejections, samples.rows, configuration.data)
    except RaycrnnError as error:
        rejections = [rejection for samples in data.sets.values() for rejection in samples.rejections]
        try:
            write_rejected(output.path / "rejected.csv", rejections)
            output.sync()
        except OSError as problem:
            reason = storage.describe(problem)
            raise RaycrnnError(f"{error}\n{output}/rejected.csv: cannot be written: {reason}") from None
        raise RaycrnnError(f"{error}\nall of them are listed in {output}/rejected.csv") from None
    return data
