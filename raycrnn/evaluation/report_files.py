"""The directory of an evaluation report: made anew, and renamed into place when whole."""

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

# --- files

FILES = ("index.html", "lines.csv", "rejected.csv", "report.json")

TEMPORARY = ".report."
"""What the names begin with of folders in which reports are made."""


@contextmanager
def directory(name: str, overwrite: bool, inputs: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to write a report to, whose files take their place when the block ends without an error.

    Args:
        inputs: files that are read, and never replaced.

    Raises:
        UsageError: the place is taken, by then or at the end; or it cannot be written to.
        RaycrnnError: the files cannot be put in their place.
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
    """Raises `UsageError` if something is in a directory of object storage that is not to be replaced."""
    held = place.entries()
    # With what it says of itself the copy here is judged as a directory on a disk is.
    place.fetch("report.json")
    if held and not overwrite:
        raise UsageError(f"{place}: already there and not empty; --overwrite replaces a report")
    if held and "report.json" not in held:
        raise UsageError(f"{place}: holds no report that --overwrite could replace, but other files; name another one")
    for file in FILES:
        if is_one_of(storage.join(str(place), file), inputs):
            raise UsageError(f"{place}: {file} in it is one of the CSVs that are read; name another directory")


def _check_free(name: str, path: Path, overwrite: bool, inputs: Sequence[str]) -> None:
    """Raises `UsageError` if something is there that is not to be replaced."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{name}: is a file; name a directory for the report")
    for file in FILES:
        if is_one_of(path / file, inputs):
            raise UsageError(f"{name}: {file} in it is one of the CSVs that are read; name another directory")
    if not path.is_dir() or all(entry.name.startswith(TEMPORARY) for entry in path.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{name}: already there and not empty; --overwrite replaces the report in it")
    if not _is_report(path / "report.json"):
        raise UsageError(f"{name}: holds no report that --overwrite could replace, but other files; name another one")


def _is_report(path: Path) -> bool:
    """Whether a report.json is one of ours."""
    try:
        return {"model", "cer", "confusions"} <= config.read_json_object(path).keys()
    except UsageError:
        return False


@contextmanager
def _temporary_directory(path: Path) -> Iterator[Path]:
    """Make a directory for a report that is being written, and lock it. Those of killed commands are deleted."""
    # In the directory itself if it is there, whose neighbourhood may not be ours to write to.
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


def _lock(folder: Path) -> AbstractContextManager[None]:
    # Beside the directory, whose files are those of the report.
    return storage.lock(folder.with_name(f"{folder.name}{LOCK}"), BlockingIOError(errno.EWOULDBLOCK, "in use"))


def _delete_if_left(folder: Path) -> None:
    with suppress(OSError), _lock(folder):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def translate_write_errors(name: str) -> Iterator[None]:
    """What the system refuses is an error that names the report."""
    try:
        yield
    except OSError as error:
        raise RaycrnnError(f"{name}: the report cannot be written: {error.strerror}") from None


def _move(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    # What else the directory holds is the user's.
    for file in temporary.iterdir():
        file.replace(path / file.name)
