"""Train folds in processes of their own, one after another or several at a time.

Each process is the command `raycrnn train` for one fold. So a fold is trained, saved, stopped and resumed like any
other run, and what ends one process does not end the others.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raycrnn.console import StopRequest
from raycrnn.errors import RaycrnnError, UsageError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKS = 0.2

SECONDS_TO_STOP = 30.0
"""Seconds after a second request to stop until a process is killed."""

USAGE, STOPPED = 2, 130
"""Exit codes: wrong configuration; stopped by a signal."""


@dataclass
class FoldProcess:
    """The process that trains a fold."""

    fold: int
    process: subprocess.Popen[str]
    output: list[str] = field(default_factory=list)
    """What it has printed on stdout."""
    threads: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(cls, fold: int, configuration: Path, address: str | None, prefix: str | None) -> "FoldProcess":
        """Start to train a fold.

        Args:
            fold: Number of the fold.
            configuration: The file with its configuration.
            address: Address of the Ray cluster.
            prefix: Text before each of its log lines; None to let it write to stderr itself, with its progress bar.
        """
        command = [sys.executable, "-m", "raycrnn", "train", str(configuration), "--json"]
        process = subprocess.Popen(
            [*command, *(["--address", address] if address else [])],
            stdout=subprocess.PIPE,
            stderr=None if prefix is None else subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            # Ctrl-C reaches only this command, which passes it on.
            start_new_session=True,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        own = cls(fold, process)
        own.threads.append(threading.Thread(target=own._read_output, daemon=True))
        if prefix is not None:
            own.threads.append(threading.Thread(target=own._log, args=(prefix,), daemon=True))
        for thread in own.threads:
            thread.start()
        return own

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        self.output.extend(self.process.stdout)

    def _log(self, prefix: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            logger.info(f"{prefix}{line.rstrip()}")

    def stop(self) -> None:
        """Ask the process to stop, with a checkpoint; the second time, at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self, deadline: float) -> None:
        """Kill the process if it does not stop before a time of `time.monotonic`."""
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()

    def result(self) -> dict | None:
        """Return the result of a process that has ended, None if it was stopped.

        Raises:
            UsageError, RaycrnnError: It has failed. It has logged why, unless a signal has ended it.
        """
        for thread in self.threads:
            thread.join()
        code = self.process.returncode
        if code == STOPPED:
            return None
        if code:
            error = UsageError if code == USAGE else RaycrnnError
            what = "failed, see above" if code > 0 else f"was ended by {describe_signal(-code)}"
            raise error(f"fold {self.fold} {what}; restore_model=true continues the folds that are not finished")
        return json.loads(self.output[-1])


def describe_signal(number: int) -> str:
    """Return the name of a signal that has ended a process, with the usual cause of SIGKILL."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        name += " (did the machine run out of memory? training.train_batch_size lowers what training takes)"
    return name


def run_all(
    configurations: Sequence[Path], at_a_time: int, address: str | None, stop: StopRequest
) -> dict[int, dict | None]:
    """Train folds, and return the result of each that was started; None for one that was stopped.

    After a request to stop, or if a fold fails, no other is started; those that run end first.

    Args:
        configurations: The files with the configuration of each fold.
        at_a_time: Number of folds that are trained side by side.
        address: Address of the Ray cluster.
        stop: The request to stop.

    Raises:
        UsageError, RaycrnnError: A fold has failed.
    """
    waiting, running, results = list(enumerate(configurations, 1)), list[FoldProcess](), dict[int, dict | None]()
    failure: RaycrnnError | None = None
    stopping = False
    try:
        while running or (waiting and failure is None and not stop.requested):
            while waiting and len(running) < at_a_time and failure is None and not stop.requested:
                fold, path = waiting.pop(0)
                logger.info(f"fold {fold} of {len(configurations)}")
                running.append(FoldProcess.start(fold, path, address, f"fold {fold}: " if at_a_time > 1 else None))
            if stop.requested and not stopping:
                stopping = True
                for each in running:
                    each.stop()
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                try:
                    results[each.fold] = each.result()
                except RaycrnnError as error:
                    failure = error
            time.sleep(SECONDS_BETWEEN_CHECKS)
    finally:
        # Only after an error, such as a second Ctrl-C.
        for each in running:
            each.stop()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for each in running:
            each.kill(deadline)
    if failure is not None:
        raise failure
    return results
