"""The verb convert: import images and labels of other tools."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import CliPositionalArg

from raycrnn import storage
from raycrnn.cli import Command, Metavar
from raycrnn.config.schema import Delimiter, Encoding
from raycrnn.errors import UsageError
from raycrnn.tools.convert import formats
from raycrnn.tools.convert.records import SPLIT_DELIMITER, ImportOptions

if TYPE_CHECKING:
    import argparse

    from raycrnn.tools.convert.conversion import ConversionResult


def _local_path(value: str) -> Path:
    # Path would make s3:/ of s3://.
    if storage.is_uri(value):
        raise ValueError("must be a local path: copy files from other storage to a disk first")
    return Path(value)


LocalPath = Annotated[Path, BeforeValidator(_local_path)]


# Not __name__, which is "__main__" under python -m.
logger = logging.getLogger("raycrnn.tools.convert")


class Convert(Command):
    """Import images of text lines and their labels from the formats of other tools.

    Writes a new folder: OUTPUT/labels.csv, which lists the images for the other commands, or OUTPUT/00000.parquet and
    so on, which hold images and labels. Images that are files on a disk are referred to by the CSV and not copied; the
    images of archives and the lines of pages are written to OUTPUT/images. No image is changed unless a line is cut
    out of a page, and no label at all.

    What cannot be converted is listed with its reason in OUTPUT/left_out.csv.
    """

    epilog: ClassVar[str] = (
        "Formats:\n\n"
        + "\n".join(f"  {name:<13}{line}" for name, (_, line) in formats.FORMATS.items())
        + "\n\nExamples:\n\n"
        + "  raycrnn convert train.lmdb imported\n"
        + "  raycrnn convert pages/*.xml lines --images scans\n"
        + "  raycrnn convert train.csv packed --to parquet"
    )

    inputs: CliPositionalArg[Annotated[list[LocalPath], Metavar("INPUT")]] = Field(min_length=1)
    """Files of one format, or folders with such files."""
    output: CliPositionalArg[Annotated[LocalPath, Metavar("OUTPUT")]]
    """New or empty folder to write to."""
    to: Literal["csv", "parquet"] = "csv"
    """What to write."""
    source_format: Annotated[str | None, Field(alias="from"), Metavar("FORMAT")] = None
    """Format of the inputs, one of those below. Default: recognised by the names and contents of the files."""
    images: Annotated[LocalPath | None, Metavar("DIR")] = None
    """Folder of the images, if they are not where the format expects them."""
    dictionary: Annotated[LocalPath | None, Metavar("FILE")] = None
    """Dictionary of PaddleOCR or symbols of PyLaia, from which OUTPUT/alphabet.json is made."""
    line_height: Annotated[int | None, Field(ge=1)] = None
    """Height in pixels of lines of a page that have a baseline and no outline. Default: the typical distance of the
    baselines of the page."""
    image_column: str | None = None
    """Column of a Parquet file with the images. Default: image, im or another usual name."""
    label_column: str | None = None
    """Column of a Parquet file with the labels. Default: text, label or another usual name."""
    delimiter: Annotated[Delimiter, Metavar("CHAR")] = ";"
    """Character between path and label in raycrnn's CSV; tab for a tab."""
    encoding: Annotated[Encoding, Metavar("NAME")] = "utf-8"
    """Encoding of raycrnn's CSV."""
    copy_images: Annotated[bool, Field(alias="copy")] = False
    """Copy images that are files to OUTPUT/images, too. Parquet files always hold all images."""
    shard_size: Annotated[int, Field(ge=1)] = 128
    """Size of a Parquet file in MiB."""
    overwrite: bool = False
    """Replace an OUTPUT of this command, which it recognises by the file convert.json in it."""
    as_json: Annotated[bool, Field(alias="json")] = False
    """Also print the result as a JSON object, on the last line of stdout."""

    @field_validator("source_format")
    @classmethod
    def _known_format(cls, name: str | None) -> str | None:
        if name is not None and name not in formats.FORMATS:
            raise ValueError(f"must be one of {', '.join(formats.FORMATS)}")
        return name

    @field_validator("delimiter")
    @classmethod
    def _delimits_no_units(cls, delimiter: str) -> str:
        if delimiter == SPLIT_DELIMITER:
            raise ValueError(f"must not be {SPLIT_DELIMITER}, which separates the units of a label")
        return delimiter

    @classmethod
    def _parser(cls, name: str) -> "argparse.ArgumentParser":
        parser = super()._parser(name)
        # pydantic-settings puts the arguments that may be repeated last.
        for actions in (parser._actions, parser._positionals._group_actions):
            actions.sort(key=lambda action: action.dest == "output")
        return parser

    def run(self) -> None:
        # Here, because `--help` does not need it.
        from raycrnn.tools.convert import conversion

        sources = [path for path in (*self.inputs, self.images, self.dictionary) if path]
        for path in sources:
            if not path.exists():
                raise UsageError(f"{path}: no such file or folder")
        conversion.check_output(self.output, sources, self.overwrite)
        name = self.source_format or formats.recognise(self.inputs, self.output)
        logger.info(f"format {name}: {formats.FORMATS[name][1].partition('; ')[0]}")
        columns = (self.image_column, self.label_column)
        options = ImportOptions(self.images, None, self.line_height, *columns, self.delimiter, self.encoding)
        shard_bytes = self.shard_size * 2**20
        job = conversion.ConversionJob(
            self.inputs, name, options, self.dictionary, self.output, self.to, self.copy_images, shard_bytes
        )
        self._print(name, conversion.convert(job))

    def _print(self, name: str, result: "ConversionResult") -> None:
        left_out = sum(result.left_out.values())
        print(f"{'format':12} {'lines':>9} {'left out':>9} {'units':>7}  output")
        print(f"{name:12} {result.lines:9} {left_out:9} {len(result.units):7}  {self._written()}")
        if self.as_json:
            values = {
                "format": name,
                "lines": result.lines,
                "left_out": result.left_out,
                "units": len(result.units),
                "output": str(self._written()),
            }
            print(json.dumps(values, ensure_ascii=False))

    def _written(self) -> Path:
        return self.output if self.to == "parquet" else self.output / "labels.csv"


if __name__ == "__main__":
    Convert.main()
