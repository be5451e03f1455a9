"""What a search shows while it runs: a table on a terminal, lines elsewhere; all on stderr."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raycrnn.tuning.experiment import FINISHED, RUNNING, Experiment, Trial
from raycrnn.tuning.search_space import Search

logger = logging.getLogger(__name__)


MOST_ROWS = 12
"""of the live table: those that run, then the best"""

COLUMNS = {"cer": "CER %", "wer": "WER %", "accuracy": "exact %", "loss": "loss", "speed": "lines/s"}


def show_score(metric: str, value: float) -> str:
    """A score in the unit of its column."""
    if metric in ("cer", "wer", "accuracy"):
        return f"{100 * value:.2f}"
    return f"{value:,.0f}" if metric == "speed" else f"{value:.3f}"


def show_value(value: Any) -> str:
    """A value of a key, short."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_metrics(search: Search) -> list[str]:
    """The metrics that are shown: those searched by, and what people ask for anyway."""
    return list(dict.fromkeys([*search.metric, "cer", "accuracy"]))


class TrialTable:
    """Shows the trials as they are; `refresh` after each change."""

    def __init__(self, trials: Experiment):
        self._trials = trials
        self._live: Live | None = None

    @contextmanager
    def showing(self) -> Iterator["TrialTable"]:
        """On a terminal the table stands at its end meanwhile."""
        if not sys.stderr.isatty():
            yield self
            return
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as self._live:
            yield self
        self._live = None

    def refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def line(self, text: str) -> None:
        """Something to stay on the screen."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            logger.info(text)

    def evaluated(self, trial: Trial) -> None:
        """Off a terminal each evaluation is a line."""
        if self._live is None:
            logger.info(f"{_headline(trial)}  {_scores(trial.evaluations[-1], self._trials.search)}")

    def ended(self, trial: Trial) -> None:
        scores = _scores(trial.scores, self._trials.search) if trial.scores else "no scores"
        why = f": {trial.error.splitlines()[0]}" if trial.error else ""
        how = "" if trial.status == FINISHED else f" at {100 * trial.done:.0f} %"
        self.line(f"{_headline(trial)}  {trial.status}{how}  {scores}{why}")

    def _table(self) -> Table:
        search, all_trials = self._trials.search, list(self._trials.trials.values())
        ended = sum(trial.status not in ("waiting", RUNNING) for trial in all_trials)
        title = f"{ended} of {search.trials + 1} trials ended"
        running = [trial for trial in all_trials if trial.status == RUNNING]
        rest = [trial for trial in self._trials.ranked() if trial not in running and trial.scores]
        return table(self._trials, [*running, *rest][:MOST_ROWS], title)


def table(trials: Experiment, shown: Sequence[Trial], title: str | None = None) -> Table:
    """A row a trial."""
    search = trials.search
    found = Table(title=title, box=None, title_justify="left", pad_edge=False)
    metrics = shown_metrics(search)
    for name in ("trial", "", "done %", *(COLUMNS[metric] for metric in metrics), *map(_short, search.search)):
        found.add_column(name, justify="left" if name in ("trial", "") else "right", no_wrap=name != "")
    for trial in shown:
        scores = [show_score(metric, trial.scores[metric]) if trial.scores else "" for metric in metrics]
        values = [show_value(value) for value in trials.values_of(trial).values()]
        found.add_row(trial.name, trial.status, f"{100 * trial.done:.0f}", *scores, *values)
    return found


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _headline(trial: Trial) -> str:
    values = "  ".join(f"{_short(key)} {show_value(value)}" for key, value in trial.values.items())
    return f"trial {trial.name}" + (f"  ({values})" if values else "")


def _scores(record: dict, search: Search) -> str:
    parts = [f"epoch {record['epoch']:g}"]
    for metric in shown_metrics(search):
        name = COLUMNS[metric].removesuffix(" %")
        unit = " %" if COLUMNS[metric].endswith("%") else ""
        parts.append(f"{name} {show_score(metric, record[metric])}{unit}")
    return "  ".join(parts)
