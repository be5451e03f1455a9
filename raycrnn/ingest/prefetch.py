"""Run an iterator in a thread, ahead of its consumer."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Iterator[T], Generic[T]):
    """An iterator that makes up to `depth` items ahead of its consumer, in a thread."""

    waited: float = 0.0
    """Seconds that the consumer waited for the last item."""

    def __init__(self, make: Callable[[], Iterator[T]], depth: int):
        self._items: queue.Queue[T | _End] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make,), daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[], Iterator[T]]) -> None:
        try:
            for item in make():
                if not self._put(item):
                    return
            self._put(_End(StopIteration()))
        except BaseException as error:
            self._put(_End(error))

    def _put(self, item: "T | _End") -> bool:
        """Wait until there is room and put an item into the queue; return False if the prefetcher is closed."""
        while not self._closed.is_set():
            try:
                self._items.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> T:
        return self.next_within(None)

    def next_within(self, seconds: float | None) -> T:
        """Return the next item.

        Args:
            seconds: Seconds to wait for it; None: without a limit.

        Raises:
            StopIteration: There are no more items.
            queue.Empty: No item came in time.
        """
        start = time.perf_counter()
        item = self._items.get(timeout=seconds)
        self.waited = time.perf_counter() - start
        if isinstance(item, _End):
            # Later calls raise it again.
            self._items.put(item)
            raise item.error
        return item

    def close(self) -> None:
        """Stop making items. The thread may still be in a call of Ray's afterwards."""
        self._closed.set()
        self._thread.join(timeout=2)


class _End:
    """The end of the items, and the error that ended them."""

    def __init__(self, error: BaseException):
        self.error = error
