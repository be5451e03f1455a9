"""The data of a training run: its CSVs are read and checked, and their rows put into the object store."""

import logging
from dataclasses import dataclass

from raycrnn import storage
from raycrnn.config import Configuration
from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.labelled_csvs import LabelledCsvs
from raycrnn.data.lexicon import Lexicon
from raycrnn.data.rejections import check_rejections, write_rejected
from raycrnn.errors import RaycrnnError
from raycrnn.ingest import sample_table
from raycrnn.ingest.image_sizes import ImageSizes
from raycrnn.ingest.sample_table import SampleTable
from raycrnn.storage import Directory

logger = logging.getLogger(__name__)


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
    lexicon: Lexicon | None = None
    """The lexicon of decoding, without the entries that the model cannot read."""

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
        UsageError: The model cannot read any entry of the lexicon.
        RaycrnnError: More than `data.max_rejected` of a data set is unusable; `rejected.csv` is written to `output`.
        StorageError: Object storage fails while images are measured.
    """
    sizes = ImageSizes(output, *filter(None, [search]))
    direction = csvs.text_direction
    train, alphabet = sample_table.put_samples(
        csvs.train, csvs.alphabet, configuration, direction, True, sizes, csvs.more_units
    )
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
    lexicon = csvs.lexicon
    if lexicon is not None:
        lexicon = lexicon.readable(alphabet, image.frames(configuration.image.input_shape[1]))
    return TrainingData(alphabet, train, sets.get("eval"), csvs.digests, csvs.row_digests, lexicon)
