"""An output directory on a disk or in object storage."""

import errno
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from raycrnn.errors import StorageError, UsageError
from raycrnn.storage import files
from raycrnn.storage.atomic import LOCK, current_directory, lock

OWNER = "owner"
"""Name of the object that identifies the command that writes to a directory in object storage, which has no locks."""


class Directory:
    """An output directory: on a disk, or in object storage with a copy on a local disk.

    Files are written to `path` in both cases. `sync` then uploads them to object storage in the order of their
    modification times, so that the file that was written last, and marks the others as complete, is uploaded last.
    `str` returns the path or URI as the user typed it.
    """

    def __init__(self, place: str | os.PathLike[str], owner: str | None = None):
        """Open a directory, without creating it.

        Args:
            place: path or URI.
            owner: the `owner` of a directory in object storage that another process of this command has claimed.
        """
        self._place = os.fspath(place)
        self.uri = self._place if files.is_uri(self._place) else None
        self.owner = owner
        self._known: dict[str, tuple[int, int]] = {}
        if self.uri:
            self._copy = tempfile.TemporaryDirectory(prefix="raycrnn-", ignore_cleanup_errors=True)
            self.path = Path(self._copy.name)
        else:
            self.path = Path(self._place)

    def __str__(self) -> str:
        return self._place

    def entries(self, *below: str) -> set[str]:
        """Return the names of the files and folders in the directory, or in a folder below it.

        Returns an empty set if there is no such directory. Raises `StorageError`.
        """
        if not self.uri:
            folder = self.path.joinpath(*below)
            return {path.name for path in folder.iterdir()} - {LOCK} if folder.exists() else set()
        with self._reading():
            return set(files.listdir(files.join(self.uri, *below))) - {OWNER}

    def files(self, *below: str) -> set[str]:
        """Return the relative names of all files in the directory, or in a folder below it, at any depth.

        Returns an empty set if there is no such directory. Object storage may list folders whose files were deleted;
        they are not included. Raises `StorageError`.
        """
        if not self.uri:
            folder = self.path.joinpath(*below)
            return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        with self._reading():
            return set(files.names(files.join(self.uri, *below))) - {OWNER}

    def fetch(self, *names: str) -> None:
        """Download the files and folders of these names from object storage. Raises `StorageError`."""
        if not self.uri:
            return
        with self._reading():
            with ThreadPoolExecutor(files.REQUESTS_AT_A_TIME) as readers:
                found = list(itertools.chain.from_iterable(readers.map(self._files_of, names)))
            files.download(self.uri, self.path, found)
        self._known.update({name: self._state(name) for name in found})

    def _files_of(self, name: str) -> list[str]:
        """Return the files of a folder in object storage, the name itself if it is a file, or an empty list."""
        place = files.join(self._place, name)
        return [f"{name}/{below}" for below in files.names(place)] or [name] * files.is_file(place)

    def remove(self, name: str) -> None:
        """Delete a file or a folder, if it exists. Raises `OSError`."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if self.uri:
            with self._writing():
                files.delete(self._uri_of(name))
            for file in [file for file in self._known if file == name or file.startswith(f"{name}/")]:
                del self._known[file]

    def claim(self) -> None:
        """Claim a directory in object storage: `sync` of a command that claimed it before fails from now on.

        Raises `StorageError`.
        """
        if not self.uri:
            return
        self.owner = uuid.uuid4().hex
        try:
            files.write(files.join(self.uri, OWNER), self.owner.encode())
        except OSError as error:
            raise StorageError(f"{files.redacted(self._place)}: cannot be written: {files.describe(error)}") from None

    def sync(self) -> None:
        """Upload changed files to object storage and delete what was deleted here. Files of others there stay.

        Raises:
            OSError: the storage refuses, or another command has claimed the directory.
        """
        if self.uri:
            with self._writing():
                self._sync()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn errors of the storage into `StorageError`s that name the directory."""
        try:
            yield
        except OSError as error:
            raise StorageError(f"{files.redacted(self._place)}: cannot be read: {files.describe(error)}") from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Add the name of the directory to errors of the storage."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno or errno.EIO, files.describe(error), files.redacted(self._place)) from error

    def _sync(self) -> None:
        if self.owner:
            self._check_owner()
        here = {name: self._state(name) for name in self._files()}
        changed = [name for name, state in here.items() if self._known.get(name) != state]
        for name in sorted(changed, key=lambda name: here[name]):
            files.upload(self.path / name, self._uri_of(name))
            self._known[name] = here[name]
        gone = self._known.keys() - here.keys()
        # Whole folders where possible: deleting the last file of a folder would leave an empty object.
        for name in sorted({_gone_with(name, here) for name in gone}):
            files.delete(self._uri_of(name))
        for name in gone:
            del self._known[name]

    def _uri_of(self, name: str) -> str:
        return files.join(self._place, *name.split("/"))

    def _check_owner(self) -> None:
        # A command that claimed the directory and has ended may have deleted the object with everything else.
        with suppress(FileNotFoundError):
            if self.owner and files.read(files.join(self._place, OWNER)) == self.owner.encode():
                return
        raise OSError(errno.EBUSY, "another command has started to write there")

    def empty(self) -> None:
        """Delete everything in the directory, no matter which command wrote it. Raises `OSError`."""
        self._known.clear()
        if self.uri:
            with self._writing():
                files.delete(self.uri)
        for path in self.path.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def delete(self) -> None:
        """Delete the directory and everything in it.

        Raises:
            OSError: it cannot be deleted; in object storage also if this command has not claimed the directory, or
                another command has since.
        """
        if not self.uri:
            shutil.rmtree(self.path)
            return
        with self._writing():
            self._check_owner()
            files.delete(self.uri)

    def _files(self) -> Iterator[str]:
        """Yield the relative names of all files but those that are being written, whose names begin with a dot."""
        for folder, folders, inside in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in inside:
                if not name.startswith("."):
                    yield (Path(folder) / name).relative_to(self.path).as_posix()

    def _state(self, name: str) -> tuple[int, int]:
        status = (self.path / name).stat()
        return status.st_mtime_ns, status.st_size


def _gone_with(name: str, here: Iterable[str]) -> str:
    """Return the outermost folder that was deleted with a file, or the file itself."""
    parts = name.split("/")
    folders = ("/".join(parts[:length]) for length in range(1, len(parts)))
    return next((folder for folder in folders if not any(file.startswith(f"{folder}/") for file in here)), name)


@contextmanager
def copied(place: str | os.PathLike[str], names: Sequence[str]) -> Iterator[Path]:
    """Yield a directory of this machine: the directory itself, or a temporary copy of some files behind a URI.

    Args:
        place: path or URI.
        names: the files and folders to copy.

    Raises:
        StorageError: it cannot be read.
    """
    directory = Directory(place)
    directory.fetch(*names)
    yield directory.path if directory.uri else current_directory(directory.path)


@contextmanager
def lock_output(place: Directory) -> Iterator[None]:
    """Create an output directory and lock it for the duration of the block.

    Object storage has no locks: call `Directory.claim` there, once nothing else can be refused. It ends another
    command that writes to the directory.

    Raises:
        UsageError: the directory cannot be written or another command uses it.
    """
    busy = UsageError(f"{place}: another command trains in it: wait, or choose another output_model_dir")
    with ExitStack() as stack:
        try:
            place.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(place.path / LOCK, busy))
        except OSError as error:
            raise UsageError(f"{place}: cannot be written: {error.strerror}") from None
        yield
