"""Threads that are joined before Ray shuts down."""

import threading
from collections.abc import Callable

SECONDS_TO_END = 60.0
"""for a thread that has no more to do; one that is still in Ray when Python ends may crash it."""


class Threads:
    """Threads that are waited for before Ray goes: what they do with it must not be cut off by its end."""

    def __init__(self) -> None:
        self._started: list[Background] = []

    def __enter__(self) -> "Threads":
        return self

    def start(self, function: Callable[[], None]) -> "Background":
        self._started.append(Background(function))
        return self._started[-1]

    def __exit__(self, kind: type | None, *_: object) -> None:
        # Who presses Ctrl-C twice waits for nothing.
        for thread in self._started if kind is not KeyboardInterrupt else ():
            thread.join(SECONDS_TO_END)


class Background:
    """A function in a thread that ends with the process."""

    def __init__(self, function: Callable[[], None]):
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            self.error = error

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()
