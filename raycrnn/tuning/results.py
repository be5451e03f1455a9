"""What a search ends in: results.csv, best_config.json, best/model/, report.html, and what is said of them."""

import csv
import io
import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from raycrnn import config, storage
from raycrnn.errors import RaycrnnError
from raycrnn.tuning import console
from raycrnn.tuning.experiment import SCORES, Experiment, Trial
from raycrnn.tuning.report import render
from raycrnn.tuning.sampler import BASE

MOST_ROWS = 15
"""of the table at the end; results.csv has them all"""


def write(trials: Experiment, save_model: Callable[[Trial, Path], None]) -> None:
    """Write all of them, by what is known now.

    Args:
        save_model: writes the model directory of a trial to a path.

    Raises:
        OSError: as of a full disk.
        RaycrnnError: no trial has scores.
    """
    _write_csv(trials)
    best = trials.best()
    if best is None:
        errors = [f"trial {trial.name}: {trial.error}" for trial in trials.trials.values() if trial.error]
        why = f"The first failed of:\n{errors[0]}" if errors else "none came to an evaluation in time"
        raise RaycrnnError(f"no trial has scores. {why}")
    storage.write_whole(trials.output / "best_config.json", _best_config(trials, best))
    _replace_best(trials.output, partial(save_model, best))
    storage.write_whole(trials.output / "report.html", render(trials))
    trials.place.push()


def _write_csv(trials: Experiment) -> None:
    """results.csv: comma-separated (RFC 4180), a header, a line a trial; values of keys as JSON."""
    keys = list(trials.search.search)
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["trial", "status", *SCORES, "minutes", *keys, "node", "error"])
    for trial in trials.trials.values():
        scores = trial.scores or {}
        cells = [scores.get(name, "") for name in SCORES]
        values = [json.dumps(value, ensure_ascii=False) for value in trials.values_of(trial).values()]
        row = [trial.name, trial.status, *cells, round(trial.minutes, 2), *values, trial.node, trial.error]
        writer.writerow(row)
    storage.write_whole(trials.output / "results.csv", file.getvalue())


def _best_config(trials: Experiment, best: Trial) -> str:
    """A whole configuration that train takes as it is."""
    configuration = config.parse(config.with_values(trials.tree, best.values)).model_dump(mode="json")
    configuration["output_model_dir"] = storage.with_suffix(configuration["output_model_dir"], "-best")
    return json.dumps(configuration, indent=2, ensure_ascii=False)


def _replace_best(output: Path, save: Callable[[Path], None]) -> None:
    new, old = output / ".best", output / "best"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    save(new / "model")
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)


@dataclass(frozen=True)
class Outcome:
    """How a search ended."""

    trials: Experiment
    interrupted: bool = False

    def describe(self, tree: dict) -> str:
        """For the terminal.

        Args:
            tree: the user's configuration, without what the search fixes.
        """
        trials, best = self.trials, self.trials.best()
        lines = [_rendered(trials), ""]
        if trials.search.metric[1:]:
            front = ", ".join(trial.name for trial in trials.front())
            lines.append(f"not beaten in both {' and '.join(trials.search.metric)}: {front}")
        lines += [f"best: {'the base' if best.name == BASE else f'trial {best.name}'}: {self._gain(best)}"]
        lines += [f"      {key} = {console.show_value(value)}" for key, value in best.values.items()]
        model, report, best_config, runs = map(self._typed, ("best/model", "report.html", "best_config.json", "trials"))
        lines += [f"model:  {model}", f"report: {report}"]
        lines += [f"next:   python -m raycrnn.predict {model} images/ -o transcriptions.csv"]
        if trials.search.decoding_only:
            return "\n".join(lines)
        fixed = {key: config.value_at(config.parse(tree).model_dump(mode="json"), key) for key in trials.search.fixed}
        epochs = fixed.get("training.n_epochs", 0)
        longer = [f"training.n_epochs={epochs}"] if epochs > trials.search.fixed.get("training.n_epochs", 0) else []
        lines += [" ".join([f"        python -m raycrnn.train {best_config}", *longer])]
        lines += [f"        tensorboard --logdir {runs}"]
        return "\n".join(lines)

    def _typed(self, name: str) -> str:
        """What is in the output directory, as somebody in the working directory would type it."""
        place, here = str(self.trials.place), f"{os.getcwd()}{os.sep}"
        return shlex.quote(storage.join(place.removeprefix(here), name))

    def _gain(self, best: Trial) -> str:
        base = self.trials.base
        parts = []
        for metric in console.shown_metrics(self.trials.search):
            name, percent, unit = console.COLUMNS[metric].partition(" %")
            text = f"{name} {console.show_score(metric, best.scores[metric])}{percent}{unit}"
            if base and base.scores and best.name != BASE:
                text += f" (base {console.show_score(metric, base.scores[metric])}{percent})"
            parts.append(text)
        return ", ".join(parts) + self._budgets(best)

    def _budgets(self, best: Trial) -> str:
        """Where the best and the base did not have the same budget, that."""
        base = self.trials.base
        if base is None or best.name == BASE or abs(base.done - best.done) < 0.01:
            return ""
        return f"; of their training the best did {100 * best.done:.0f} %, the base {100 * base.done:.0f} %"

    def as_json(self) -> dict:
        def of(trial: Trial | None) -> dict | None:
            return trial and {
                "trial": trial.name,
                "status": trial.status,
                "values": trial.values,
                **(trial.scores or {}),
            }

        place = str(self.trials.place)
        return {
            "best": of(self.trials.best()),
            "base": of(self.trials.base),
            "trials": [of(trial) for trial in self.trials.trials.values()],
            "model": storage.join(place, "best", "model"),
            "config": storage.join(place, "best_config.json"),
            "report": storage.join(place, "report.html"),
        }


def _rendered(trials: Experiment) -> str:
    text = io.StringIO()
    ranked = trials.ranked()
    Console(file=text, width=200).print(console.table(trials, ranked[:MOST_ROWS]))
    more = f"… and {len(ranked) - MOST_ROWS} more in results.csv" if len(ranked) > MOST_ROWS else ""
    return "\n".join(line.rstrip() for line in [*text.getvalue().splitlines(), more] if line.strip())
