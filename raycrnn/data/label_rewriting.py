"""Rewrite the labels of a CSV in steps, and count what changes."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from raycrnn.data.csv_files import CsvFile, Row, write_field
from raycrnn.data.csv_rewriting import moved_path
from raycrnn.data.labels import Label, Replacements, format_label, parse_label
from raycrnn.errors import UsageError

MAX_EXAMPLES = 5
"""Changed labels that are kept as examples."""

Step = Callable[[Label, Replacements], Label]
"""Returns a label after a step, and adds the characters that it replaced to the counter. It may raise `ValueError`."""


@dataclass
class Rewriting:
    """Rewrites labels and counts what changes."""

    steps: Mapping[str, Step]
    """The steps by name, in their order."""
    split_delimiter: str
    """The character between units in the input."""
    to_split_delimiter: str
    """The character between units in the output."""
    labels: dict[int, str] = field(default_factory=dict)
    """The rewritten label of each row, by its line."""
    rows_of_step: Counter[str] = field(default_factory=Counter)
    """Number of labels that each step changed."""
    replacements: Replacements = field(default_factory=Counter)
    """How often each character was replaced by which other text."""
    before: Counter[str] = field(default_factory=Counter)
    """The units of the labels that were rewritten, with their counts before it."""
    after: Counter[str] = field(default_factory=Counter)
    """The units of the same labels, with their counts after it."""
    changed: int = 0
    """Number of labels that are other ones in the output."""
    examples: list[tuple[Row, str]] = field(default_factory=list)
    """The first rows whose labels changed, with their new labels."""
    failed: list[tuple[Row, str]] = field(default_factory=list)
    """The rows whose labels cannot be rewritten, and why."""
    malformed: list[Row] = field(default_factory=list)
    """Rows that cannot be parsed, and stay as they are."""

    def add(self, row: Row) -> None:
        """Rewrite the label of a row, if it has one."""
        if row.problem:
            self.malformed.append(row)
        if row.label is None:
            return
        original = label = parse_label(row.label, self.split_delimiter)
        steps, replacements = [], Replacements()
        try:
            for name, step in self.steps.items():
                before, label = label, step(label, replacements)
                if label != before:
                    steps.append(name)
            same = label == original and self.split_delimiter == self.to_split_delimiter
            # Units may be written in several ways: `|a|b` are those of `|a|b|`.
            text = row.label if same else format_label(label, self.to_split_delimiter)
            # A map may insert a line end.
            write_field(text)
        except ValueError as error:
            self.failed.append((row, str(error)))
            return
        self.rows_of_step.update(steps)
        self.replacements.update(replacements)
        self.before.update(original)
        self.after.update(label)
        self.labels[row.line] = text
        if text != row.label:
            self.changed += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append((row, text))

    def summary(self) -> dict[str, object]:
        """Return the counts as JSON values."""
        return {
            "labels": len(self.labels),
            "changed": self.changed,
            "steps": {name: self.rows_of_step[name] for name in self.steps},
            "units": {"before": self.before.total(), "after": self.after.total()},
            "different_units": {"before": len(self.before), "after": len(self.after)},
            "replaced": [[old, new, count] for (old, new), count in self.replacements.most_common()],
            "failed": [[row.line, problem] for row, problem in self.failed],
            "malformed": [row.line for row in self.malformed],
        }


@dataclass(frozen=True)
class RowWriter:
    """Writes the rows of a CSV with other labels, delimiters and paths.

    A line in which nothing changes is that of the input.
    """

    csv: CsvFile
    """The input."""
    prefix: str
    """What is put before relative paths, see `csv_rewriting.folder_prefix`."""
    delimiter: str
    """The character between path and label in the input."""
    to_delimiter: str
    """The character between path and label in the output."""

    def lines(self, lines: Iterable[str], labels: Mapping[int, str], left_out: Collection[int] = ()) -> Iterator[str]:
        """Yield the lines of the output.

        Malformed and blank lines stay as they are, and so do the path of a header and labels that are not given.

        Args:
            lines: The lines of the input, with their line ends.
            labels: New labels, by the lines of their rows.
            left_out: The lines of the rows to leave out.

        Raises:
            UsageError: A new path contains a line end.
        """
        rows = {row.line: row for row in self.csv.rows if not row.problem}
        for number, line in enumerate(lines, 1):
            header = self.csv.header if self.csv.header and self.csv.header.line == number else None
            if row := header or rows.get(number):
                if number not in left_out:
                    path = row.path if header else moved_path(row.path, self.prefix)
                    yield self._line(line, row, path, labels.get(number, row.label))
            else:
                yield line

    def _line(self, line: str, row: Row, path: str, label: str | None) -> str:
        if (path, label) == (row.path, row.label) and self.delimiter == self.to_delimiter:
            return line
        try:
            fields = write_field(path, self.to_delimiter)
        except ValueError as error:
            raise UsageError(f"{self.csv.path}, line {row.line}: the path cannot be rewritten: {error}") from None
        if label is not None:
            # The label is the rest of the row: it may contain the delimiter, but not begin with a quote.
            fields += self.to_delimiter + (write_field(label) if label.startswith('"') else label)
        return fields + line[len(line.rstrip("\r\n")) :]
