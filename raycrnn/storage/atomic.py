"""Files and directories that are replaced in one step, and locks.

What is being written to `NAME` is named `.NAME.PID` until it is complete. While a directory is replaced, its old
version is named `.NAME.PID.old`.
"""

import errno
import glob
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from raycrnn.storage.normal_forms import in_other_form

logger = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
"""Errors of flock(2) on file systems without locks: Lustre and NFS with some mount options, some FUSE file systems."""

SECONDS_TO_REPLACE = 0.1
"""Seconds that a reader waits for a directory that is being replaced, which takes two renames."""


# --- replacing


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, whose file is flushed to disk and renamed to `path` when the block ends.

    A reader sees the old file or the new one. If the block raises an error, the old file stays and the temporary one
    is deleted. Raises `OSError`.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 in one step, without changing line ends; see `replacing_file`. Raises `OSError`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file in one step; see `replacing_file`. Raises `OSError`."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing_directory(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield an empty directory, which replaces `path` when the block ends, after its files are flushed to disk.

    If the block raises an error, the old directory stays. Readers must call `current_directory`, because the old
    directory is renamed before the new one is.

    Args:
        path: the directory to replace or to create.
        flush: False if the block flushes its files itself: one by one takes milliseconds for each.

    Raises:
        OSError: the disk is full, for example.
    """
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*") if flush else ():
            if file.is_file():
                _flush(file)
        _replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def current_directory(path: Path) -> Path:
    """Return `path`, or the old version of the directory if a process was killed while it replaced it.

    The directory is also found if its name is in another Unicode normal form.
    """
    if path.exists():
        return path
    if not _old_versions(path):
        return Path(in_other_form(str(path)) or path)
    time.sleep(SECONDS_TO_REPLACE)
    return path if path.exists() else next(iter(_old_versions(path)), path)


def restore_directory(path: Path) -> None:
    """Rename the old version of a directory back if a process was killed while it replaced it. Raises `OSError`."""
    if not path.exists():
        for old in _old_versions(path)[:1]:
            old.rename(path)


def _replace(new: Path, path: Path) -> None:
    old = new.with_name(f"{new.name}.old")
    try:
        path.rename(old)
    except FileNotFoundError:
        new.rename(path)
        return
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _old_versions(path: Path) -> list[Path]:
    return list(path.parent.glob(f".{glob.escape(path.name)}.*.old"))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


# --- locks

LOCK = ".lock"
"""Name of the file that a command locks in a directory while it writes there."""


@contextmanager
def lock(file: Path, busy: Exception, timeout: float = 0.0) -> Iterator[bool]:
    """Hold a lock on a file, which is deleted at the end. The lock ends with the process, even if it is killed.

    On a file system without locks, a warning is logged once for each folder, and nothing is locked. A file that names
    the process would be no replacement: after a node has died, nobody would delete it.

    Args:
        file: `folder / LOCK` to lock a folder.
        busy: what to raise if another process holds the lock.
        timeout: seconds to wait for it.

    Yields:
        Whether the lock is held: False on a file system without locks.

    Raises:
        OSError: the file cannot be written.
    """
    import filelock

    held = filelock.FileLock(file, thread_local=False, fallback_to_soft=False)
    try:
        held.acquire(timeout)
    except filelock.Timeout:
        raise busy from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _warn_without_locks(file.parent, os.strerror(error.errno))
    identity = _identity(file)
    try:
        yield held.is_locked
    finally:
        # Not the file of another process, if the folder was moved or deleted.
        if identity is not None and _identity(file) == identity:
            file.unlink(missing_ok=True)
        held.release()


@cache
def _warn_without_locks(folder: Path, problem: str) -> None:
    logger.warning(
        f"{folder}: its file system has no locks ({problem}), so raycrnn cannot tell whether another command writes "
        "there: make sure that none does"
    )


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        state = path.stat()
        return state.st_dev, state.st_ino
    return None
