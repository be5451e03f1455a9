"""The results of a search: results.csv, best_config.json, best/model, report.html, and a summary for the terminal."""

import csv
import io
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from raycrnn import config, storage
from raycrnn.config.decoding import STRENGTH_KEYS
from raycrnn.errors import RaycrnnError
from raycrnn.tuning import console
from raycrnn.tuning.experiment import SCORES, Experiment, Trial
from raycrnn.tuning.report import render
from raycrnn.tuning.sampler import BASE

MAX_ROWS = 15
"""Most rows of the table in the summary. results.csv contains all trials."""


def write(experiment: Experiment, save_model: Callable[[Trial, Path], None]) -> None:
    """Write the files with the results of a search.

    Args:
        save_model: Writes the model directory of a trial to a path.

    Raises:
        OSError: A file cannot be written.
        RaycrnnError: No trial has scores.
    """
    _write_csv(experiment)
    best = experiment.best()
    if best is None:
        errors = [f"trial {trial.name}: {trial.error}" for trial in experiment.trials.values() if trial.error]
        reason = f"The first error:\n{errors[0]}" if errors else "The search ended before the first evaluation"
        raise RaycrnnError(f"no trial has scores. {reason}")
    storage.write_text(experiment.path / "best_config.json", _best_config(experiment, best))
    with storage.replacing_directory(experiment.path / "best") as directory:
        save_model(best, directory / "model")
    storage.write_text(experiment.path / "report.html", render(experiment))
    experiment.output.sync()


def _write_csv(experiment: Experiment) -> None:
    """Write results.csv: RFC 4180 with a header and one row per trial. Values of keys are JSON."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["trial", "status", *SCORES, "minutes", *experiment.search.search, "node", "error"])
    for trial in experiment.trials.values():
        scores = trial.scores or {}
        cells = [scores.get(name, "") for name in SCORES]
        values = [json.dumps(value, ensure_ascii=False) for value in experiment.values_of(trial).values()]
        writer.writerow([trial.name, trial.status, *cells, round(trial.minutes, 2), *values, trial.node, trial.error])
    storage.write_text(experiment.path / "results.csv", file.getvalue())


def _best_config(experiment: Experiment, best: Trial) -> str:
    """Return the complete configuration of a trial as JSON, ready for train."""
    parsed = config.parse(config.with_values(experiment.tree, best.values))
    configuration = parsed.model_dump(mode="json")
    for key in set(STRENGTH_KEYS) - config.set_keys(parsed):
        # Training chooses it, as it did for the trial.
        del configuration["decoding"][key.removeprefix("decoding.")]
    configuration["output_model_dir"] = storage.with_suffix(configuration["output_model_dir"], "-best")
    return json.dumps(configuration, indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class SearchResult:
    """The result of a search."""

    experiment: Experiment
    interrupted: bool = False

    def describe(self, tree: dict[str, object]) -> str:
        """Return the summary for the terminal. There must be a best trial.

        Args:
            tree: The user's grouped configuration, without the values that the search file fixes.
        """
        experiment, best = self.experiment, self.experiment.best()
        assert best is not None
        search = experiment.search
        lines = [_table_text(experiment), ""]
        if search.metric[1:]:
            front = ", ".join(trial.name for trial in experiment.pareto_front())
            lines.append(f"not beaten in both {' and '.join(search.metric)}: {front}")
        lines += [f"best: {'the base' if best.name == BASE else f'trial {best.name}'}: {self._describe_scores(best)}"]
        lines += [f"      {key} = {console.format_value(value)}" for key, value in best.values.items()]
        names = ("best/model", "report.html", "best_config.json", "trials")
        model, report, best_config, trials = map(self._shell_path, names)
        lines += [f"model:  {model}", f"report: {report}"]
        lines += [f"next:   raycrnn predict {model} images/ -o transcriptions.csv"]
        if search.decoding_only:
            return "\n".join(lines)
        lines += [f"        raycrnn train {best_config}{self._own_epochs(tree)}"]
        lines += [f"        tensorboard --logdir {trials}"]
        return "\n".join(lines)

    def _own_epochs(self, tree: dict) -> str:
        """Return the override for the number of epochs of the user's configuration, if the search fixed a smaller one.

        A configuration without a number has the default, which may be larger.

        Args:
            tree: The user's configuration, grouped.
        """
        fixed = self.experiment.search.fixed.get("training.n_epochs")
        epochs = config.parse(tree).training.n_epochs
        if fixed is None or (epochs is not None and epochs <= fixed):
            return ""
        return f" training.n_epochs={config.to_json(epochs)}"

    def _shell_path(self, name: str) -> str:
        """Return the path of a result relative to the working directory, quoted for a shell."""
        output, working_directory = str(self.experiment.output), f"{os.getcwd()}{os.sep}"
        return shlex.quote(storage.join(output.removeprefix(working_directory), name))

    def _describe_scores(self, best: Trial) -> str:
        base = self.experiment.base
        own, base_scores = best.scores or {}, (base.scores if base and base is not best else None)
        parts = []
        for metric in console.displayed_metrics(self.experiment.search):
            name, percent, _ = console.COLUMNS[metric].partition(" %")
            text = f"{name} {console.format_score(metric, own[metric])}{percent}"
            if base_scores:
                text += f" (base {console.format_score(metric, base_scores[metric])}{percent})"
            parts.append(text)
        text = ", ".join(parts)
        if base and abs(base.done - best.done) >= 0.01:
            text += f"; the best trial did {100 * best.done:.0f} % of its training, the base {100 * base.done:.0f} %"
        return text

    def as_json(self) -> dict[str, object]:
        """Return the result as JSON values."""
        output, best, base = str(self.experiment.output), self.experiment.best(), self.experiment.base
        return {
            "best": best and _trial_as_json(best),
            "base": base and _trial_as_json(base),
            "trials": [_trial_as_json(trial) for trial in self.experiment.trials.values()],
            "model": storage.join(output, "best", "model"),
            "config": storage.join(output, "best_config.json"),
            "report": storage.join(output, "report.html"),
        }


def _trial_as_json(trial: Trial) -> dict[str, object]:
    return {"trial": trial.name, "status": trial.status, "values": trial.values, **(trial.scores or {})}


def _table_text(experiment: Experiment) -> str:
    text, ranked = io.StringIO(), experiment.ranked()
    Console(file=text, width=200).print(console.make_table(experiment, ranked[:MAX_ROWS]))
    more = f"… and {len(ranked) - MAX_ROWS} more in results.csv" if len(ranked) > MAX_ROWS else ""
    return "\n".join(line.rstrip() for line in [*text.getvalue().splitlines(), more] if line.strip())
