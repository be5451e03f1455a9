"""An output directory on a disk or in object storage."""

import errno
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from raycrnn.errors import StorageError
from raycrnn.storage import files
from raycrnn.storage.atomic import LOCKS, current_directory

OWNER = "owner"
"""Name of the object that says which command writes in a directory of object storage, where nothing can be locked."""


class Directory:
    """A directory to write in: on a disk, or in object storage with a copy on this machine's disk.

    Files are written to `path`, as on any disk. Those behind a URI are copied there by `push`, in the order in which
    they were last changed: what was written last, and says that the rest is whole, comes last. `str` gives what the
    user named.
    """

    def __init__(self, place: str | os.PathLike, owner: str | None = None):
        """`owner`: by which another process of the command has taken a directory in object storage."""
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
        """Names of what it holds, or a folder in it; none where there is no such directory. Raises `StorageError`."""
        if not self.uri:
            folder = self.path.joinpath(*below)
            return {path.name for path in folder.iterdir()} - LOCKS if folder.exists() else set()
        try:
            return set(files.listdir(files.join(self.uri, *below))) - {OWNER}
        except OSError as error:
            raise StorageError(f"{files.redacted(self._place)}: cannot be read: {files.describe(error)}") from None

    def files(self, *below: str) -> set[str]:
        """Names of all files in it, or in a folder of it, relative to that; none where there is no such directory.

        Object storage may show folders whose files were deleted; they are none. Raises `StorageError`.
        """
        if not self.uri:
            folder = self.path.joinpath(*below)
            return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        try:
            return set(files.names(files.join(self.uri, *below))) - {OWNER}
        except OSError as error:
            raise StorageError(f"{files.redacted(self._place)}: cannot be read: {files.describe(error)}") from None

    def fetch(self, *wanted: str) -> None:
        """Copy files and folders of these names from object storage. Raises `StorageError`."""
        if not self.uri:
            return
        try:
            with ThreadPoolExecutor(files.REQUESTS_AT_A_TIME) as readers:
                found = list(itertools.chain.from_iterable(readers.map(self._files_of, wanted)))
            files.download(self.uri, self.path, found)
        except OSError as error:
            raise StorageError(f"{files.redacted(self._place)}: cannot be read: {files.describe(error)}") from None
        self._known.update({name: self._state(name) for name in found})

    def _files_of(self, name: str) -> list[str]:
        """What is behind a name of object storage: the files of a folder, a file, nothing."""
        place = files.join(self.uri, name)
        return [f"{name}/{below}" for below in files.names(place)] or [name] * files.is_file(place)

    def remove(self, name: str) -> None:
        """Delete a file or a folder; one that is gone already is fine. Raises `OSError`."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if self.uri:
            with self._named():
                self._remove(name)

    def _remove(self, name: str) -> None:
        files.delete(files.join(self.uri, *name.split("/")))
        for file in [file for file in self._known if file == name or file.startswith(f"{name}/")]:
            del self._known[file]

    def take(self) -> None:
        """Say that this command writes here from now on: another that still does ends. Raises `StorageError`."""
        if not self.uri:
            return
        self.owner = uuid.uuid4().hex
        try:
            files.write(files.join(self.uri, OWNER), self.owner.encode())
        except OSError as error:
            raise StorageError(f"{files.redacted(self._place)}: cannot be written: {files.describe(error)}") from None

    def push(self) -> None:
        """Bring object storage to what is here. Files that others wrote there stay.

        Raises:
            OSError: the storage refuses, or another command has taken the directory since.
        """
        if self.uri:
            with self._named():
                self._push()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The storage's errors bear the name of the directory, as those of disks do."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno or errno.EIO, files.describe(error), files.redacted(self._place)) from error

    def _push(self) -> None:
        if self.owner:
            self._check_owner()
        here = {name: self._state(name) for name in self._files()}
        changed = [name for name, state in here.items() if self._known.get(name) != state]
        for name in sorted(changed, key=lambda name: here[name]):
            files.upload(self.path / name, files.join(self.uri, *name.split("/")))
            self._known[name] = here[name]
        gone = self._known.keys() - here.keys()
        # Folders as such: of one whose last file was deleted an empty object would stay.
        for name in sorted({_gone_with(name, here) for name in gone}):
            files.delete(files.join(self.uri, *name.split("/")))
        for name in gone:
            del self._known[name]

    def _check_owner(self) -> None:
        # Another command that has ended since may have deleted it with all the rest.
        with suppress(FileNotFoundError):
            if self.owner and files.read(files.join(self.uri, OWNER)) == self.owner.encode():
                return
        raise OSError(errno.EBUSY, "another command has begun to write there since")

    def empty(self) -> None:
        """Delete all that it holds, whoever wrote it. Raises `OSError`."""
        self._known.clear()
        if self.uri:
            with self._named():
                files.delete(self.uri)
        for path in self.path.iterdir():
            if path.name not in LOCKS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def delete(self) -> None:
        """Delete it with all that it holds. Raises `OSError`, as where another command has taken it, or none has."""
        if not self.uri:
            shutil.rmtree(self.path)
            return
        with self._named():
            self._check_owner()
            files.delete(self.uri)

    def _files(self) -> Iterator[str]:
        """Names of all files but those that are being written, whose names begin with a dot."""
        for folder, folders, inside in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in inside:
                if not name.startswith("."):
                    yield (Path(folder) / name).relative_to(self.path).as_posix()

    def _state(self, name: str) -> tuple[int, int]:
        found = (self.path / name).stat()
        return found.st_mtime_ns, found.st_size


def _gone_with(name: str, here: Iterable[str]) -> str:
    """The outermost folder that was deleted with a file, or the file itself."""
    parts = name.split("/")
    folders = ("/".join(parts[:length]) for length in range(1, len(parts)))
    return next((folder for folder in folders if not any(each.startswith(f"{folder}/") for each in here)), name)


@contextmanager
def copied(place: str | os.PathLike, wanted: Sequence[str]) -> Iterator[Path]:
    """A directory as one of this machine: itself, or a copy of some files behind a URI, for as long as it is needed.

    Raises:
        StorageError: it cannot be read.
    """
    directory = Directory(place)
    directory.fetch(*wanted)
    yield directory.path if directory.uri else current_directory(directory.path)
