"""`raycrnn lm`: build and show language models, which are n-gram models of units in ARPA files."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AliasChoices, Field
from pydantic_settings import CliPositionalArg

from raycrnn import cli, config, storage
from raycrnn.cli import Command, LocalPath, Metavar
from raycrnn.data.alphabet import read_codes
from raycrnn.data.labels import Segmenter
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language import texts
from raycrnn.language.order import DEFAULT_ORDER, MAX_ORDER
from raycrnn.tools.inputs import check_output, paths_and_settings

if TYPE_CHECKING:
    from raycrnn.language.ngram_model import NgramModel

logger = logging.getLogger(__name__)

MAX_LISTED = 40
"""Units that a line lists."""

AsJson = Annotated[bool, Field(alias="json")]


class BuildLanguageModel(Command):
    """Estimate a language model from texts, with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999).

    The model predicts the units of a line, usually characters, one by one from those before them. The lines should look
    like those of the images: the same spelling and punctuation, and line breaks where the images end. The setting
    `decoding.language_model` names the file in predict, evaluate, serve, train and tune.
    """

    epilog: ClassVar[str] = (
        "Examples:\n\n"
        "  raycrnn lm build corpus.txt train.csv -o model.arpa\n"
        "  raycrnn predict output/model images/ decoding.language_model=model.arpa\n\n"
        "Texts that run from right to left are turned into the order in which a network reads them, as its labels are; "
        "data.text_direction must be that of the network."
    )

    inputs: CliPositionalArg[Annotated[list[str], Metavar("INPUT")]] = Field(min_length=1)
    """Text files, whose lines are read like labels; CSVs (.csv or .tsv), packed data sets and recipes, of which the
    labels count; and settings of how they are read as KEY=VALUE, such as data.csv_delimiter=tab. Paths or URIs."""
    output: Annotated[LocalPath, Metavar("FILE")] = Field(validation_alias=AliasChoices("o", "output"))
    """ARPA file to write; compressed if the name ends in .gz."""
    order: Annotated[int, Field(ge=1, le=MAX_ORDER)] = DEFAULT_ORDER
    """Number of units in the longest n-grams."""
    split_by: Annotated[str | None, Metavar("ALPHABET")] = None
    """Split lines that are plain text into the units of an alphabet, by longest match: a JSON file, or the name of an
    alphabet that raycrnn includes. Lines with other characters are left out. By default each character is a unit."""
    overwrite: bool = False
    """Replace the output if it exists."""
    as_json: AsJson = False
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        start = time.monotonic()
        # Here, because `--help` needs no NumPy.
        from raycrnn.language import arpa, kneser_ney

        output = check_output(self.output, self.overwrite, [*self.inputs, self.split_by or ""])
        lines, settings = _read(self.inputs)
        if self.split_by:
            lines = _split_by(lines, self.split_by, settings)
        direction = texts.resolve_direction(lines, settings)
        model = kneser_ney.estimate(texts.in_display_order(lines, direction), self.order)
        try:
            storage.write_bytes(output, arpa.to_bytes(model, compressed=output.suffix.lower() == ".gz"))
        except OSError as error:
            raise RaycrnnError(f"{output}: cannot be written: {error.strerror}") from None
        units, seconds = sum(map(len, lines)), time.monotonic() - start
        print(
            f"{output}: {_n_grams(model):,} n-grams up to order {model.order}, from {len(lines):,} lines with "
            f"{units:,} units ({len(model.units) - 3:,} different), {direction}, in {seconds:.1f} s"
        )
        if self.as_json:
            summary = {"output": str(output), "lines": len(lines), "units": units, "direction": direction}
            print(json.dumps(summary | _facts(model)))


class ShowLanguageModel(Command):
    """Show the order of a language model and its number of n-grams, and with texts how well it predicts them.

    The perplexity of a text is the inverse of the geometric mean probability of its units and line ends. Lower is
    better: with a perplexity of 6, the model is as uncertain as if it chose between six equally likely units.
    """

    epilog: ClassVar[str] = "Example: raycrnn lm show model.arpa eval.csv"

    model: CliPositionalArg[Annotated[str, Metavar("MODEL")]]
    """ARPA file, or language_model.safetensors of a model directory: a path or URI."""
    inputs: CliPositionalArg[Annotated[list[str], Metavar("INPUT")]] = Field(default_factory=list)
    """Text files and CSVs, and settings of how they are read, as for `build`."""
    as_json: AsJson = False
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        from raycrnn.language import model_files

        model = model_files.read(self.model)
        result = _facts(model)
        print(f"{self.model}: order {model.order}, {len(model.units) - 3:,} units")
        for order, count in enumerate(result["n_grams"], 1):
            print(f"{order}-grams {count:12,}")
        if self.inputs:
            lines, settings = _read(self.inputs)
            lines = texts.in_display_order(lines, texts.resolve_direction(lines, settings))
            unknown = {unit for line in lines for unit in line}.difference(model.units)
            result |= {"perplexity": model.perplexity(lines), "unknown": sorted(unknown)}
            print(f"perplexity {result['perplexity']:.2f} on {len(lines):,} lines")
            if unknown:
                shown = ", ".join(map(repr, sorted(unknown)[:MAX_LISTED]))
                print(f"units of the texts that the model lacks ({len(unknown):,}): {shown}")
        if self.as_json:
            print(json.dumps(result, ensure_ascii=False))


COMMANDS: Mapping[str, tuple[type[Command], str]] = {
    "build": (BuildLanguageModel, "Estimate a language model from text files and CSVs."),
    "show": (ShowLanguageModel, "Show the size of a language model, and its perplexity on texts."),
}
"""The class and one line of help of each command."""


class LanguageModelTool(Command):
    """Build and show language models."""

    @classmethod
    def _parse(cls, arguments: Sequence[str], name: str) -> Command:
        return cli.parse_command(COMMANDS, arguments, name)


def _read(inputs: Sequence[str]) -> tuple[list[texts.Line], config.Data]:
    paths, settings = paths_and_settings(inputs)
    if not paths:
        raise UsageError("name a text file or a CSV")
    return [line for path in paths for line in texts.read_lines(path, settings)], settings


def _split_by(lines: Sequence[texts.Line], alphabet: str, settings: config.Data) -> list[texts.Line]:
    """Split lines that have a unit for each character into the units of an alphabet."""
    segmenter = Segmenter(read_codes(alphabet, settings.unicode_form))
    split, problems = [], []
    for line in lines:
        try:
            split.append(segmenter.split("".join(line)))
        except ValueError as error:
            problems.append(f"{''.join(line)!r}: {error}")
    if problems:
        logger.warning(f"{len(problems):,} of {len(lines):,} lines are left out, the first of them {problems[0]}")
    return split


def _n_grams(model: "NgramModel") -> int:
    return len(model.key_S) - 1


def _facts(model: "NgramModel") -> dict:
    return {"order": model.order, "n_grams": [end - first for first, end in model.levels]}


if __name__ == "__main__":
    LanguageModelTool.main(name="lm")
