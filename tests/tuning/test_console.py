"""Test what a search shows of its trials, on a terminal and elsewhere."""

import io
import logging
import sys

from raycrnn import console
from raycrnn.tuning.console import TrialTable
from raycrnn.tuning.experiment import RUNNING
from tests.tuning.test_experiment import evaluation, trials_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_lines_are_printed_above_the_live_table(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    table = TrialTable(trials_of(tmp_path, base=[evaluation(10, 0.5)], t1=[]))
    with console.logging_to_stderr(), table.live():
        table.refresh()
        logging.getLogger("raycrnn.tuning").warning("trial 1 failed and is restarted")
        table.refresh()
        screen = terminal.getvalue()
    start = screen.index("trial 1 failed and is restarted")
    # The table is erased before the line and drawn again below it.
    assert "\x1b[2K" in screen[:start]
    assert screen.count("2 of 10 trials ended") >= 3
    assert "2 of 10 trials ended" in screen[start:]
    assert sys.stderr is terminal


def test_without_a_terminal_a_line_says_how_far_the_trials_are_after_30_seconds_without_one(
    tmp_path, monkeypatch, caplog
):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    experiment = trials_of(tmp_path, base=[evaluation(10, 0.5)], t1=[], t2=[])
    for name, done in (("1", 0.4), ("2", 0.05)):
        experiment.trials[name].status, experiment.trials[name].done = RUNNING, done
    table = TrialTable(experiment)
    with caplog.at_level(logging.INFO), table.live():
        for second in range(100):
            now[0] += 1
            if second == 50:
                table.log_end(experiment.trials["base"])
            table.refresh()
    assert [record.message.startswith("1 of 10 trials ended; running: ") for record in caplog.records] == [
        True,
        False,
        True,
    ]
    assert caplog.records[0].message.endswith("running: 1 at 40 %, 2 at 5 %")
