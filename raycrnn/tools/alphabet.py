"""`raycrnn alphabet`: build, show, merge and compare alphabets, which are JSON objects {unit: code}."""

import json
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AliasChoices, Field
from pydantic_settings import CliPositionalArg

from raycrnn import cli, config, storage
from raycrnn.cli import Command, LocalPath, Metavar
from raycrnn.data import alphabet_building, csv_warnings
from raycrnn.data.alphabet import UnicodeForm, read_codes
from raycrnn.data.alphabet_building import UnitCounts, join_listed
from raycrnn.data.csv_files import read_csv
from raycrnn.data.lookalikes import look_alikes
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model.model_names import directory_of
from raycrnn.tools.inputs import check_output, paths_and_settings

logger = logging.getLogger(__name__)

MAX_LISTED = 40
"""Units that a line lists."""

Output = Annotated[LocalPath, Metavar("FILE")]
AsJson = Annotated[bool, Field(alias="json")]


class BuildAlphabet(Command):
    """Build an alphabet from the labels of CSVs, from files with a unit in each line, and from another alphabet.

    The units of --from keep their codes. New units get the next codes: first those of --units in their order, then
    those of --characters, then those of the labels, sorted by code point. Without options, the alphabet is the one
    that training builds from the same CSVs if all of their rows can be used. Rows that training leaves out add no
    units: the header, malformed rows and empty labels. The images are not read.
    """

    epilog: ClassVar[str] = (
        "Examples:\n\n"
        "  raycrnn alphabet build train.csv eval.csv -o alphabet.json\n"
        "  raycrnn alphabet build new.csv --from output/model -o alphabet.json\n"
        "  raycrnn alphabet build --units abbreviations.txt --characters 'abc ' -o alphabet.json"
    )

    inputs: CliPositionalArg[Annotated[list[str], Metavar("INPUT")]] = Field(default_factory=list)
    """CSVs with labels, and settings of how they are read as KEY=VALUE, such as data.csv_delimiter=tab or
    data.unicode_form=NFKC."""
    output: Output = Field(validation_alias=AliasChoices("o", "output"))
    """JSON file to write, for data.lookup_alphabet_file."""
    start: Annotated[str | None, Metavar("ALPHABET"), Field(alias="from")] = None
    """Alphabet whose units keep their codes: a JSON file, a model directory, latin, or an alphabet that raycrnn
    includes."""
    units: Annotated[list[str], Metavar("FILE")] = Field(default_factory=list)
    """Text file with a unit in each line. Empty lines are ignored; a line with a space is a space. May be repeated."""
    characters: str = ""
    """Characters, each of which is a unit."""
    min_count: Annotated[int, Field(ge=1)] = 1
    """Leave out units that occur less often in the labels, and are in no other source. They are listed."""
    overwrite: bool = False
    """Replace the output if it exists."""
    as_json: AsJson = False
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        output = check_output(self.output, self.overwrite, [*self.inputs, *self.units])
        csvs, settings = _csvs_and_settings(self.inputs)
        form = settings.unicode_form
        old = _load(self.start, form) if self.start else {}
        listed = [unit for path in self.units for unit in _read_units(path, settings)]
        listed += unicodedata.normalize(form, self.characters)
        counts = _count(csvs, settings)
        frequent = sorted(unit for unit, count in counts.units.items() if count >= self.min_count)
        codes = alphabet_building.extend(old, [*listed, *frequent])
        rare = {unit: count for unit, count in counts.units.most_common() if unit not in codes}
        if not codes:
            raise UsageError("no units: name CSVs with labels, --units, --characters or --from")
        _write(output, codes)
        kept = f", {len(old):,} of them with their codes in {self.start}" if self.start else ""
        print(f"{output}: {len(codes):,} units from {counts.labels:,} labels{kept}")
        if rare:
            shown = join_listed([f"{unit!r} {count}" for unit, count in rare.items()], MAX_LISTED)
            print(f"left out, with fewer than {self.min_count} occurrences: {shown}")
            affected = min(sum(counts.rows[unit] for unit in rare), counts.labels)
            print(f"training leaves out the rows with these units, at most {affected:,}")
        if self.as_json:
            summary = {"output": str(output), "units": len(codes), "new": len(codes) - len(old)}
            print(json.dumps({**summary, "labels": counts.labels, "rare": rare, "left_out": counts.left_out}))


class ShowAlphabet(Command):
    """Show the units of an alphabet: code, code points, name, what a person may not notice, and units that look alike.

    With CSVs, it also counts how often each unit occurs in their labels, and lists the units that the alphabet lacks.
    """

    epilog: ClassVar[str] = "Example: raycrnn alphabet show output/model data/eval.csv"

    alphabet: CliPositionalArg[Annotated[str, Metavar("ALPHABET")]]
    """JSON file, model directory, latin, or an alphabet that raycrnn includes."""
    inputs: CliPositionalArg[Annotated[list[str], Metavar("INPUT")]] = Field(default_factory=list)
    """CSVs with labels, and settings of how they are read as KEY=VALUE, such as data.csv_delimiter=tab."""
    as_json: AsJson = False
    """Also print the table as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        csvs, settings = _csvs_and_settings(self.inputs)
        codes = _load(self.alphabet, settings.unicode_form)
        counts = _count(csvs, settings) if csvs else None
        title = f"{'code':>6} {'count':>9} " if counts else f"{'code':>6} "
        print(f"{title} {'unit':8} {'code points':15} {'category':8} name; notes")
        rows = []
        for unit in alphabet_building.in_code_order(codes):
            row: dict[str, object] = {"unit": unit, "code": codes[unit]}
            if counts:
                row["count"] = counts.units[unit]
            rows.append(row | _facts(unit))
            count = f"{counts.units[unit]:9,} " if counts else ""
            print(f"{codes[unit]:6} {count} {_line(unit)}")
        unknown = {unit: count for unit, count in counts.units.most_common() if unit not in codes} if counts else {}
        if unknown:
            shown = join_listed([f"{unit!r} {count:,}" for unit, count in unknown.items()], MAX_LISTED)
            print(f"not in the alphabet, but in the labels: {shown}")
        alike = look_alikes(codes)
        for one, other, why in alike:
            print(f"look alike: {one!r} and {other!r}, {why}")
        if self.as_json:
            print(json.dumps({"units": rows, "unknown": unknown, "look_alikes": alike}, ensure_ascii=False))


class MergeAlphabets(Command):
    """Merge alphabets: the units of the first one keep their codes, and those of the others get the next codes."""

    epilog: ClassVar[str] = "Example: raycrnn alphabet merge old.json new.json -o both.json"

    alphabets: CliPositionalArg[Annotated[list[str], Metavar("ALPHABET")]] = Field(min_length=2)
    """JSON files, model directories, latin, or alphabets that raycrnn includes: two or more."""
    output: Output = Field(validation_alias=AliasChoices("o", "output"))
    """JSON file to write."""
    unicode_form: UnicodeForm = "NFC"
    """Unicode normalisation form of the units."""
    overwrite: bool = False
    """Replace the output if it exists."""
    as_json: AsJson = False
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        output = check_output(self.output, self.overwrite)
        first, *others = self.alphabets
        merged = _load(first, self.unicode_form)
        print(f"{first}: {len(merged):,} units")
        conflicts: dict[str, dict[str, list[int]]] = {}
        for name in others:
            codes = _load(name, self.unicode_form)
            extended = alphabet_building.extend(merged, alphabet_building.in_code_order(codes))
            print(f"{name}: {len(codes):,} units, {len(extended) - len(merged):,} of them new")
            changed = alphabet_building.compare(extended, codes).other_code
            conflicts[name] = {unit: [kept, other] for unit, kept, other in changed}
            merged = extended
        for name, units in conflicts.items():
            shown = [f"{unit!r} {other} -> {kept}" for unit, (kept, other) in units.items()]
            if shown:
                print(f"other codes than in {name}: {join_listed(shown, MAX_LISTED)}")
        _write(output, merged)
        print(f"{output}: {len(merged):,} units")
        if self.as_json:
            summary = {"output": str(output), "units": len(merged), "other_codes": conflicts}
            print(json.dumps(summary, ensure_ascii=False))


class CompareAlphabets(Command):
    """Compare two alphabets. The exit code is 0 if they have the same units in the same order, and 1 if they differ.

    Only the order of the codes counts: a network's classes are numbered in this order. As with diff, 2 is the exit code
    if an alphabet cannot be read.
    """

    epilog: ClassVar[str] = "Example: raycrnn alphabet diff output/model alphabet.json"

    first: CliPositionalArg[Annotated[str, Metavar("ALPHABET")]]
    """JSON file, model directory, latin, or an alphabet that raycrnn includes."""
    second: CliPositionalArg[Annotated[str, Metavar("ALPHABET")]]
    """The other one."""
    unicode_form: UnicodeForm = "NFC"
    """Unicode normalisation form of the units."""
    as_json: AsJson = False
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> int:
        found = alphabet_building.compare(*(_load(name, self.unicode_form) for name in (self.first, self.second)))
        for name, units in ((self.first, found.only_first), (self.second, found.only_second)):
            if units:
                print(f"only in {name} ({len(units):,}): {join_listed(list(map(repr, units)), MAX_LISTED)}")
        if found.other_code:
            shown = [f"{unit!r} {one} | {other}" for unit, one, other in found.other_code]
            print(f"other codes ({len(shown):,}): {join_listed(shown, MAX_LISTED)}")
        if found.same_classes:
            print("the same units in the same order, so a network has the same classes with both")
        if self.as_json:
            values = {"only_first": found.only_first, "only_second": found.only_second, "other_code": found.other_code}
            print(json.dumps({"same": found.same_classes, **values}, ensure_ascii=False))
        return 0 if found.same_classes else 1


COMMANDS: Mapping[str, tuple[type[Command], str]] = {
    "build": (BuildAlphabet, "Build an alphabet from CSVs, files with a unit a line, and another alphabet."),
    "show": (ShowAlphabet, "Show the units with their codes, names and counts."),
    "merge": (MergeAlphabets, "Merge alphabets; the codes of the first one stay."),
    "diff": (CompareAlphabets, "Compare two alphabets."),
}
"""The class and one line of help of each command."""


class AlphabetTool(Command):
    """Build, show, merge and compare alphabets."""

    @classmethod
    def _parse(cls, arguments: Sequence[str], name: str) -> Command:
        return cli.parse_command(COMMANDS, arguments, name)


def _csvs_and_settings(inputs: Sequence[str]) -> tuple[list[str], config.Data]:
    """Return the CSVs among the inputs of a command, and the settings that the others make."""
    csvs, settings = paths_and_settings(inputs)
    alphabet = next((name for name in csvs if name.lower().endswith(".json")), None)
    if alphabet:
        raise UsageError(f"{alphabet}: not a CSV: name an alphabet with --from, or as the first argument of show")
    return csvs, settings


def _count(csvs: Sequence[str], settings: config.Data) -> UnitCounts:
    counts = UnitCounts()
    for path in csvs:
        file = read_csv(path, settings.csv_delimiter, settings.encoding)
        labels, left_out = counts.labels, counts.left_out.total()
        counts.add(file, settings)
        if counts.labels == labels:
            raise UsageError(f"{path}: no row has a label; a row is path{settings.csv_delimiter}label")
        if left_out := counts.left_out.total() - left_out:
            logger.warning(f"{path}: {left_out:,} of {len(file.rows):,} rows are malformed or have no label")
        for warning in csv_warnings.warnings_of(file, settings):
            logger.warning(warning)
    return counts


def _read_units(path: str, settings: config.Data) -> list[str]:
    units = alphabet_building.read_unit_file(path, settings.encoding, settings.unicode_form)
    if not units:
        raise UsageError(f"{path}: has no units; write one in each line")
    repeated = [repr(unit) for unit, count in Counter(units).items() if count > 1]
    if repeated:
        logger.warning(f"{path}: more than one line has {join_listed(repeated, MAX_LISTED)}")
    for unit in dict.fromkeys(units):
        if found := [note for note in alphabet_building.notes(unit) if not note.endswith("characters")]:
            logger.warning(f"{path}: the unit {unit!r}: {'; '.join(found)}")
    return units


def _load(name: str, unicode_form: UnicodeForm) -> dict[str, int]:
    """Read a table from a JSON file, a model directory, or the package."""
    name = directory_of(name)
    is_model = not storage.is_uri(name) and os.path.isdir(name)
    return read_codes(os.path.join(name, "alphabet.json") if is_model else name, unicode_form)


def _write(output: Path, codes: Mapping[str, int]) -> None:
    text = alphabet_building.to_json(codes)
    try:
        storage.write_text(output, text + "\n")
    except OSError as error:
        raise RaycrnnError(f"{output}: cannot be written: {error.strerror}") from None


def _facts(unit: str) -> dict[str, object]:
    return {
        "code_points": alphabet_building.code_points(unit),
        "category": " ".join(map(unicodedata.category, unit)),
        "name": alphabet_building.names(unit),
        "notes": alphabet_building.notes(unit),
    }


def _line(unit: str) -> str:
    """Return the columns of a unit behind its code and count."""
    facts = _facts(unit)
    shown = unit if unit.isprintable() and not unicodedata.combining(unit[0]) and unit.strip() else repr(unit)
    text = "; ".join([str(facts["name"]), *alphabet_building.notes(unit)])
    return f"{shown:8} {facts['code_points']:15} {facts['category']:8} {text}"


if __name__ == "__main__":
    AlphabetTool.main(name="alphabet")
