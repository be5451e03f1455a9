"""The samples that a training run leaves out, known to all of its workers."""

from pathlib import Path

from raycrnn import config
from raycrnn.data.rejections import Rejection, check_rejections, write_rejected
from raycrnn.ingest.training_data import TrainingData
from raycrnn.training import collectives


class RejectedSamples:
    """The samples that a run leaves out: those rejected before training, and those that could not be read since.

    The latter are kept by set, "train" or "eval", and by row number, and are the same on all workers.
    """

    def __init__(self, data: TrainingData, settings: config.Data):
        self._data, self._settings = data, settings
        self.while_training: dict[str, dict[int, Rejection]] = {"train": {}, "eval": {}}

    def has_new(self, name: str, own: dict[int, Rejection]) -> bool:
        """Return whether this worker rejected samples of a set that the others do not know of."""
        return bool(own.keys() - self.while_training[name].keys())

    def share(self, name: str, own: dict[int, Rejection]) -> None:
        """Exchange new rejections of a set between the workers. All workers must call it.

        Raises:
            RaycrnnError: More than `data.max_rejected` of the set is rejected; raised by all workers.
        """
        known = self.while_training[name]
        new = {row: rejection for row, rejection in own.items() if row not in known}
        for rejections in collectives.gather(new):
            known.update(rejections)
        samples = self._data.sets[name]
        check_rejections(name, [*samples.rejections, *known.values()], samples.rows, self._settings)

    def counts(self) -> dict[str, int]:
        """Return the number of samples of each set that were rejected since training began."""
        return {name: len(rejections) for name, rejections in self.while_training.items()}

    def total(self) -> int:
        """Return the number of all rejected samples."""
        return sum(len(samples.rejections) for samples in self._data.sets.values()) + sum(self.counts().values())

    def write(self, path: Path) -> None:
        """Write all rejected samples to a CSV file. Raises `OSError`."""
        rejections = [rejection for found in self.while_training.values() for rejection in found.values()]
        for samples in self._data.sets.values():
            rejections += samples.rejections
        write_rejected(path, rejections)
