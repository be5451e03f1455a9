"""The rows of a data set with what was found out about their images."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from raycrnn.checking.findings import MAX_EXAMPLES, FindingExample
from raycrnn.config import Configuration
from raycrnn.data import csv_files, image, usable_rows
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.data.labelled_csvs import LabelledCsvs
from raycrnn.data.rejections import Rejected, Rejection
from raycrnn.data.usable_rows import Size


class LabelledSet:
    """A data set: its rows by number, the notes on their images, and which rows training would use.

    Args:
        name: "train" or "eval".
        files: The CSVs.
        notes: A table with the schema `scan.SCANNED`, with one row per row of the CSVs.
        alphabet: The alphabet; None to build it from the labels of the usable rows.
        csvs: All CSVs of the run, which have the direction of the text.
        configuration: The run's configuration.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[CsvFile],
        notes: pa.Table,
        alphabet: Alphabet | None,
        csvs: LabelledCsvs,
        configuration: Configuration,
    ):
        self.name, self.files, self.configuration = name, files, configuration
        self._starts = np.cumsum([0, *(len(file.rows) for file in files)])
        self._notes = notes
        training = name == "train"
        checked = usable_rows.check_rows(
            files, alphabet, configuration, csvs.text_direction, training, self._header_sizes()
        )
        # Before the rows whose images cannot be decoded are removed, as in training.
        self.alphabet = alphabet or (
            Alphabet.from_labels([*checked.labels, csvs.more_units]) if checked.labels else None
        )
        self.rejections = checked.rejections
        """The rows that are left out, by their order in the CSVs; those whose images cannot be decoded come last."""
        self.usable: list[int] = []
        """Numbers of the rows that are used."""
        self.labels: list[tuple[str, ...]] = []
        """The units of each usable row, in display order."""
        self.frames: list[int] = []
        """The number of frames that the label of each usable row needs."""
        rows = zip(checked.columns["row"], checked.columns["frames"], checked.labels, strict=True)
        for number, frames, units in rows:
            self._add_decoded(number, frames, units, training)

    def _header_sizes(self) -> Iterator[Size | Rejected]:
        known = (row.size for file in self.files for row in file.rows)
        columns = (self._notes[name].to_pylist() for name in ("header_size", "header_rejected"))
        for stated, size, rejected in zip(known, *columns, strict=True):
            # Training takes the sizes that a packed data set states, and finds the others out while decoding.
            yield stated or (Rejected(*rejected) if rejected else (size[0], size[1]))

    @cached_property
    def _decoding(self) -> list[list[str] | None]:
        columns = (self._notes[name].to_pylist() for name in ("header_rejected", "rejected"))
        return [header or pixels for header, pixels in zip(*columns, strict=True)]

    def _add_decoded(self, number: int, frames: int, units: tuple[str, ...], training: bool) -> None:
        """Add a row with a usable label and header if its image can be decoded; else its rejection."""
        try:
            if problem := self._decoding[number]:
                raise Rejected(*problem)
            if training:
                # The orientation may be stated behind the pixels, where the header's reader does not look.
                width = image.fitted_width(self.size(number), self.configuration.image.input_shape)
                usable_rows.check_frames(len(units), frames, width)
        except Rejected as rejected:
            file, row = self.row(number)
            self.rejections.append(Rejection(file.path, row.line, row.path, rejected.reason, rejected.detail))
            return
        self.usable.append(number)
        self.labels.append(units)
        self.frames.append(frames)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row(self, number: int) -> tuple[CsvFile, Row]:
        """Return a row by its number among all rows of the set, with its CSV."""
        source = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.files[source], self.files[source].rows[number - int(self._starts[source])]

    def number(self, file: CsvFile, line: int) -> int:
        """Return the number of the row in a line of a CSV."""
        return self._number_of[file.path, line]

    @cached_property
    def _number_of(self) -> dict[tuple[str, int], int]:
        pairs = ((file.path, row.line) for file in self.files for row in file.rows)
        return {place: number for number, place in enumerate(pairs)}

    def units(self, number: int) -> tuple[str, ...]:
        """Return the normalised units of a row's label, in reading order."""
        return csv_files.units_of(self.row(number)[1], self.configuration.data)

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Width and height of each decoded image with a horizontal line, int32 [rows, 2]; 0 if there is none."""
        column = self._notes["size"].combine_chunks()
        sizes = np.zeros((len(self), 2), np.int32)
        sizes[np.asarray(column.is_valid())] = column.drop_null().flatten().to_numpy().reshape(-1, 2)
        return sizes if self.configuration.data.line_orientation == "horizontal" else sizes[:, ::-1]

    def size(self, number: int) -> Size:
        """Return the width and height in pixels of a decoded image, turned so that its line is horizontal."""
        width, height = self._sizes[number].tolist()
        return width, height

    @property
    def readable(self) -> np.ndarray:
        """Numbers of the rows whose images can be decoded, usable or not."""
        return np.flatnonzero(self._sizes[:, 0])

    def sizes(self) -> np.ndarray:
        """Return the widths and heights of all decoded images with horizontal lines, int32 [n, 2]."""
        return self._sizes[self.readable]

    @cached_property
    def blank(self) -> list[int]:
        """Numbers of the rows whose images are blank."""
        return np.flatnonzero(self._notes["is_blank"].fill_null(False).to_numpy(zero_copy_only=False)).tolist()

    @cached_property
    def digests(self) -> list[bytes | None]:
        """The digest of each image's file."""
        return self._notes["digest"].to_pylist()

    def example(self, number: int, detail: str = "") -> FindingExample:
        """Return a row as an example of a finding."""
        file, row = self.row(number)
        return FindingExample(file.path, row.line, row.path, file.resolve(row), detail)

    def examples(self, numbers: Iterable[int]) -> list[FindingExample]:
        """Return the first rows as examples of a finding, with their labels."""
        first = [number for number, _ in zip(numbers, range(MAX_EXAMPLES), strict=False)]
        return [self.example(number, "".join(self.units(number))) for number in first]
