"""The verb evaluate: a model's error rates on labelled images, with intervals."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import metrics, samples
from raycrnn.command import Command
from raycrnn.config import Data
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.metrics import Counts, Interval
from raycrnn.recognizer import Recognizer, is_override


class Evaluate(Command):
    """Score a model on labelled CSVs: CER, WER and exact matches, each with its 95 % bootstrap interval.

    Scores are of the text as it is: no case folded, no space dropped. Rows whose label holds unknown units count
    like any other; only images that cannot be read are left out.
    """

    model: CliPositionalArg[str]
    """the model directory, such as output/model"""
    csvs: CliPositionalArg[list[str]] = Field(min_length=1)
    """labelled CSVs; also decoding.key=value and data.key=value, such as data.csv_delimiter=,"""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else a local Ray of its own"""
    json_line: bool = Field(False, validation_alias="json")
    """print one JSON object as the last line of stdout"""

    def run(self) -> None:
        overrides = [text for text in self.csvs if is_override(text)]
        report = evaluate(self.model, [path for path in self.csvs if path not in overrides], overrides, self.address)
        print(report.table())
        if self.json_line:
            print(json.dumps(report.as_json()))


@dataclass(frozen=True)
class Report:
    """Scores of a model on a set."""

    counts: Counts
    intervals: dict[str, Interval]
    unknown: int
    """samples whose label holds a unit that the alphabet lacks"""
    empty: int
    """samples without a label, or with an empty one"""
    unreadable: int

    def table(self) -> str:
        names = {"cer": "CER", "wer": "WER", "accuracy": "exact"}
        lines = [f"{'':<7}{'':>9}   95 % interval"]
        for key, name in names.items():
            interval = self.intervals[key]
            bounds = f"{100 * interval.low:.2f} – {100 * interval.high:.2f} %"
            lines.append(f"{name:<7}{100 * getattr(self.counts, key):>7.2f} %   {bounds}")
        lines.append(f"{self.counts.samples:,} samples, {self.counts.units:,} units, {self.counts.words:,} words")
        if self.unknown:
            lines.append(f"{self.unknown:,} samples have units that the model's alphabet lacks; they count as errors")
        if self.empty:
            lines.append(f"{self.empty:,} samples have no label; whatever is read in them counts as errors")
        if self.unreadable:
            lines.append(f"{self.unreadable:,} samples could not be read and are left out")
        return "\n".join(lines)

    def as_json(self) -> dict:
        scores = {key: getattr(self.counts, key) for key in ("cer", "wer", "accuracy")}
        intervals = {key: [interval.low, interval.high] for key, interval in self.intervals.items()}
        counts = {"unknown": self.unknown, "empty": self.empty, "unreadable": self.unreadable, **asdict(self.counts)}
        return {**scores, "intervals": intervals, **counts}


def evaluate(model: str, csvs: Sequence[str], overrides: Sequence[str] = (), address: str | None = None) -> Report:
    """Transcribe the images of CSVs and score them.

    Raises:
        UsageError: no model, no CSV, a CSV without rows or labels.
        RaycrnnError: more than `data.max_rejected` of the images cannot be read.
    """
    from raycrnn import cluster, dataset

    recognizer = Recognizer.load(model, "cpu", overrides)
    settings = recognizer.configuration.data
    if not csvs:
        raise UsageError("evaluate needs a labelled CSV")
    pairs = [(file, row) for file in dataset.read_labels(csvs, settings) for row in file.rows]
    usable = [(file, row) for file, row in pairs if not row.problem]
    rejections = [
        samples.Rejection(file.path, row.line, row.path, "malformed row", row.problem)
        for file, row in pairs
        if row.problem
    ]
    with cluster.connect(address):
        from raycrnn.predict import transcribe

        paths = [file.resolve(row.path) for file, row in usable]
        results = list(transcribe(model, recognizer.configuration.image, paths, overrides))
    scores, unknown, empty = [], 0, 0
    for (file, row), result in zip(usable, results, strict=True):
        if result.rejected:
            why = (result.rejected.reason, result.rejected.detail)
            rejections.append(samples.Rejection(file.path, row.line, row.path, *why))
            continue
        reference = _reference(row, settings)
        unknown += any(unit not in recognizer.alphabet for unit in reference)
        empty += not reference
        scores.append(metrics.score(reference, recognizer.alphabet.decode(result.transcription.codes)))
    dataset.check_rejections("evaluation", rejections, len(pairs), settings)
    if rejections:
        print(dataset.rejection_table(rejections), file=sys.stderr)
    if empty == len(scores):
        raise RaycrnnError(f"{', '.join(csvs)}: all labels are empty: there is nothing to score against")
    return Report(sum(scores, Counts()), metrics.bootstrap(scores), unknown, empty, len(rejections))


def _reference(row: samples.Row, settings: Data) -> tuple[str, ...]:
    return samples.split_label(row.label or "", settings.string_split_delimiter, settings.unicode_form)


if __name__ == "__main__":
    Evaluate.main()
