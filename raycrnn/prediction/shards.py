"""Shards of the output of a prediction run, from which a run that was stopped resumes.

Shards hold finished rows in `.NAME.parts` beside the output NAME, no matter its format: `FIRST_STOP.parquet` the rows
FIRST … STOP − 1 in input order, and `job.json` what a resumed run must have in common with the run that it resumes. In
object storage they are copies of those on this machine, uploaded as they are finished.
"""

import errno
import io
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raycrnn import config, storage
from raycrnn.errors import RaycrnnError, UsageError, WriteError
from raycrnn.prediction import formats
from raycrnn.prediction.formats import ROWS, Layout
from raycrnn.storage import Directory

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 4096
"""A shard with this many rows is written, so that a kill costs no more."""

SECONDS_PER_SHARD = 20.0
"""A shard is written after this many seconds, even if it has fewer rows."""

RECORD = "job.json"
"""Name of the file that identifies the run."""


def folder_of(output: str) -> str:
    """Return the path or URI of the folder that holds the shards of an output."""
    base, mark, options = output.partition("?") if storage.is_uri(output) else (output, "", "")
    folder, slash, name = base.rpartition("/")
    return f"{folder}{slash}.{name}.parts{mark}{options}"


@contextmanager
def open_shards(
    output: str | os.PathLike[str], job: Mapping[str, object], rows: int, resume: bool, overwrite: bool
) -> Iterator["ShardStore"]:
    """Lock the shards of an output for the duration of the block. They stay unless `finish` turns them into the output.

    Object storage has no locks: of two commands that write there, the one that started first fails.

    Args:
        output: path or URI.
        job: what a resumed run must have in common with the run that it resumes, as JSON by names that users know.
        rows: number of rows of the output.
        resume: resume a run that was stopped.
        overwrite: start over if a run was stopped, unless it is resumed.

    Raises:
        UsageError: a stopped run is in the way, is a different one or damaged, or the folder cannot be read or written.
    """
    output = os.fspath(output)
    directory = Directory(folder_of(output))
    with _lock(directory.path, output):
        store = ShardStore(directory, output, rows, overwrite)
        shutil.rmtree(store.finished, ignore_errors=True)
        try:
            _prepare(store, job, resume, overwrite)
            yield store
        finally:
            # Storage that does not answer, or that another command has claimed, is left as it is.
            with suppress(OSError, UsageError):
                if store.folder.exists() and not store.names():
                    directory.delete()


@contextmanager
def _lock(folder: Path, output: str) -> Iterator[None]:
    busy = UsageError(f"{output}: another command writes it: wait, or name another output")
    with ExitStack() as stack:
        try:
            folder.mkdir(exist_ok=True)
            stack.enter_context(storage.lock(folder / storage.LOCK, busy))
        except OSError as error:
            raise UsageError(f"{output}: cannot be written: {error.strerror}") from None
        yield


def _prepare(store: "ShardStore", job: Mapping[str, object], resume: bool, overwrite: bool) -> None:
    directory, has_shards = store.directory, bool(store.names())
    if has_shards and resume:
        _check_same(store.output, _read_job(store), job)
        directory.claim()
        # List them again: until now another command may have written.
        directory.fetch(*store.names())
        return
    if has_shards and not overwrite:
        raise UsageError(
            f"{store.output}: a run that was stopped left its finished rows in {directory}: --resume continues it, "
            "--overwrite starts over"
        )
    if resume:
        logger.info(f"{store.output}: nothing to resume: starting from the beginning")
    try:
        directory.empty()
        directory.claim()
        storage.write_bytes(store.folder / RECORD, json.dumps(dict(job), ensure_ascii=False, indent=1).encode())
        directory.sync()
    except OSError as error:
        raise UsageError(f"{store.output}: cannot be written: {storage.describe(error)}") from None


def _read_job(store: "ShardStore") -> Mapping[str, object]:
    try:
        return config.read_json_object(store.place(RECORD))
    except UsageError as error:
        raise UsageError(f"{store.output}: cannot be resumed ({error}); --overwrite starts over") from None


def _check_same(output: str, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Raise `UsageError` if a run differs, naming what does. Digests are objects, whose values are not shown."""
    pairs = {key: (before.get(key), now.get(key)) for key in dict.fromkeys((*before, *now))}
    changed = [
        f"{key} changed" if any(isinstance(value, dict) for value in pair) else "{}: {} then, {} now".format(key, *pair)
        for key, pair in pairs.items()
        if pair[0] != pair[1]
    ]
    if changed:
        raise UsageError(
            f"{output}: the run to resume is a different one ({'; '.join(changed)}): change it back, or start over "
            "with --overwrite instead of --resume"
        )


@dataclass(frozen=True)
class ShardStore:
    """The shards of an output that is being written."""

    directory: Directory
    output: str
    """Path or URI."""
    rows: int
    """Number of rows of the output."""
    overwrite: bool = False
    """Whether the output may replace an existing one."""

    @property
    def folder(self) -> Path:
        """Where the shards are on this machine."""
        return self.directory.path

    def place(self, name: str) -> str:
        """Return the path or URI of a file of the store, for messages."""
        return storage.join(str(self.directory), name)

    def names(self) -> list[str]:
        """Return the names of the shards, for a URI those in object storage. Raises `StorageError`."""
        return list(filter(SHARD_NAME.fullmatch, self.directory.entries()))

    @property
    def finished(self) -> Path:
        """What the folder is renamed to before it is deleted."""
        return self.folder.with_name(f"{self.folder.name}.finished")

    def shards(self) -> list["Shard"]:
        """Return the shards on this machine in order, damaged ones included."""
        matches = [SHARD_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        shards = [Shard(self.folder / match[0], int(match[1]), int(match[2])) for match in matches if match]
        return sorted(shards, key=lambda shard: (shard.first, shard.stop))

    def missing(self) -> list[tuple[int, int]]:
        """Return the ranges of rows, (first, stop), that are in no intact shard. Damaged shards are deleted."""
        gaps, position = [], 0
        for shard in self.shards():
            try:
                shard.table()
            except (OSError, ValueError) as error:
                logger.warning(f"{self.place(shard.path.name)}: damaged ({error}): its images are read again")
                shard.path.unlink()
                continue
            if shard.first < position:
                # Two shards overlap if a command was still uploading when another one claimed the directory.
                shard.path.unlink()
                continue
            gaps.append((position, shard.first))
            position = shard.stop
        gaps.append((position, self.rows))
        return [(first, stop) for first, stop in gaps if first < stop]

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Write a shard.

        Raises:
            WriteError: the disk is full or the storage refuses; earlier shards stay.
            RaycrnnError: another command has started to write the output.
        """
        try:
            storage.write_bytes(self.folder / name, data)
        except OSError as error:
            raise _cannot_write(self.folder / name, error) from None
        self._sync()

    def _sync(self) -> None:
        try:
            self.directory.sync()
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise RaycrnnError(
                    f"{self.output}: another command has started to write it: wait, or name another output"
                ) from None
            raise _cannot_write(self.directory, error) from None

    def finish(self, layout: Layout) -> int:
        """Write the output from the shards, delete them, and return how many images were read.

        Raises:
            RaycrnnError: a shard is damaged, the disk is full, the storage refuses, the output was created by somebody
                else, or another command has started to write it; the shards stay.
        """
        # Files whose name begins with a dot are not uploaded with the shards.
        temporary = self.folder / ".output"
        try:
            read = self._assemble(temporary, layout)
            self._sync()
            self._check_free()
            storage.move(temporary, self.output)
            self._delete()
        except OSError as error:
            raise _cannot_write(self.output, error) from None
        return read

    def _delete(self) -> None:
        if self.directory.uri:
            try:
                self.directory.delete()
            except OSError as error:
                logger.warning(f"{self.directory}: no longer needed, but cannot be deleted: {storage.describe(error)}")
            return
        # Renamed first, so that a kill in between does not leave half a folder that looks like a stopped run.
        self.folder.rename(self.finished)
        shutil.rmtree(self.finished, ignore_errors=True)

    def _check_free(self) -> None:
        if storage.exists(self.output) and not self.overwrite:
            raise RaycrnnError(
                f"{self.output}: was created while this command ran: move it away and continue with --resume, or "
                "replace it with --resume --overwrite; finished rows are kept"
            )

    def _assemble(self, path: Path, layout: Layout) -> int:
        with formats.open_file(path, layout) as file:
            writer = formats.make_writer(file, layout)
            for shard in self.shards():
                writer.write(self._read(shard))
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        return writer.read

    def _read(self, shard: "Shard") -> pa.Table:
        try:
            return shard.table()
        except (OSError, ValueError) as error:
            place = self.place(shard.path.name)
            raise RaycrnnError(f"{place}: damaged ({error}); --resume reads its images again") from None


SHARD_NAME = re.compile(r"(\d{12})_(\d{12})\.parquet")


@dataclass(frozen=True)
class Shard:
    """A file of finished rows."""

    path: Path
    first: int
    stop: int

    def table(self) -> pa.Table:
        """Return the rows. Raises `OSError` or `ValueError` if the file is damaged."""
        table = pq.ParquetFile(self.path, page_checksum_verification=True).read()
        if len(table) != self.stop - self.first or not table.schema.equals(ROWS):
            raise ValueError(f"{len(table)} rows in {len(table.schema)} columns")
        return table


@dataclass
class ShardWriter:
    """Writes rows, as they come, to shards of limited size."""

    store: ShardStore
    first: int
    """Number of the next shard's first row."""
    _held: list[pa.Table] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def write(self, table: pa.Table) -> None:
        """Add the next rows, and write a shard if it is due. Raises the errors of `ShardStore.add`."""
        self._held.append(table)
        if sum(map(len, self._held)) >= ROWS_PER_SHARD or time.monotonic() - self._since > SECONDS_PER_SHARD:
            self.close()

    def close(self) -> None:
        """Write the remaining rows."""
        table = pa.concat_tables(self._held) if self._held else ROWS.empty_table()
        self._held, self._since = [], time.monotonic()
        if not len(table):
            return
        stop = self.first + len(table)
        data = io.BytesIO()
        pq.write_table(table, data, write_page_checksum=True)
        self.store.add(f"{self.first:012d}_{stop:012d}.parquet", data.getbuffer())
        self.first = stop


def _cannot_write(place: object, error: OSError) -> WriteError:
    return WriteError(
        f"{place}: cannot be written: {storage.describe(error)}; finished rows are kept, and --resume continues"
    )
