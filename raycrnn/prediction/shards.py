"""Parts of a prediction run on disk, from which an interrupted run resumes."""

import errno
import io
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycrnn import config, storage
from raycrnn.errors import RaycrnnError, UsageError, WriteError
from raycrnn.prediction import formats
from raycrnn.prediction.formats import ROWS, Layout
from raycrnn.storage import Directory

logger = logging.getLogger(__name__)


ROWS_A_SHARD = 4096
SECONDS_A_SHARD = 20.0
"""A shard is closed when it has so many rows or took so long: what a kill costs at most."""


# --- shards


RECORD = "job.json"


def folder_of(output: str) -> str:
    """Where the shards of an output are, a path or a URI."""
    base, mark, options = output.partition("?") if storage.is_uri(output) else (output, "", "")
    folder, slash, name = base.rpartition("/")
    return f"{folder}{slash}.{name}.parts{mark}{options}"


@contextmanager
def open_shards(
    output: str | os.PathLike, job: dict[str, Any], rows: int, resume: bool, overwrite: bool
) -> Iterator["ShardStore"]:
    """The shards of an output, held against other commands. They stay unless `finish` makes the output of them.

    Nothing can be locked in object storage. Of two commands that write there the one that began first ends.

    Args:
        output: path or URI.
        job: what a resumed run must have in common with the one that began; JSON, values by names that users know.
        rows: of the output.
        resume: go on with a run that began.
        overwrite: start anew, if not to resume.

    Raises:
        UsageError: a run that began is in the way, is another one or damaged; the folder cannot be read or written.
    """
    output = os.fspath(output)
    directory = Directory(folder_of(output))
    with _lock(directory.path, output):
        parts = ShardStore(directory, output, rows, overwrite)
        shutil.rmtree(parts.finished, ignore_errors=True)
        try:
            _begin(parts, job, resume, overwrite)
            yield parts
        finally:
            # Storage that does not answer, or is another command's by now, keeps what it has.
            with suppress(OSError, UsageError):
                if parts.folder.exists() and not parts.names():
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


def _begin(parts: "ShardStore", job: dict[str, Any], resume: bool, overwrite: bool) -> None:
    begun, directory = bool(parts.names()), parts.directory
    if begun and resume:
        _check_same(parts.output, _read_job(parts), job)
        directory.claim()
        # Not the names from before: until now another command may have written.
        directory.fetch(*parts.names())
        return
    if begun and not overwrite:
        raise UsageError(
            f"{parts.output}: a run that was stopped has left its finished rows in {directory}: --resume goes on "
            "with it, --overwrite starts anew"
        )
    if resume:
        logger.info(f"{parts.output}: nothing to resume: starting from the beginning")
    try:
        directory.empty()
        directory.claim()
        storage.write_bytes(parts.folder / RECORD, json.dumps(job, ensure_ascii=False, indent=1).encode())
        directory.sync()
    except OSError as error:
        raise UsageError(f"{parts.output}: cannot be written: {storage.describe(error)}") from None


def _read_job(parts: "ShardStore") -> dict[str, Any]:
    try:
        return config.read_json_object(parts.place(RECORD))
    except UsageError as error:
        raise UsageError(f"{parts.output}: cannot be resumed ({error}); --overwrite starts anew") from None


def _check_same(output: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises `UsageError` with what differs. Digests, which tell nobody anything, are objects."""
    pairs = {key: (before.get(key), now.get(key)) for key in dict.fromkeys((*before, *now))}
    changed = [
        f"{key} changed" if any(isinstance(value, dict) for value in pair) else "{}: {} then, {} now".format(key, *pair)
        for key, pair in pairs.items()
        if pair[0] != pair[1]
    ]
    if changed:
        raise UsageError(
            f"{output}: the run to resume is another one ({'; '.join(changed)}): set it back, or start anew with "
            "--overwrite instead of --resume"
        )


@dataclass(frozen=True)
class ShardStore:
    """The shards of an output that is under way."""

    directory: Directory
    output: str
    rows: int
    """of the whole output"""
    overwrite: bool = False
    """whether the output may replace one that is there"""

    @property
    def folder(self) -> Path:
        """Where they are on this machine."""
        return self.directory.path

    def place(self, name: str) -> str:
        """What a user knows one of them by."""
        return storage.join(str(self.directory), name)

    def names(self) -> list[str]:
        """Those of the shards, in object storage those that are there. Raises `UsageError`."""
        return list(filter(SHARD_NAME.fullmatch, self.directory.entries()))

    @property
    def finished(self) -> Path:
        """Where shards are deleted that nobody needs any more."""
        return self.folder.with_name(f"{self.folder.name}.finished")

    def shards(self) -> list["Shard"]:
        """Those on this machine in order, the damaged ones too. What has not exactly the name of one is none."""
        found = [SHARD_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        shards = [Shard(self.folder / match[0], int(match[1]), int(match[2])) for match in found if match]
        return sorted(shards, key=lambda shard: (shard.first, shard.stop))

    def missing(self) -> list[tuple[int, int]]:
        """The rows, first … stop − 1, that no whole shard holds. Damaged shards are told, and deleted."""
        found, position = [], 0
        for shard in self.shards():
            try:
                shard.table()
            except (OSError, ValueError) as error:
                logger.warning(f"{self.place(shard.path.name)}: damaged: its images are read again ({error})")
                shard.path.unlink()
                continue
            if shard.first < position:
                # Of a command that was still uploading it when another took its place, and read these images too.
                shard.path.unlink()
                continue
            found.append((position, shard.first))
            position = shard.stop
        found.append((position, self.rows))
        return [(first, stop) for first, stop in found if first < stop]

    def keep(self, name: str, data: bytes | memoryview) -> None:
        """Write a shard.

        Raises:
            WriteError: the disk is full, the storage refuses; the shards before it stay.
            RaycrnnError: another command has begun to write the output.
        """
        try:
            storage.write_bytes(self.folder / name, data)
        except OSError as error:
            raise _cannot_write(self.folder / name, error) from None
        self._push()

    def _push(self) -> None:
        try:
            self.directory.sync()
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise RaycrnnError(
                    f"{self.output}: another command has begun to write it since: wait, or name another output"
                ) from None
            raise _cannot_write(self.directory, error) from None

    def finish(self, layout: Layout) -> int:
        """Make the output of the shards, and delete them; returns how many images were read.

        Raises:
            RaycrnnError: a shard that is damaged by now, a full disk, storage that refuses, an output that has
                appeared, another command that has begun to write it; the shards stay.
        """
        # Its name begins with a dot, so that it is not taken for something to upload among the shards.
        temporary = self.folder / ".output"
        try:
            read = self._assemble(temporary, layout)
            self._push()
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
                logger.warning(f"{self.directory}: not needed any more, but not deleted: {storage.describe(error)}")
            return
        # In one step: of a folder that a kill left half deleted nobody could say what it was.
        self.folder.rename(self.finished)
        shutil.rmtree(self.finished, ignore_errors=True)

    def _check_free(self) -> None:
        if storage.exists(self.output) and not self.overwrite:
            raise RaycrnnError(
                f"{self.output}: somebody has made it meanwhile: move it away and go on with --resume, or replace it "
                "with --resume --overwrite; finished rows are kept"
            )

    def _assemble(self, path: Path, layout: Layout) -> int:
        with formats.open_file(path, layout) as file:
            writer = formats.make_writer(file, layout)
            for shard in self.shards():
                writer.write(self._whole_table(shard))
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        return writer.read

    def _whole_table(self, shard: "Shard") -> pa.Table:
        try:
            return shard.table()
        except (OSError, ValueError) as error:
            place = self.place(shard.path.name)
            raise RaycrnnError(f"{place}: damaged; --resume reads its images again: {error}") from None


SHARD_NAME = re.compile(r"(\d{12})_(\d{12})\.parquet")


@dataclass(frozen=True)
class Shard:
    """A file of finished rows."""

    path: Path
    first: int
    stop: int

    def table(self) -> pa.Table:
        """Raises `OSError` or `ValueError` if it is not what was written."""
        table = pq.ParquetFile(self.path, page_checksum_verification=True).read()
        if len(table) != self.stop - self.first or not table.schema.equals(ROWS):
            raise ValueError(f"{len(table)} rows in {len(table.schema)} columns")
        return table


@dataclass
class ShardWriter:
    """Rows from `first` on that become shards as they come."""

    parts: ShardStore
    first: int
    _held: list[pa.Table] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def write(self, table: pa.Table) -> None:
        """Take the next rows, if there are any; a shard that is due is closed. Raises as `Parts.keep`."""
        self._held.append(table)
        if sum(map(len, self._held)) >= ROWS_A_SHARD or time.monotonic() - self._since > SECONDS_A_SHARD:
            self.close()

    def close(self) -> None:
        """Write what is held."""
        table = pa.concat_tables(self._held) if self._held else ROWS.empty_table()
        self._held, self._since = [], time.monotonic()
        if not len(table):
            return
        stop = self.first + len(table)
        data = io.BytesIO()
        pq.write_table(table, data, write_page_checksum=True)
        self.parts.keep(f"{self.first:012d}_{stop:012d}.parquet", data.getbuffer())
        self.first = stop


def _cannot_write(place: object, error: OSError) -> WriteError:
    return WriteError(
        f"{place}: cannot be written: {storage.describe(error)}; finished rows are kept, and --resume goes on with them"
    )
