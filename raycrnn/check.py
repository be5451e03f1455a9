"""The verb check: what is wrong with data sets, before a training spends hours on them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AliasChoices, Field
from pydantic_settings import CliPositionalArg

from raycrnn import config, storage
from raycrnn.cli import Command, Metavar
from raycrnn.config import Configuration, is_override
from raycrnn.errors import RaycrnnError, UsageError

# Not __name__, which is "__main__" under python -m.
logger = logging.getLogger("raycrnn.check")


class Check(Command):
    """Check the data of a configuration, or labelled CSVs, before training.

    Reads every image once, and prints which rows would be left out and why, units that may be slips, labels that are
    too long for their images, sizes, pages, blank images, copies, and images with several labels. Exit code 3 means
    that rows would be left out.
    """

    epilog: ClassVar[str] = "Example: raycrnn check labels_train.csv --eval labels_eval.csv --report check.html"

    inputs: CliPositionalArg[Annotated[list[str], Metavar("INPUT")]] = Field(min_length=1)
    """A configuration (.json), or CSVs with training rows; and settings as KEY=VALUE, such as data.encoding=cp1252."""
    eval_csvs: Annotated[list[str], Metavar("CSV")] = Field([], validation_alias=AliasChoices("eval"))
    """CSV with evaluation rows; may be repeated. Default: those of the configuration."""
    left_out: Annotated[str | None, Metavar("FILE")] = None
    """CSV to write, with all rows that would be left out: file, line, path, reason and detail."""
    report: Annotated[str | None, Metavar("FILE")] = None
    """HTML page to write, with sample images of each finding."""
    augmentations: Annotated[str | None, Metavar("FILE")] = None
    """PNG image to write, with some images as training sees them: unchanged, and with the augmentation of three
    epochs."""
    overwrite: bool = False
    """Replace existing files."""
    address: Annotated[str | None, Metavar("ADDRESS")] = None
    """Ray cluster to run on. Default: the environment variable RAY_ADDRESS, else this process for few images and a
    local Ray for many."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> int:
        configuration = self._configuration()
        files = [name for name in (self.left_out, self.report, self.augmentations) if name is not None]
        for name in files:
            self._check_free(name, configuration)
        if len(set(files)) < len(files):
            raise UsageError("--left-out, --report and --augmentations must be different files")
        # Here, because `--help` needs none of them.
        from raycrnn.checking import contact_sheet, printing, report
        from raycrnn.checking.run import check
        from raycrnn.data.rejections import write_rejected

        result, sets = check(configuration, self.address)
        print(printing.to_text(result))
        if self.left_out:
            self._write(self.left_out, lambda path: write_rejected(path, result.rejections))
        if self.report:
            page = report.render(result, configuration.data.line_orientation)
            self._write(self.report, lambda path: path.write_text(page, encoding="utf-8", errors="backslashreplace"))
        if self.augmentations:
            sheet = contact_sheet.draw(sets[0])
            self._write(self.augmentations, lambda path: sheet.save(path, "PNG"))
        if self.json_line:
            print(json.dumps(result.as_json()))
        return 3 if result.costs_samples else 0

    def _configuration(self) -> Configuration:
        overrides = [text for text in self.inputs if is_override(text)]
        names = [text for text in self.inputs if text not in overrides]
        if not names:
            raise UsageError("check needs a configuration or a labelled CSV: name at least one")
        evaluation = [f"data.csv_files_eval={json.dumps(self.eval_csvs)}"] if self.eval_csvs else []
        if not any(name.lower().endswith(".json") for name in names):
            tree = {"data": {"csv_files_train": names}}
            return config.parse(tree, [*overrides, *evaluation], "the settings")
        if len(names) > 1:
            raise UsageError(f"{', '.join(names)}: name one configuration, or CSVs without a configuration")
        return config.load(names[0], [*overrides, *evaluation])

    def _check_free(self, name: str, configuration: Configuration) -> None:
        """Raise `UsageError` unless a file can be written under this name."""
        from raycrnn.data.inputs import is_one_of

        if storage.is_uri(name):
            raise UsageError(f"{name}: must be a local file")
        data = configuration.data
        if is_one_of(name, [*self.inputs, *data.train_csvs, *data.csv_files_eval]):
            raise UsageError(f"{name}: is one of the inputs; name another file")
        if storage.check_output_file(name) and not self.overwrite:
            raise UsageError(f"{name}: already exists; --overwrite replaces it")

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file in one step, and log its name."""
        try:
            with storage.replacing_file(Path(name)) as temporary:
                write(temporary)
        except OSError as error:
            raise RaycrnnError(f"{name}: cannot be written: {storage.describe(error)}") from None
        logger.info(f"wrote {name}")


if __name__ == "__main__":
    Check.main()
