"""Make items ahead of the one that is used."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

# --- batches, in the training worker

T = TypeVar("T")


class Prefetcher(Iterator[T]):
    """An iterator run ahead of its consumer in a thread, by at most `depth` items."""

    waited: float = 0.0
    """seconds that the consumer waited for the last item"""

    def __init__(self, make: Callable[[], Iterator[T]], depth: int):
        self._items: queue.Queue = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make,), daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[], Iterator[T]]) -> None:
        try:
            for item in make():
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, pair: tuple) -> bool:
        """Wait for room; False once closed."""
        while not self._closed.is_set():
            try:
                self._items.put(pair, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> T:
        return self.within(None)

    def within(self, seconds: float | None) -> T:
        """The next item. Raises `StopIteration` at the end, `queue.Empty` if none comes within so many seconds."""
        start = time.perf_counter()
        item, error = self._items.get(timeout=seconds)
        self.waited = time.perf_counter() - start
        if error is not None:
            self._items.put((None, error))
            raise error
        return item

    def close(self) -> None:
        self._closed.set()
        # It may be waiting for Ray; as a daemon it ends with the process.
        self._thread.join(timeout=2)
