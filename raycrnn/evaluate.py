"""The verb evaluate: a model's error rates on labelled images, with intervals, and a page that shows the errors."""

import json
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import storage
from raycrnn.cli import Command, Metavar
from raycrnn.config import is_override
from raycrnn.errors import RaycrnnError, UsageError

if TYPE_CHECKING:
    from raycrnn.evaluation.analysis import Comparison, Evaluation

# Not __name__, which is "__main__" under python -m.
logger = logging.getLogger("raycrnn.evaluate")


class Evaluate(Command):
    """Score a model on labelled CSVs: CER, WER and exact matches, each with its 95 % interval.

    Texts are compared as they are, including case and spaces. Rows with units that the model does not know count like
    any other; only images that cannot be read are left out.
    """

    model: CliPositionalArg[str]
    """Model directory, such as output/model, or latin or latin48, models for Latin script that come with raycrnn. If
    several follow each other, or if it holds several, they vote."""
    csvs: CliPositionalArg[Annotated[list[str], Metavar("CSV")]] = Field(min_length=1)
    """Labelled CSVs, and settings of decoding and data as KEY=VALUE, such as data.encoding=cp1252."""
    report: Annotated[str | None, Metavar("DIR")] = None
    """Directory for a report: index.html (scores, confusions, images of the worst lines, confidence), lines.csv (the
    transcription of each line, worst first), rejected.csv (images that cannot be read) and report.json."""
    overwrite: bool = False
    """Replace an existing report."""
    against: Annotated[str | None, Metavar("MODEL")] = None
    """Model directory, latin or latin48, to compare with on the same rows and with the same settings."""
    address: Annotated[str | None, Metavar("ADDRESS")] = None
    """Ray cluster to run on. Default: the environment variable RAY_ADDRESS, else this process for few images and a
    local Ray for many."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        # Here and below, because `--help` needs none of them.
        from raycrnn.evaluation import report_files
        from raycrnn.evaluation.report import write

        if self.report is None:
            if self.overwrite:
                raise UsageError("--overwrite replaces a report: name its directory with --report")
            self._print(self._evaluate())
            return
        place = storage.Directory(self.report)
        if place.uri:
            report_files.check_free_in_storage(place, self.overwrite, self._csvs)
        with report_files.directory(str(place.path), self.overwrite, self._csvs) as folder:
            result = self._evaluate()
            self._print(result)
            write(folder, result)
        try:
            place.sync()
        except OSError as error:
            raise RaycrnnError(f"{place}: cannot be written: {storage.describe(error)}") from None
        logger.info(f"report: {storage.join(self.report, 'index.html')}")

    @property
    def _overrides(self) -> list[str]:
        return [text for text in self.csvs if is_override(text)]

    @property
    def _csvs(self) -> list[str]:
        return self._divided[1]

    @property
    def _models(self) -> "list[str | list[str]]":
        from raycrnn.model.model_files import as_argument

        voting, _ = self._divided
        model = voting[0] if len(voting) == 1 else voting
        return [model] if self.against is None else [model, as_argument(self.against)]

    @cached_property
    def _divided(self) -> tuple[list[str], list[str]]:
        """The models that vote, and the CSVs."""
        from raycrnn.model.model_files import leading_models

        return leading_models(self.model, [text for text in self.csvs if text not in self._overrides])

    def _evaluate(self) -> "Evaluation | Comparison":
        from raycrnn.evaluation.analysis import Comparison
        from raycrnn.evaluation.run import evaluate_all

        spans = self.report is not None
        result = evaluate_all(self._models, self._csvs, self._overrides, self.address, spans)
        return result[0] if self.against is None else Comparison(*result)

    def _print(self, result: "Evaluation | Comparison") -> None:
        print(result.table())
        if self.json_line:
            print(json.dumps(result.as_json()))


def evaluate(
    model: str, csvs: Sequence[str], overrides: Sequence[str] = (), address: str | None = None
) -> "Evaluation":
    """Transcribe the images of CSVs and score them. Raises the errors of `evaluate_all`."""
    from raycrnn.evaluation.run import evaluate_all

    return evaluate_all([model], csvs, overrides, address)[0]


if __name__ == "__main__":
    Evaluate.main()
