"""Files and directories that are replaced as a whole, and locks on them."""

import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycrnn.errors import UsageError
from raycrnn.storage.directory import Directory


@contextmanager
def alone_in(place: Directory) -> Iterator[None]:
    """Make the output directory and hold it while training. Raises `UsageError` if it cannot be had.

    One in object storage is to be taken besides (`Directory.take`), when nothing is refused any more: that ends another
    command which writes there.
    """
    output = place.path
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UsageError(f"{place}: cannot be written: {error.strerror}") from None
    directory = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"{place}: another command trains in it: wait, or choose another output_model_dir") from None
    finally:
        os.close(directory)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(path)


def replace_directory(new: Path, old: Path) -> None:
    """Put a directory in the place of another, in one step where the system can exchange two names."""
    if not old.exists():
        new.rename(old)
        return
    if not _exchange(new, old):
        aside = new.with_name(new.name + ".old")
        old.rename(aside)
        new.rename(old)
        new = aside
    shutil.rmtree(new)


def _exchange(first: Path, second: Path) -> bool:
    """Linux's renameat2(2) with RENAME_EXCHANGE; False where the system or the file system lacks it."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    working_directory, exchange = -100, 2
    return (
        renameat2 is not None
        and renameat2(working_directory, os.fsencode(first), working_directory, os.fsencode(second), exchange) == 0
    )
