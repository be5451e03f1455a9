"""Test the table of trials on a terminal."""

import io
import logging
import sys

from raycrnn import console
from raycrnn.tuning.console import TrialTable
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
