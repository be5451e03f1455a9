"""The directory of an evaluation report, which is written under a temporary name and renamed when it is complete."""

import errno
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from raycrnn import config, storage
from raycrnn.data.inputs import is_one_of
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.storage import LOCK

FILES = ("index.html", "lines.csv", "rejected.csv", "report.json")
"""Names of the files of a report."""

TEMPORARY = ".report."
"""Prefix of the names of folders in which reports are written."""


@contextmanager
def directory(name: str, overwrite: bool, inputs: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder for a report, whose files are moved to the directory when the block ends.

    If the block raises an error, the directory stays unchanged.

    Args:
        name: path of the directory as the user typed it.
        overwrite: replace the report in the directory, if there is one.
        inputs: files that are read, and are never replaced.

    Raises:
        UsageError: the directory is in use, before or after the block, or cannot be written.
        RaycrnnError: the files cannot be moved to the directory.
    """
    path = Path(name).resolve()
    with ExitStack() as stack:
        try:
            _check_free(name, path, overwrite, inputs)
            temporary = stack.enter_context(_temporary_directory(path))
        except OSError as error:
            raise UsageError(f"{name}: cannot be written: {error.strerror}") from None
        yield temporary
        with translate_write_errors(name):
            _check_free(name, path, overwrite, inputs)
            _move(temporary, path)


def check_free_in_storage(place: storage.Directory, overwrite: bool, inputs: Sequence[str]) -> None:
    """Raise `UsageError` if a directory in object storage contains files that may not be replaced."""
    entries = place.entries()
    # `directory` then checks the local copy like a directory on a disk.
    place.fetch("report.json")
    if entries and not overwrite:
        raise UsageError(f"{place}: already exists and is not empty; --overwrite replaces the report in it")
    if entries and "report.json" not in entries:
        raise UsageError(f"{place}: contains other files and no report; name another directory")
    for file in FILES:
        if is_one_of(storage.join(str(place), file), inputs):
            raise UsageError(f"{place}: {file} in it is one of the CSVs that are read; name another directory")


def _check_free(name: str, path: Path, overwrite: bool, inputs: Sequence[str]) -> None:
    """Raise `UsageError` if the directory contains files that may not be replaced."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{name}: is a file; name a directory for the report")
    for file in FILES:
        if is_one_of(path / file, inputs):
            raise UsageError(f"{name}: {file} in it is one of the CSVs that are read; name another directory")
    if not path.is_dir() or all(entry.name.startswith(TEMPORARY) for entry in path.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{name}: already exists and is not empty; --overwrite replaces the report in it")
    if not _is_report(path / "report.json"):
        raise UsageError(f"{name}: contains other files and no report; name another directory")


def _is_report(path: Path) -> bool:
    """Return whether a report.json was written by raycrnn."""
    try:
        return {"model", "cer", "confusions"} <= config.read_json_object(path).keys()
    except UsageError:
        return False


@contextmanager
def _temporary_directory(path: Path) -> Iterator[Path]:
    """Create a temporary folder for a report and lock it. Those that killed commands left are deleted."""
    # In the directory itself if it exists, since its parent may not be writable.
    parent, prefix = (path, TEMPORARY) if path.is_dir() else (path.parent, f"{TEMPORARY}{path.name}.")
    parent.mkdir(parents=True, exist_ok=True)
    for name in {entry.name.removesuffix(LOCK) for entry in parent.iterdir() if entry.name.startswith(prefix)}:
        _delete_if_left(parent / name)
    temporary = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
    with _lock(temporary):
        try:
            temporary.mkdir()
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _lock(folder: Path) -> AbstractContextManager[bool]:
    # Beside the folder, which contains only the files of the report.
    return storage.lock(folder.with_name(f"{folder.name}{LOCK}"), BlockingIOError(errno.EWOULDBLOCK, "in use"))


def _delete_if_left(folder: Path) -> None:
    with suppress(OSError), _lock(folder) as locked:
        # Without locks it may be the folder of a command that still runs.
        if locked:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def translate_write_errors(name: str) -> Iterator[None]:
    """Turn errors of the operating system into a `RaycrnnError` that names the report."""
    try:
        yield
    except OSError as error:
        raise RaycrnnError(f"{name}: the report cannot be written: {error.strerror}") from None


def _move(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    # Other files in the directory belong to the user and stay.
    for file in temporary.iterdir():
        file.replace(path / file.name)
