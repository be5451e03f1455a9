"""What a run learns from: its CSVs, read, checked and put where every worker finds them."""

import hashlib
from dataclasses import dataclass

from raycrnn import storage
from raycrnn.config import Configuration
from raycrnn.data import csv_files
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.csv_files import CsvFile
from raycrnn.data.rejections import check_rejections
from raycrnn.errors import RaycrnnError
from raycrnn.ingest import sample_table
from raycrnn.ingest.sample_table import SampleTable
from raycrnn.storage import Directory


@dataclass
class LabelledCsvs:
    """The rows of a run's CSVs. Of long ones they take hundreds of megabytes."""

    train: list[CsvFile]
    eval: list[CsvFile]
    alphabet: Alphabet
    digests: dict[str, str]
    """SHA-256 of each file"""


@dataclass(frozen=True)
class TrainingData:
    """The rows in the object store and their alphabet. Small, and safe to send anywhere."""

    alphabet: Alphabet
    train: SampleTable
    eval: SampleTable | None
    csv_digests: dict[str, str]

    @property
    def sets(self) -> dict[str, SampleTable]:
        return {name: each for name, each in (("train", self.train), ("eval", self.eval)) if each}

    @property
    def warnings(self) -> list[str]:
        return [warning for each in self.sets.values() for warning in each.warnings]

    def __str__(self) -> str:
        evaluated = self.eval.usable if self.eval else 0
        return f"{self.train.usable:,} rows to train on, {evaluated:,} to evaluate, {len(self.alphabet)} units"


def read(configuration: Configuration) -> LabelledCsvs:
    """Read the CSVs and find the alphabet. Raises `UsageError`."""
    data = configuration.data
    train, evaluated = (csv_files.read_labelled_csvs(paths, data) for paths in (data.train_csvs, data.csv_files_eval))
    digests = {path: _digest(path) for path in (*data.train_csvs, *data.csv_files_eval)}
    return LabelledCsvs(train, evaluated, csv_files.load_or_build_alphabet(train, data), digests)


def _digest(path: str) -> str:
    return hashlib.sha256(storage.read(path)).hexdigest()


def put(csvs: LabelledCsvs, configuration: Configuration, output: Directory) -> TrainingData:
    """Encode the labels, measure the images and put the rows into the object store.

    Raises:
        RaycrnnError: too much of a set is unusable; rejected.csv is written to `output`.
    """
    train = sample_table.put_samples(csvs.train, csvs.alphabet, configuration, training=True)
    evaluated = sample_table.put_samples(csvs.eval, csvs.alphabet, configuration, training=False) if csvs.eval else None
    material = TrainingData(csvs.alphabet, train, evaluated, csvs.digests)
    try:
        for name, each in material.sets.items():
            check_rejections(name, each.rejections, each.rows, configuration.data)
    except RaycrnnError as error:
        # Imported here: with it comes torch, which takes seconds that a start can do without.
        from raycrnn.data.rejections import write_rejected

        rejections = [rejection for each in material.sets.values() for rejection in each.rejections]
        try:
            write_rejected(output.path / "rejected.csv", rejections)
            output.push()
        except OSError as problem:
            why = storage.describe(problem)
            raise RaycrnnError(f"{error}\n{output}/rejected.csv: cannot be written: {why}") from None
        raise RaycrnnError(f"{error}\nall of them are listed in {output}/rejected.csv") from None
    return material
