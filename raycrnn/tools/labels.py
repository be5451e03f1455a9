"""`raycrnn labels`: rewrite the labels of a CSV.

What a step does to a label is in `raycrnn.data.labels`, and what is done to the rows in `raycrnn.data.label_rewriting`.
"""

import codecs
import json
import logging
import unicodedata
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import storage
from raycrnn.cli import Command, LocalPath, Metavar
from raycrnn.config import read_json_object
from raycrnn.config.schema import Delimiter, Encoding
from raycrnn.data import csv_rewriting, labels
from raycrnn.data.alphabet import Alphabet, UnicodeForm
from raycrnn.data.csv_files import CsvFile, read_csv
from raycrnn.data.label_rewriting import Rewriting, RowWriter, Step
from raycrnn.data.labels import Label
from raycrnn.errors import RaycrnnError, UsageError

logger = logging.getLogger(__name__)

MAX_LISTED = 20
"""Rows, and replaced characters, that are listed."""


class Labels(Command):
    """Rewrite the labels of a CSV: split them into units, or change brackets, accents or delimiters.

    The steps are taken in the order in which they are listed below, from --unicode-form to --join. An abbreviation is a
    unit of several characters; plain text has it in brackets.

    Paths stay, except that relative ones are rewritten if the output is in another folder. The header, rows without a
    label and malformed rows stay as they are. The output is in UTF-8. What changes is counted and printed, with
    examples.
    """

    epilog: ClassVar[str] = (
        "To make |B|e|n|e| |quondam| of Bene [quondam], and the reverse:\n\n"
        "  raycrnn labels in.csv out.csv --split-brackets\n"
        "  raycrnn labels in.csv out.csv --add-brackets --join\n\n"
        "To make it of Bene quondam, with an alphabet that has these units:\n\n"
        "  raycrnn labels in.csv out.csv --split-by alphabet.json\n\n"
        "To convert a CSV of Excel:\n\n"
        "  raycrnn labels in.csv out.csv --delimiter , --to-delimiter ';' --encoding cp1252"
    )

    csv: CliPositionalArg[LocalPath]
    """CSV with rows `path;label`."""
    output: CliPositionalArg[Annotated[LocalPath, Metavar("OUTPUT")]]
    """CSV to write."""
    unicode_form: UnicodeForm = "NFC"
    """Unicode normalisation form of the labels, as data.unicode_form in a configuration."""
    map: Annotated[LocalPath | None, Metavar("JSON")] = None
    """JSON object that says what replaces which text, such as {"ſ": "s", "æ": "ae", "¬": ""}."""
    drop_accents: bool = False
    """Replace accented letters by the letters without accents: é by e, ñ by n. Letters such as ø, ł, ß and æ stay."""
    split_by: Annotated[str | None, Metavar("ALPHABET")] = None
    """Split each label into the units of an alphabet, by longest match. ALPHABET is a JSON file or the name of an
    alphabet that raycrnn includes. The units of a label that is split already are joined first."""
    split_brackets: bool = False
    """Split each label so that an abbreviation in brackets is one unit, and any other character another."""
    split_characters: bool = False
    """Split each label so that every character is a unit."""
    lower_abbreviations: bool = False
    """Write abbreviations in lower case."""
    add_brackets: bool = False
    """Put brackets around the abbreviations of labels that are split."""
    drop_brackets: bool = False
    """Remove the brackets around abbreviations."""
    join: bool = False
    """Join the units of each label to plain text. After --add-brackets, --split-brackets can split it again."""
    delimiter: Annotated[Delimiter, Metavar("CHAR")] = ";"
    """Character between path and label in the input; tab for a tab."""
    split_delimiter: Annotated[Delimiter, Metavar("CHAR")] = "|"
    """Character between the units of a label in the input."""
    encoding: Annotated[Encoding, Metavar("NAME")] = "utf-8"
    """Encoding of the input."""
    to_delimiter: Annotated[Delimiter | None, Metavar("CHAR")] = None
    """Character between path and label in the output. Default: that of the input."""
    to_split_delimiter: Annotated[Delimiter | None, Metavar("CHAR")] = None
    """Character between the units of a label in the output. Default: that of the input."""
    errors: Literal["fail", "keep", "drop"] = "fail"
    """What to do if labels cannot be rewritten, for example because their units are not in the alphabet. fail: write
    nothing; keep: leave these labels as they are; drop: leave these rows out. They are listed in any case."""
    dry_run: bool = False
    """Print what would change, and write nothing."""
    overwrite: bool = False
    """Replace the output if it exists. The output may be the input."""
    as_json: Annotated[bool, Field(alias="json")] = False
    """Also print the result as a JSON object, on the last line of stdout."""

    @property
    def _file(self) -> Path:
        """The output with its name on the disk."""
        return Path(storage.as_on_disk(self.output))

    def run(self) -> None:
        self._check_options()
        rewriting = Rewriting(self._steps(), self.split_delimiter, self.to_split_delimiter or self.split_delimiter)
        csv = read_csv(self.csv, self.delimiter, self.encoding)
        if not any(row.label for row in csv.rows):
            raise UsageError(f"{csv.path}: no row has a label; a row is path{self.delimiter}label (--delimiter)")
        for row in csv.rows:
            rewriting.add(row)
        _print(rewriting)
        _log_malformed(csv.path, rewriting)
        if self.split_brackets:
            _log_lost_brackets(csv.path, rewriting)
        self._log_failed(csv.path, rewriting)
        if not self.dry_run:
            self._write(csv, rewriting)
        if self.as_json:
            print(json.dumps({"output": None if self.dry_run else str(self._file), **rewriting.summary()}))

    def _check_options(self) -> None:
        splits = {"--split-by": self.split_by, "--split-brackets": self.split_brackets}
        given = [name for name, value in {**splits, "--split-characters": self.split_characters}.items() if value]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)}: use only one of them")
        if self.add_brackets and self.drop_brackets:
            raise UsageError("--add-brackets and --drop-brackets: use only one of them")
        if (self.to_delimiter or self.delimiter) == (self.to_split_delimiter or self.split_delimiter):
            raise UsageError("the delimiters of rows and of units must be different characters")
        if self._file.exists() and not self.overwrite and not self.dry_run:
            raise UsageError(f"{self._file}: already exists; use --overwrite to replace it, or name another output")

    def _steps(self) -> dict[str, Step]:
        """Return the steps of the rewriting by name, in their order."""
        form = self.unicode_form
        steps: dict[str, Step] = {f"normalised to {form}": lambda label, _: labels.normalise(label, form)}
        if self.map is not None:
            steps["characters replaced"] = partial(_map, labels.CharacterMap(_read_map(self.map, form)))
        if self.drop_accents:
            steps["accents dropped"] = partial(_map, labels.AccentMap(form))
        if self.split_by is not None:
            segmenter = labels.Segmenter(Alphabet.load(self.split_by, form).units)
            steps["split by the alphabet"] = lambda label, _: segmenter.split("".join(label))
        if self.split_brackets:
            steps["split at brackets"] = _split_at_brackets
        if self.split_characters:
            steps["split into characters"] = lambda label, _: tuple("".join(label))
        if self.lower_abbreviations:
            steps["abbreviations in lower case"] = lambda label, _: labels.lower_abbreviations(label)
        if self.add_brackets:
            steps["brackets added"] = lambda label, _: labels.add_brackets(label)
        if self.drop_brackets:
            steps["brackets dropped"] = lambda label, _: labels.drop_brackets(label)
        if self.join:
            steps["joined"] = lambda label, _: "".join(label)
        return steps

    def _log_failed(self, path: str, rewriting: Rewriting) -> None:
        """Log which labels cannot be rewritten. Raises `RaycrnnError` if there are any and --errors is fail."""
        failed = rewriting.failed
        ending = {"fail": "cannot be rewritten", "keep": "stays as it is", "drop": "is left out"}[self.errors]
        for row, problem in failed[:MAX_LISTED]:
            logger.warning(f"{path}, line {row.line}: {row.label!r} {ending}: {problem}")
        if len(failed) > MAX_LISTED:
            logger.warning(f"{path}: and {len(failed) - MAX_LISTED:,} more labels like these")
        if failed and self.errors == "fail":
            raise RaycrnnError(
                f"{path}: {len(failed):,} of {len(failed) + len(rewriting.labels):,} labels cannot be rewritten, and "
                "nothing is written: correct them, or set --errors=keep or --errors=drop"
            )

    def _write(self, csv: CsvFile, rewriting: Rewriting) -> None:
        lines, encoding = csv_rewriting.raw_lines(csv.path, self.encoding)
        prefix = csv_rewriting.folder_prefix(csv, self._file)
        writer = RowWriter(csv, prefix, self.delimiter, self.to_delimiter or self.delimiter)
        left_out = {row.line for row, _ in rewriting.failed} if self.errors == "drop" else ()
        content = "".join(writer.lines(lines, rewriting.labels, left_out)).encode()
        csv_rewriting.write_files({self._file: content})
        converted = "" if codecs.lookup(encoding).name == "utf-8" else f", converted from {encoding} to utf-8"
        logger.info(f"{self._file}: written{converted}")


def _split_at_brackets(label: Label, replacements: labels.Replacements) -> Label:
    text = labels.as_text(label)
    replacements.update(labels.lost_brackets(text))
    return labels.split_at_brackets(text)


def _map(characters: labels.CharacterMap | labels.AccentMap, label: Label, replacements: labels.Replacements) -> Label:
    return labels.map_characters(label, characters, replacements)


def _read_map(path: Path, form: UnicodeForm) -> dict[str, str]:
    """Read the JSON object of --map. Its keys and values are normalised, because labels are."""
    table = read_json_object(path)
    for old, new in table.items():
        if not old or not isinstance(new, str):
            raise UsageError(f'{path}: {old!r}: {new!r} must be text that replaces other text: {{"æ": "ae"}}')
    normalised = {unicodedata.normalize(form, old): unicodedata.normalize(form, str(new)) for old, new in table.items()}
    if len(normalised) < len(table):
        raise UsageError(f"{path}: two of its keys are equal after normalisation to {form}: keep one of them")
    return normalised


def _print(rewriting: Rewriting) -> None:
    print(f"{'step':28} {'labels':>9}")
    for name in rewriting.steps:
        print(f"{name:28} {rewriting.rows_of_step[name]:9,}")
    print(f"{'changed in all':28} {rewriting.changed:9,} of {len(rewriting.labels):,}")
    before, after = rewriting.before, rewriting.after
    print(f"\n{'units':28} {'before':>9} {'after':>9}")
    print(f"{'in all':28} {before.total():9,} {after.total():9,}")
    print(f"{'different':28} {len(before):9,} {len(after):9,}")
    if rewriting.replacements:
        print(f"\n{'replaced':28} {'times':>9} {'the new text before':>19}")
        for (old, new), count in rewriting.replacements.most_common(MAX_LISTED):
            print(f"{f'{old!r} -> {new!r}':28} {count:9,} {before[new]:19,}")
        if len(rewriting.replacements) > MAX_LISTED:
            print(f"and {len(rewriting.replacements) - MAX_LISTED:,} other replacements")
    if rewriting.examples:
        print()
    for row, text in rewriting.examples:
        print(f"line {row.line}: {_printable(row.label or '')} -> {_printable(text)}")


def _printable(text: str) -> str:
    """Return a text for a terminal, which could obey its control characters."""
    return text if text.isprintable() else repr(text)


def _log_lost_brackets(path: str, rewriting: Rewriting) -> None:
    lost = {old: count for (old, new), count in rewriting.replacements.most_common() if old == f"[{new}]"}
    if lost:
        count, example = sum(lost.values()), next(iter(lost))
        logger.warning(
            f"{path}: abbreviations of one character, such as {example}, become plain characters, {count:,} in all: "
            "give them longer names with --map to keep them apart"
        )


def _log_malformed(path: str, rewriting: Rewriting) -> None:
    for row in rewriting.malformed[:MAX_LISTED]:
        logger.warning(f"{path}, line {row.line}: malformed, stays as it is: {row.problem}")
    if len(rewriting.malformed) > MAX_LISTED:
        logger.warning(f"{path}: and {len(rewriting.malformed) - MAX_LISTED:,} more malformed rows")


if __name__ == "__main__":
    Labels.main()
