"""Threads that are joined before Ray shuts down."""

import threading
from collections.abc import Callable

SECONDS_TO_END = 60.0
"""Seconds to wait for a thread to end. A thread that is still in a call of Ray's when Python exits may crash it."""


class Background:
    """A function that runs in a daemon thread."""

    def __init__(self, function: Callable[[], object]):
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            self.error = error

    def join(self, seconds: float | None = SECONDS_TO_END) -> None:
        """Wait until the function has returned, or until the time is over; None is no limit."""
        self._thread.join(seconds)

    @property
    def ended(self) -> bool:
        """Whether the function has returned or raised an error."""
        return not self._thread.is_alive()


class Threads:
    """Background threads that a `with` block joins at its end, so that Ray shuts down only after their last call.

    They are not joined after a `KeyboardInterrupt`.
    """

    def __init__(self) -> None:
        self._started: list[Background] = []

    def __enter__(self) -> "Threads":
        return self

    def start(self, function: Callable[[], object]) -> Background:
        """Run a function in a new thread."""
        self._started.append(Background(function))
        return self._started[-1]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not KeyboardInterrupt:
            for thread in self._started:
                thread.join()
