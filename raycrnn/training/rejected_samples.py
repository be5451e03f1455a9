"""The rejected samples of a training run, shared by its workers."""

from pathlib import Path

from raycrnn import config
from raycrnn.data.rejections import Rejection, check_rejections, write_rejected
from raycrnn.ingest.training_data import TrainingData
from raycrnn.training import collectives


class RejectedSamples:
    """The rejected samples of a run: those rejected before training, and those that could not be read during it."""

    def __init__(self, data: TrainingData, settings: config.Data):
        self._data, self._settings = data, settings
        self.while_training: dict[str, dict[int, Rejection]] = {"train": {}, "eval": {}}
        """The samples that could not be read during training, by data set and row number; the same on all workers."""

    def has_new(self, name: str, own: dict[int, Rejection]) -> bool:
        """Return whether this worker rejected samples of a data set that the others do not know of.

        Args:
            name: Name of the set: "train" or "eval".
            own: Samples that this worker rejected, by row number.
        """
        return bool(own.keys() - self.while_training[name].keys())

    def share(self, name: str, own: dict[int, Rejection]) -> None:
        """Exchange new rejections of a data set between the workers. All workers must call it.

        Raises:
            RaycrnnError: More than `data.max_rejected` of the set are rejected. All workers raise it.
        """
        known = self.while_training[name]
        new = {row: rejection for row, rejection in own.items() if row not in known}
        for rejections in collectives.gather(new):
            known.update(rejections)
        check_rejections(name, self._all_of(name), self._data.sets[name].rows, self._settings)

    def _all_of(self, name: str) -> list[Rejection]:
        """Return the rejected samples of a data set, before and during training."""
        # A resumed run may reject a sample before training that it rejected while training earlier.
        rejections = [*self.while_training[name].values(), *self._data.sets[name].rejections]
        return list({(rejection.csv, rejection.line): rejection for rejection in rejections}.values())

    def counts(self) -> dict[str, int]:
        """Return the number of samples of each data set that were rejected since training began."""
        return {name: len(rejections) for name, rejections in self.while_training.items()}

    def total(self) -> int:
        """Return the number of all rejected samples, before and during training."""
        return sum(len(self._all_of(name)) for name in self._data.sets)

    def write(self, path: Path) -> None:
        """Write all rejected samples to a CSV file. Raises `OSError`."""
        write_rejected(path, [rejection for name in self._data.sets for rejection in self._all_of(name)])
