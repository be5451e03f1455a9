"""The table of trials that a search shows on a terminal while it runs."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raycrnn.console import LineTimer
from raycrnn.tuning.experiment import FINISHED, RUNNING, WAITING, Experiment, Trial
from raycrnn.tuning.search_space import Search

logger = logging.getLogger(__name__)


MAX_ROWS = 12
"""Most rows of the live table: the running trials, then the best ones."""

COLUMNS = {"cer": "CER %", "wer": "WER %", "accuracy": "exact %", "loss": "loss", "speed": "lines/s"}


def format_score(metric: str, value: float) -> str:
    """Format a score in the unit of its column."""
    if metric in ("cer", "wer", "accuracy"):
        return f"{100 * value:.2f}"
    return f"{value:,.0f}" if metric == "speed" else f"{value:.3f}"


def format_value(value: object) -> str:
    """Format the value of a key in a few characters."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def displayed_metrics(search: Search) -> list[str]:
    """Return the metrics to display: those of the search, CER and exact matches."""
    return list(dict.fromkeys([*search.metric, "cer", "accuracy"]))


class TrialTable:
    """Displays the trials of a search. Call `refresh` after each change.

    On a terminal the table stays below the log lines: rich redirects stderr while the table is live. Elsewhere
    evaluations and ended trials are logged, and how far the running trials are if there was no line for 30 seconds.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._live: Live | None = None
        self._timer = LineTimer()

    @contextmanager
    def live(self) -> Iterator[None]:
        """Display the table until the context is left, if stderr is a terminal."""
        if not sys.stderr.isatty():
            yield
            return
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def refresh(self) -> None:
        """Redraw the table, or log a line if it is time for one."""
        if self._live is not None:
            self._live.update(self._render(), refresh=True)
        elif self._timer.is_due():
            self._log(self._describe_progress())

    def log_evaluation(self, trial: Trial) -> None:
        """Log the last evaluation of a trial, unless the live table shows it."""
        if self._live is None:
            scores = _describe_scores(trial.evaluations[-1], self._experiment.search)
            self._log(f"{_describe_trial(trial)}  {scores}")

    def log_end(self, trial: Trial) -> None:
        """Log how a trial ended."""
        scores = _describe_scores(trial.scores, self._experiment.search) if trial.scores else "no scores"
        error = f": {trial.error.splitlines()[0]}" if trial.error else ""
        progress = "" if trial.status == FINISHED else f" at {100 * trial.done:.0f} %"
        self._log(f"{_describe_trial(trial)}  {trial.status}{progress}  {scores}{error}")

    def _log(self, line: str) -> None:
        logger.info(line)
        self._timer.restart()

    def _describe_progress(self) -> str:
        running = [trial for trial in self._experiment.trials.values() if trial.status == RUNNING]
        shares = ", ".join(f"{trial.name} at {100 * trial.done:.0f} %" for trial in running[:MAX_ROWS])
        more = f" and {len(running) - MAX_ROWS} more" if len(running) > MAX_ROWS else ""
        return f"{self._describe_ended()}; running: {shares or 'none'}{more}"

    def _describe_ended(self) -> str:
        ended = sum(trial.status not in (WAITING, RUNNING) for trial in self._experiment.trials.values())
        return f"{ended} of {self._experiment.search.trials + 1} trials ended"

    def _render(self) -> Table:
        trials = list(self._experiment.trials.values())
        running = [trial for trial in trials if trial.status == RUNNING]
        others = [trial for trial in self._experiment.ranked() if trial not in running and trial.scores]
        return make_table(self._experiment, [*running, *others][:MAX_ROWS], self._describe_ended())


def make_table(experiment: Experiment, trials: Sequence[Trial], title: str | None = None) -> Table:
    """Make a table with one row per trial."""
    table = Table(title=title, box=None, title_justify="left", pad_edge=False)
    metrics = displayed_metrics(experiment.search)
    keys = map(_short_name, experiment.search.search)
    for name in ("trial", "", "done %", *(COLUMNS[metric] for metric in metrics), *keys):
        table.add_column(name, justify="left" if name in ("trial", "") else "right", no_wrap=name != "")
    for trial in trials:
        scores = [format_score(metric, trial.scores[metric]) if trial.scores else "" for metric in metrics]
        values = [format_value(value) for value in experiment.values_of(trial).values()]
        table.add_row(trial.name, trial.status, f"{100 * trial.done:.0f}", *scores, *values)
    return table


def _short_name(key: str) -> str:
    return key.rpartition(".")[2]


def _describe_trial(trial: Trial) -> str:
    values = "  ".join(f"{_short_name(key)} {format_value(value)}" for key, value in trial.values.items())
    return f"trial {trial.name}" + (f"  ({values})" if values else "")


def _describe_scores(record: Mapping[str, float], search: Search) -> str:
    parts = [f"epoch {record['epoch']:g}"]
    for metric in displayed_metrics(search):
        name, percent, _ = COLUMNS[metric].partition(" %")
        parts.append(f"{name} {format_score(metric, record[metric])}{percent}")
    return "  ".join(parts)
