"""The error rate by the number of training rows: how many lines have to be transcribed?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn.bench import plots, training_plan
from raycrnn.bench.run_summaries import Point, points
from raycrnn.bench.training_runs import RunResult, run_plan
from raycrnn.cli import Command, LocalPath, Metavar
from raycrnn.errors import UsageError


class Curve(Command):
    """Train on more and more rows of each set of a plan, and show how the error rate falls.

    The plan is a JSON file as for `bench accuracy`, with a list of numbers of rows: `examples/curve.json` is one. Rows
    are held back by group, and the larger selections of training rows contain the smaller ones. The limits are the CERs
    of other recognisers that the plan names.
    """

    plan: CliPositionalArg[LocalPath]
    """JSON file with the sets, settings, numbers of rows and seeds."""
    data: Annotated[LocalPath, Metavar("DIR")] = Path(".")
    """Folder that the plan's CSV files are relative to."""
    output: Annotated[Path, Metavar("DIR")] = Path("curve")
    """Folder for the results and the plot."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        plots.require()
        plan = training_plan.load(self.plan)
        if not plan.rows:
            raise UsageError(f'{self.plan}: the plan has no numbers of rows; add a list, such as "rows": [100, 400]')
        results = run_plan(plan, str(self.data), self.output)
        print(table(results))
        references = {name: planned.reference for name, planned in plan.sets.items()}
        plots.learning_curves(points(results), references, self.output / "curve.svg")
        print(f"plot: {self.output / 'curve.svg'}")
        if self.json_line:
            curves: dict[str, dict[str, list[Point]]] = {}
            for (name, setting), curve in points(results).items():
                curves.setdefault(name, {})[setting] = curve
            print(json.dumps(curves))


def table(results: Sequence[RunResult]) -> str:
    """Return a table in Markdown with a line for each set and setting and a column for each number of rows."""
    curves = points(results)
    rows = sorted({int(point["rows"]) for curve in curves.values() for point in curve})
    lines = ["| Set | Setting | " + " | ".join(map(str, rows)) + " |", "|---|---|" + "---|" * len(rows)]
    for (name, setting), curve in curves.items():
        by_rows = {point["rows"]: f"{point['cer']:.1%} ± {point['cer_deviation']:.1%}" for point in curve}
        lines.append(f"| {name} | {setting} | " + " | ".join(by_rows.get(number, "") for number in rows) + " |")
    machines = "; ".join(dict.fromkeys(result.machine for result in results))
    return "\n".join([*lines, "", f"CER by the number of training rows, mean and deviation over the seeds. {machines}"])


if __name__ == "__main__":
    Curve.main(name="bench curve")
