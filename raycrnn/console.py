"""Show log lines and progress on stderr, and handle Ctrl-C and SIGTERM."""

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0
"""Seconds between two log lines about progress where stderr is not a terminal."""


class _StderrHandler(logging.Handler):
    """Print records on the current stderr, above progress bars, with the level from WARNING on."""

    def emit(self, record: logging.LogRecord) -> None:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        tqdm.write(f"{level}{self.format(record)}", file=sys.stderr)
        sys.stderr.flush()


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Print the log records of raycrnn on stderr, from level INFO on, for the duration of a `with` block."""
    logger = logging.getLogger("raycrnn")
    if any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        yield
        return
    handler, level = _StderrHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class LineTimer:
    """Tell when to log a line about progress: every 30 seconds if stderr is not a terminal, which would show a bar."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start to wait for the next line."""
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds since the last start."""
        return time.monotonic() - self._since

    def is_due(self) -> bool:
        """Return whether to log a line now. The caller restarts the timer after it."""
        return not sys.stderr.isatty() and self.seconds > SECONDS_BETWEEN_LINES


class ProgressBar:
    """A progress bar on a terminal. It is invisible if stderr is not a terminal."""

    def __init__(self, total: float | None, layout: str | None = None, unit: str = "it"):
        self._total, self._layout, self._unit = total, layout, unit
        self._bar: tqdm | None = None

    def show(self, done: float, description: str = "", details: str = "") -> None:
        """Draw the bar.

        Args:
            done: Completed part of the total.
            description: Text before the bar.
            details: Text after the bar.
        """
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = tqdm(
                total=self._total,
                initial=done,
                bar_format=self._layout,
                unit=self._unit,
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
            )
        self._bar.set_description_str(description, refresh=False)
        self._bar.set_postfix_str(details, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class ImageProgress:
    """The number of finished images and the rate: a bar on a terminal, else a log line every 30 seconds."""

    def __init__(self, total: int, done: int = 0, describe_idle: Callable[[], str] = lambda: ""):
        """
        Args:
            total: Number of images.
            done: Number of images that an earlier command finished.
            describe_idle: Returns what to add to a log line if no image was finished for 30 seconds.
        """
        self.total, self.done = total, done
        self._describe_idle = describe_idle
        self._bar = ProgressBar(total, unit=" images")
        self._timer, self._logged = LineTimer(), done
        self._has_finished_some = False

    def add(self, images: int) -> None:
        """Count finished images. Call this often, with 0 if none were finished."""
        if images and not self._has_finished_some:
            # The rate does not include the start of Ray and the replicas.
            self._has_finished_some, self._logged = True, self.done + images
            self._timer.restart()
        self.done += images
        self._bar.show(self.done)
        if self._timer.is_due():
            logging.getLogger(__name__).info(self._line())
            self._timer.restart()
            self._logged = self.done

    def _line(self) -> str:
        start = f"{self.done:,} of {self.total:,} images"
        rate = (self.done - self._logged) / self._timer.seconds
        if rate:
            left = tqdm.format_interval((self.total - self.done) / rate)
            return f"{start}, {rate:,.0f} per second, {left} left"
        idle = "; ".join(filter(None, [f"none in the last {SECONDS_BETWEEN_LINES:.0f} seconds", self._describe_idle()]))
        return f"{start}, {idle}"

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()


SECONDS_BETWEEN_CHECKS = 0.1

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask a command to stop: Ctrl-C, and what schedulers send (SLURM, Docker, Kubernetes)."""


SECONDS_OF_ONE_REQUEST = 0.5
"""Seconds within which several signals are one request to stop."""


class StopRequest:
    """Whether a signal has asked the command to stop."""

    def __init__(self) -> None:
        # Not an Event: its lock may be held by the thread that a signal interrupts, and the handler would wait for it.
        self.requested = False
        """Whether a stop was requested."""
        self._since = 0.0

    def wait(self, seconds: float = math.inf) -> bool:
        """Wait until a stop is requested, or until the time is over, and return whether it was requested."""
        end = time.monotonic() + seconds
        while not self.requested and time.monotonic() < end:
            time.sleep(min(SECONDS_BETWEEN_CHECKS, max(0.0, end - time.monotonic())))
        return self.requested

    def request(self, number: int, _: object = None) -> None:
        """Handle a signal. The second one raises `KeyboardInterrupt`, which stops at once.

        Signals within `SECONDS_OF_ONE_REQUEST` count as one: GNU timeout sends one to the process and one to its group.
        """
        if not self.requested:
            self._since, self.requested = time.monotonic(), True
        elif time.monotonic() - self._since > SECONDS_OF_ONE_REQUEST:
            raise KeyboardInterrupt


@contextmanager
def defer_stop() -> Iterator[StopRequest]:
    """Turn stop signals into a request to stop for the duration of a `with` block, so that the work can end in order.

    A `KeyboardInterrupt` in the middle of a callback, for example one of Ray, could get lost. Python handles signals in
    the main thread only; in other threads this does nothing.
    """
    stop = StopRequest()
    with keep_stop_handlers():
        if _is_main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, stop.request)
        yield stop


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Make SIGTERM raise `KeyboardInterrupt`, as Ctrl-C does, for the duration of a `with` block."""
    with keep_stop_handlers():
        if _is_main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield


@contextmanager
def keep_stop_handlers() -> Iterator[None]:
    """Restore the handlers of the stop signals at the end of a `with` block."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        if _is_main_thread():
            for number, handler in before.items():
                # None: code outside Python has set it, and Python cannot set it again.
                if handler is not None:
                    signal.signal(number, handler)


@contextmanager
def signals_blocked(*signals: signal.Signals) -> Iterator[None]:
    """Block signals in this thread for the duration of a `with` block; processes that it starts block them forever.

    Job schedulers send SIGTERM to all processes of a job at once, and Ctrl-C sends SIGINT to all of a terminal. The
    command ends the processes that it has started. A signal that is pending at the end of the block is handled then.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_main_thread() -> bool:
    """Return whether this thread may set signal handlers."""
    return threading.current_thread() is threading.main_thread()
