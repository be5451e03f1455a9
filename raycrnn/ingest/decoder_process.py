"""Decode images in a process of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

import pyarrow as pa

from raycrnn.console import signals_blocked
from raycrnn.errors import RaycrnnError

TRIES_ALONE = 2
"""Tries for an image alone after its process has died, which may have been killed for another reason."""

BlockDecoder = Callable[[pa.Table], pa.Table]
"""Returns a row for each image of a block. A function that can be pickled."""


class DecoderProcess:
    """A process that decodes images, so that an image that crashes its decoder does not end the command.

    Args:
        decode: Decodes a block of images.
        died: The result for an image that ends the process, a table of one row.
    """

    def __init__(self, decode: BlockDecoder, died: pa.Table):
        self._decode, self._died = decode, died
        self._closed = False
        # Another thread may close the decoder while this one starts its process again.
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        """Start the process, unless the decoder is closed."""
        # A forked process could inherit a lock that another thread holds.
        context = multiprocessing.get_context("spawn")
        with self._lock:
            if self._closed:
                return
            self._connection, other_end = context.Pipe()
            self._process = context.Process(target=_answer, args=(other_end, self._decode), daemon=True)
            # multiprocessing starts it for the first process, and then unblocks these signals.
            resource_tracker.ensure_running()
            # Ctrl-C also while the process starts: it would print a traceback.
            with signals_blocked(signal.SIGTERM, signal.SIGINT):
                self._process.start()
            # The connection breaks when the process ends only if it alone has this end.
            other_end.close()
            self._is_ready = False

    def decode_ahead(self, blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the decoded table of each block, and decode the next block meanwhile.

        Args:
            blocks: Tables with one row per image.

        Raises:
            RaycrnnError: The process does not start.
            Exception: Any error that decoding a block raises.
        """
        iterator = iter(blocks)
        block = next(iterator, None)
        if block is not None:
            self._send(block)
        while block is not None:
            decoded = self._receive(block)
            block = next(iterator, None)
            if block is not None:
                self._send(block)
            yield decoded

    def _send(self, block: pa.Table) -> None:
        # If the process has died, `_receive` notices.
        with suppress(ConnectionError):
            self._connection.send(block)

    def _receive(self, block: pa.Table) -> pa.Table:
        try:
            return self._reply()
        except (EOFError, ConnectionError):
            # Until it is joined, it may still count as alive.
            self._process.join()
            return pa.concat_tables([self._decode_alone(block.slice(row, 1)) for row in range(len(block))])

    def _reply(self) -> pa.Table:
        """Return the reply to the last block. Raises `EOFError` or `ConnectionError` if the process has died."""
        if not self._is_ready:
            self._wait_until_ready()
        reply = self._connection.recv()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _wait_until_ready(self) -> None:
        try:
            self._connection.recv()
        except (EOFError, ConnectionError):
            if self._closed:
                raise
            self._process.join()
            code = self._process.exitcode
            raise RaycrnnError(f"the process that decodes images ended with exit code {code} before it began") from None
        self._is_ready = True

    def _decode_alone(self, row: pa.Table) -> pa.Table:
        for _ in range(TRIES_ALONE):
            if not self._process.is_alive():
                self._start()
            with suppress(EOFError, ConnectionError):
                self._send(row)
                return self._reply()
            self._process.join()
        return self._died

    def close(self) -> None:
        """End the process, for which Python would wait without end otherwise."""
        with self._lock:
            self._closed = True
            self._process.kill()
        self._process.join()


def _answer(connection: Connection, decode: BlockDecoder) -> None:
    """Decode the blocks that come through a connection until its other end is closed."""
    # Libraries in C print warnings of their own there. What matters is in the replies.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with suppress(EOFError, ConnectionError):
        connection.send(None)
        while True:
            block = connection.recv()
            try:
                reply = decode(block)
            except Exception as error:
                reply = error
            connection.send(reply)
