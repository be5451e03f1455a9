"""Error rates of settings on several sets, over several seeds, after equal epochs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn.bench import plots, training_plan
from raycrnn.bench.run_summaries import summary
from raycrnn.bench.training_runs import RunResult, run_plan
from raycrnn.cli import Command, LocalPath, Metavar
from raycrnn.errors import UsageError


class Accuracy(Command):
    """Train each set of a plan with each setting and each seed, and compare the error rates.

    The plan is a JSON file: `examples/accuracy.json` is one. Rows are held back by group, so that no book, receipt or
    page is in both parts. The scores are those of the last evaluation. The results are kept in the output folder: the
    same command continues an interrupted comparison, and trains only what a changed plan adds. Use another folder after
    a change of raycrnn itself. The limit of each setting is the CER of the first one.
    """

    plan: CliPositionalArg[LocalPath]
    """JSON file with the sets, settings and seeds."""
    data: Annotated[LocalPath, Metavar("DIR")] = Path(".")
    """Folder that the plan's CSV files are relative to."""
    output: Annotated[Path, Metavar("DIR")] = Path("accuracy")
    """Folder for the results and the plot."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        plots.require()
        plan = training_plan.load(self.plan)
        if plan.rows:
            raise UsageError(f"{self.plan}: the plan has numbers of rows: use bench curve, or remove them")
        results = run_plan(plan, str(self.data), self.output)
        print(table(results, list(plan.settings)))
        plots.training_curves(results, self.output / "accuracy.svg")
        print(f"plot: {self.output / 'accuracy.svg'}")
        if self.json_line:
            print(json.dumps(summary(results)))


def table(results: Sequence[RunResult], settings: Sequence[str]) -> str:
    """Return a table in Markdown with a line for each set and setting.

    Each setting is compared with the first one: by the ratio of the mean CERs, and by the number of seeds for which its
    CER is lower.
    """
    lines = [
        "| Set | Setting | CER | Exact | Seconds | CER over that of the first setting | Seeds with a lower CER |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scores in summary(results).items():
        for setting, values in scores.items():
            compared = ["", ""]
            if setting != settings[0]:
                ratio = values["cer"] / scores[settings[0]]["cer"] if scores[settings[0]]["cer"] else float("nan")
                pairs = _pairs(results, name, settings[0], setting)
                compared = [f"{ratio:.2f}", f"{sum(cer < first for first, cer in pairs)} of {len(pairs)}"]
            cells = [
                name,
                setting,
                f"{values['cer']:.2%} ± {values['cer_deviation']:.2%}",
                f"{values['accuracy']:.1%}",
                f"{values['seconds']:.0f}",
                *compared,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    machines = "; ".join(dict.fromkeys(result.machine for result in results))
    return "\n".join([*lines, "", f"Mean and standard deviation over the seeds. {machines}"])


def _pairs(results: Sequence[RunResult], name: str, first: str, second: str) -> list[tuple[float, float]]:
    """Return the CERs of two settings on a set, by seed."""
    cers = {(result.setting, result.seed): result.cer for result in results if result.set == name}
    return [(cers[first, seed], cer) for (setting, seed), cer in cers.items() if setting == second]


if __name__ == "__main__":
    Accuracy.main(name="bench accuracy")
