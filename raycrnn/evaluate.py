"""The verb evaluate: a model's error rates on labelled images, with intervals, and a page that shows the errors."""

import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import metrics, reading, report, samples, storage
from raycrnn.command import Command, say
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.evaluation import Comparison, Evaluation, Line, Model
from raycrnn.recognizer import Recognizer, is_override
from raycrnn.samples import CsvFile, Rejection, Row
from raycrnn.transcription import Transcription


class Evaluate(Command):
    """Score a model on labelled CSVs: CER, WER and exact matches, each with its 95 % interval.

    Scores are of the text as it is: no case folded, no space dropped. Rows whose label holds unknown units count
    like any other; only images that cannot be read are left out.
    """

    model: CliPositionalArg[str]
    """the model directory, such as output/model"""
    csvs: CliPositionalArg[list[str]] = Field(min_length=1)
    """labelled CSVs; also decoding.key=value and data.key=value, such as data.csv_delimiter=,"""
    report: str | None = None
    """directory to write: index.html (scores, confusions, the worst lines as pictures, confidence), lines.csv (what
    was read in each line, worst first), rejected.csv (what could not be read) and report.json"""
    overwrite: bool = False
    """replace the report where the directory holds one"""
    against: str | None = None
    """directory of another model, to compare with on the same rows; overrides are for both"""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else a local Ray of its own"""
    json_line: bool = Field(False, validation_alias="json")
    """print one JSON object as the last line of stdout"""

    def run(self) -> None:
        if self.report is None:
            self._print(self._evaluate())
            return
        place = storage.Directory(self.report)
        if place.uri:
            report.check_free_in_storage(place, self.overwrite, self._csvs)
        with report.directory(str(place.path), self.overwrite, self._csvs) as folder:
            found = self._evaluate()
            self._print(found)
            report.write(folder, found)
        try:
            place.push()
        except OSError as error:
            raise RaycrnnError(f"{place}: cannot be written: {storage.describe(error)}") from None
        say(f"report: {storage.join(self.report, 'index.html')}")

    @property
    def _overrides(self) -> list[str]:
        return [text for text in self.csvs if is_override(text)]

    @property
    def _csvs(self) -> list[str]:
        return [text for text in self.csvs if text not in self._overrides]

    @property
    def _models(self) -> list[str]:
        return [self.model] if self.against is None else [self.model, self.against]

    def _evaluate(self) -> Evaluation | Comparison:
        spans = self.report is not None
        found = evaluate_all(self._models, self._csvs, self._overrides, self.address, spans)
        return found[0] if self.against is None else Comparison(*found)

    def _print(self, found: Evaluation | Comparison) -> None:
        print(found.table())
        if self.json_line:
            print(json.dumps(found.as_json()))


def evaluate(model: str, csvs: Sequence[str], overrides: Sequence[str] = (), address: str | None = None) -> Evaluation:
    """Transcribe the images of CSVs and score them; for the errors see `evaluate_all`."""
    return evaluate_all([model], csvs, overrides, address)[0]


def evaluate_all(
    models: Sequence[str],
    csvs: Sequence[str],
    overrides: Sequence[str] = (),
    address: str | None = None,
    spans: bool = False,
) -> list[Evaluation]:
    """Transcribe the images of CSVs by each of several models and score them.

    A row that cannot be read for one of them is left out of all. The CSVs are read as the first model's settings say;
    each model's references are normalised as its own do.

    Args:
        spans: whether to keep where in the images the units stand.

    Raises:
        UsageError: no model, no CSV, a CSV without rows or labels.
        RaycrnnError: more than `data.max_rejected` of the images cannot be read.
    """
    from raycrnn import cluster, dataset

    # First, so that a model that is replaced from here on is noticed.
    digests = list(map(reading.digests, models))
    recognizers = [Recognizer.load(model, "cpu", overrides) for model in models]
    settings, images = recognizers[0].configuration.data, [each.configuration.image for each in recognizers]
    if not csvs:
        raise UsageError("evaluate needs a labelled CSV")
    pairs = [(file, row) for file in dataset.read_labels(csvs, settings) for row in file.rows]
    with cluster.connect(address):
        readings = [
            list(_read(recognizer, pairs, reading.Job(model, image, tuple(overrides), spans, digests=own)))
            for model, recognizer, image, own in zip(models, recognizers, images, digests, strict=True)
        ]
    unread = [next((each for each in row if isinstance(each, Rejection)), None) for row in zip(*readings, strict=True)]
    rejections = tuple(filter(None, unread))
    dataset.check_rejections("evaluation", rejections, len(pairs), settings)
    if rejections:
        print(dataset.rejection_table(rejections), file=sys.stderr)
    kept = [[line for line, gone in zip(lines, unread, strict=True) if not gone] for lines in readings]
    if not any(line.reference for line in kept[0]):
        raise RaycrnnError(f"{', '.join(csvs)}: all labels are empty: there is nothing to score against")
    return [
        Evaluation(_describe(model, recognizer), tuple(lines), rejections)
        for model, recognizer, lines in zip(models, recognizers, kept, strict=True)
    ]


def _describe(name: str, recognizer: Recognizer) -> Model:
    configuration, calibration = recognizer.configuration, recognizer.calibration
    decoding, (height, width) = configuration.decoding, configuration.image.input_shape
    weights = sum(parameter.numel() for parameter in recognizer.network.parameters())
    colour = "colour" if configuration.image.input_channels == 3 else "grey"
    fitted = f"fitted on {calibration.samples:,} samples" if calibration.samples else "not calibrated"
    facts = {
        "network": f"{configuration.model.size}, {weights:,} weights",
        "alphabet": f"{len(recognizer.alphabet):,} units",
        "images": f"{height} pixels high, at most {width:,} wide, {colour}",
        "decoding": f"beam of {decoding.beam_width}" if decoding.method == "beam" else decoding.method,
        "temperature of confidences": f"{calibration.temperature:.3g}, {fitted}",
    }
    shown = {
        key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in recognizer.metrics.items()
    }
    scores = {f"{key} when it was trained": value for key, value in shown.items()}
    shape = configuration.image.input_shape
    return Model(name, recognizer.alphabet, shape, calibration.temperature, calibration.samples, {**facts, **scores})


def _read(recognizer: Recognizer, pairs: Sequence[tuple[CsvFile, Row]], job: reading.Job) -> Iterator[Line | Rejection]:
    """Of each row what was read, or why it could not be."""
    results = reading.transcribe(job, [file.resolve(row.path) for file, row in pairs if not row.problem])
    for file, row in pairs:
        if row.problem:
            yield Rejection(file.path, row.line, row.path, "malformed row", row.problem)
            continue
        result = next(results)
        if result.rejected:
            yield Rejection(file.path, row.line, row.path, result.rejected.reason, result.rejected.detail)
        else:
            yield _line(file, row, result.transcription, recognizer)


def _line(file: CsvFile, row: Row, found: Transcription, recognizer: Recognizer) -> Line:
    settings = recognizer.configuration.data
    reference = samples.split_label(row.label or "", settings.string_split_delimiter, settings.unicode_form)
    units = tuple(recognizer.alphabet.decode(found.codes))
    spans = None
    if found.units is not None:
        spans = np.array([(unit.left, unit.right) for unit in found.units], np.int32).reshape(-1, 2)
    return Line(
        csv=file.path,
        number=row.line,
        path=row.path,
        place=file.resolve(row.path),
        reference=reference,
        units=units,
        confidence=found.confidence,
        counts=metrics.score(reference, units),
        spans=spans,
    )


if __name__ == "__main__":
    Evaluate.main()
