"""Decode images in a process of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

import pyarrow as pa

from raycrnn.console import sigterm_blocked
from raycrnn.errors import RaycrnnError
from raycrnn.prediction import image_stage
from raycrnn.prediction.job import ImageSettings
from raycrnn.prediction.tables import DECODED


class Decoder:
    """A process that decodes images, so that an image that crashes its decoder does not end the command."""

    def __init__(self, settings: Sequence[ImageSettings]):
        self._settings = settings
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
            arguments = other_end, self._settings
            self._process = context.Process(target=_answer, args=arguments, daemon=True)
            with sigterm_blocked():
                self._process.start()
            # The connection breaks when the process ends only if it alone has this end.
            other_end.close()
            self._is_ready = False

    def decode_ahead(self, blocks: Sequence[pa.Table]) -> Iterator[pa.Table]:
        """Yield a table of `tables.DECODED` for each block, and decode the next block meanwhile.

        Args:
            blocks: Tables with the columns `path` and `problem` of `inputs.INPUTS`.

        Raises:
            RaycrnnError: The process does not start.
        """
        for number, block in enumerate(blocks):
            if number == 0:
                self._send(block)
            decoded = self._receive(block)
            if number + 1 < len(blocks):
                self._send(blocks[number + 1])
            yield decoded

    def _send(self, block: pa.Table) -> None:
        # If the process has died, `_receive` notices.
        with suppress(ConnectionError):
            self._connection.send(block)

    def _receive(self, block: pa.Table) -> pa.Table:
        try:
            return self._reply()
        except (EOFError, ConnectionError):
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
        for _ in range(image_stage.TRIES_ALONE):
            if not self._process.is_alive():
                self._start()
            with suppress(EOFError, ConnectionError):
                self._send(row)
                return self._reply()
            self._process.join()
        return pa.Table.from_pylist([image_stage.DECODER_DIED], DECODED)

    def close(self) -> None:
        """End the process, for which Python would wait without end otherwise."""
        with self._lock:
            self._closed = True
            self._process.kill()
        self._process.join()


def _answer(connection: Connection, settings: Sequence[ImageSettings]) -> None:
    """Decode the blocks that come through a connection until its other end is closed."""
    # Ctrl-C reaches all processes of a terminal. The command decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries in C print warnings of their own there. What matters is in the replies.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with suppress(EOFError, ConnectionError):
        connection.send(None)
        while True:
            block = connection.recv()
            try:
                reply = image_stage.decode_table(block, lambda paths: image_stage.decode_images(paths, settings))
            except Exception as error:
                reply = error
            connection.send(reply)
