"""What a run learns from: its CSVs, read, checked and put where every worker finds them."""

import hashlib
from dataclasses import dataclass

from raycrnn import dataset, storage
from raycrnn.alphabet import Alphabet
from raycrnn.config import Configuration
from raycrnn.dataset import SampleSet
from raycrnn.errors import RaycrnnError
from raycrnn.samples import CsvFile
from raycrnn.storage import Directory


@dataclass
class Csvs:
    """The rows of a run's CSVs. Of long ones they take hundreds of megabytes."""

    train: list[CsvFile]
    eval: list[CsvFile]
    alphabet: Alphabet
    digests: dict[str, str]
    """SHA-256 of each file"""


@dataclass(frozen=True)
class Material:
    """The rows in the object store and their alphabet. Small, and safe to send anywhere."""

    alphabet: Alphabet
    train: SampleSet
    eval: SampleSet | None
    csv_digests: dict[str, str]

    @property
    def sets(self) -> dict[str, SampleSet]:
        return {name: each for name, each in (("train", self.train), ("eval", self.eval)) if each}

    @property
    def warnings(self) -> list[str]:
        return [warning for each in self.sets.values() for warning in each.warnings]

    def __str__(self) -> str:
        evaluated = self.eval.usable if self.eval else 0
        return f"{self.train.usable:,} rows to train on, {evaluated:,} to evaluate, {len(self.alphabet)} units"


def read(configuration: Configuration) -> Csvs:
    """Read the CSVs and find the alphabet. Raises `UsageError`."""
    data = configuration.data
    train, evaluated = (dataset.read_labels(paths, data) for paths in (data.train_csvs, data.csv_files_eval))
    digests = {path: _digest(path) for path in (*data.train_csvs, *data.csv_files_eval)}
    return Csvs(train, evaluated, dataset.alphabet_of(train, data), digests)


def _digest(path: str) -> str:
    return hashlib.sha256(storage.read(path)).hexdigest()


def put(csvs: Csvs, configuration: Configuration, output: Directory) -> Material:
    """Encode the labels, measure the images and put the rows into the object store.

    Raises:
        RaycrnnError: too much of a set is unusable; rejected.csv is written to `output`.
    """
    train = dataset.put_samples(csvs.train, csvs.alphabet, configuration, training=True)
    evaluated = dataset.put_samples(csvs.eval, csvs.alphabet, configuration, training=False) if csvs.eval else None
    material = Material(csvs.alphabet, train, evaluated, csvs.digests)
    try:
        for name, each in material.sets.items():
            dataset.check_rejections(name, each.rejections, each.rows, configuration.data)
    except RaycrnnError as error:
        # Imported here: with it comes torch, which takes seconds that a start can do without.
        from raycrnn import journal

        rejections = [rejection for each in material.sets.values() for rejection in each.rejections]
        try:
            journal.write_rejected(output.path / "rejected.csv", rejections)
            output.push()
        except OSError as problem:
            why = storage.describe(problem)
            raise RaycrnnError(f"{error}\n{output}/rejected.csv: cannot be written: {why}") from None
        raise RaycrnnError(f"{error}\nall of them are listed in {output}/rejected.csv") from None
    return material
