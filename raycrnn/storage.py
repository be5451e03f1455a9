"""Files by path or by URI: a disk, or object storage through pyarrow's filesystems.

A URI is what pyarrow reads: `s3://bucket/folder/file`, `gs://…`, `hdfs://…`, options after a `?`
(`s3://bucket/file?region=eu-west-1`, `?endpoint_override=host:9000&scheme=http`). Its name is percent-decoded. How to
sign requests comes from the environment or the machine's role, as each storage has it.
"""

import errno
import functools
import itertools
import os
import re
import shutil
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raycrnn.errors import StorageError

CHUNK = 8 * 2**20
"""bytes copied at a time"""

REQUESTS_AT_A_TIME = 16
"""Object storage answers one request after some 20 ms, and many of them as soon."""


def is_uri(path: str | os.PathLike) -> bool:
    return "://" in os.fspath(path)


def join(folder: str, *names: str) -> str:
    """A path below a folder; of a URI, before its options."""
    if not is_uri(folder):
        return os.path.join(folder, *names)
    base, mark, options = folder.partition("?")
    return "/".join([base.rstrip("/"), *map(urllib.parse.quote, names)]) + mark + options


def extended(path: str, ending: str) -> str:
    """The path of what is beside a file or a folder, and named as it is with something more; in a bucket of its own,
    of what is in it."""
    base, mark, options = path.partition("?") if is_uri(path) else (path, "", "")
    base = base.rstrip("/")
    if is_uri(path) and not urllib.parse.urlsplit(base).path:
        base += "/"
    return base + ending + mark + options


def beside(path: str, name: str) -> str:
    """A path as seen from the folder that another file is in: absolute and URIs as they are."""
    if is_uri(name):
        return name
    if not is_uri(path):
        # Not abspath(), which folds `link/../x` to `x` although the link may lead elsewhere.
        return os.path.join(os.getcwd(), os.path.dirname(path), name)
    base, mark, options = path.partition("?")
    if name.startswith("/"):
        return name
    return base.rpartition("/")[0] + "/" + urllib.parse.quote(name) + mark + options


def absolute(path: str) -> str:
    """A path that any process on this machine understands; URIs as they are."""
    return path if is_uri(path) else os.path.abspath(path)


@functools.lru_cache(maxsize=64)
def _filesystem(scheme: str, host: str, options: str) -> Any:
    """The filesystem of a bucket: made once a process, for each has connections of its own."""
    from pyarrow import fs

    # A name of one letter: some filesystems want one, and none looks whether it is there.
    return fs.FileSystem.from_uri(urllib.parse.urlunsplit((scheme, host, "/x", options, "")))[0]


def locate(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI and the name in it.

    Raises:
        OSError: a scheme that pyarrow does not know, options or names that it refuses.
    """
    try:
        parts = urllib.parse.urlsplit(uri, allow_fragments=False)
        # Also of keys with a slash in them, which ends what is before a URI's path: no bucket's name has a colon.
        if parts.password or (parts.scheme in STORES and ":" in parts.netloc):
            raise ValueError("keys in a URI end up in logs and in models: put them into the environment")
        filesystem = _filesystem(parts.scheme, parts.netloc, parts.query)
    except (OSError, ValueError, NotImplementedError) as error:
        # The last is what pyarrow raises for a scheme that its build lacks.
        raise OSError(errno.EINVAL, f"not a URI that can be read: {error}", shown(uri)) from None
    name = urllib.parse.unquote(parts.path)
    if filesystem.type_name == "s3" and "//" in name:
        raise OSError(errno.EINVAL, "not a URI that can be read: two slashes with nothing between them", uri)
    if filesystem.type_name == "abfs":
        raise OSError(errno.EINVAL, "not a URI that can be read: Azure's storage is not supported", shown(uri))
    is_store = filesystem.type_name in ("s3", "gcs")
    return filesystem, (f"{parts.netloc.rpartition('@')[2]}{name}" if is_store else name)


STORES = ("s3", "gs", "gcs")


def shown(place: str) -> str:
    """A path or URI for messages: without keys."""
    return re.sub(r"://[^?]*@", "://…@", place) if re.match(r"[^/?]*://[^?]*:[^?]*@", place) else place


PASSING = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIME|HTTP status 5\d\d"
    r"|[Tt]imeout|[Uu]navailable"
)
"""In errors of storage that may answer if it is asked again."""

PATIENCE = 30.0
"""Seconds for which it is asked again: a run of days must not end with a network that is gone for a moment."""


def _patiently(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that asks storage, and asks again while what is wrong may pass. One that is nowhere never passes."""

    @functools.wraps(function)
    def asked(*arguments: Any) -> Any:
        deadline, pause = time.monotonic() + PATIENCE, 0.5
        while True:
            try:
                return function(*arguments)
            except ValueError as error:
                # A name that no filesystem can have.
                raise OSError(errno.EINVAL, str(error), shown(str(arguments[-1]))) from None
            except OSError as error:
                if time.monotonic() + pause > deadline or not PASSING.search(str(error)):
                    raise
            time.sleep(pause)
            pause *= 2

    return asked


def read(path: str | os.PathLike) -> bytes:
    """The bytes at a path or URI. Raises `OSError`."""
    path = os.fspath(path)
    if is_uri(path):
        return _read_remote(path)
    try:
        return Path(path).read_bytes()
    except ValueError as error:
        # A name that no filesystem can have.
        raise OSError(errno.EINVAL, str(error), path) from None


@_patiently
def _read_remote(uri: str) -> bytes:
    filesystem, name = locate(uri)
    with filesystem.open_input_stream(name, compression=None) as stream:
        return stream.read()


def read_many(paths: Sequence[str]) -> list[bytes | OSError]:
    """The bytes at each path, or why there are none, asked for many at a time."""
    if len(paths) < 2:
        return list(map(_try_to_read, paths))
    with ThreadPoolExecutor(min(REQUESTS_AT_A_TIME, len(paths))) as readers:
        return list(readers.map(_try_to_read, paths))


def _try_to_read(path: str) -> bytes | OSError:
    try:
        return read(path)
    except OSError as error:
        return error


@_patiently
def write(path: str, data: bytes) -> None:
    """Write a file behind a URI; a reader sees the old or the new one. Raises `OSError`."""
    filesystem, name = locate(path)
    _make_folder(filesystem, name)
    with filesystem.open_output_stream(name, compression=None) as stream:
        stream.write(data)


@_patiently
def upload(file: Path, uri: str) -> None:
    """Copy a file to object storage, where a reader sees the old or the new one. Raises `OSError`."""
    from pyarrow import fs

    filesystem, name = locate(uri)
    _make_folder(filesystem, name)
    # Not piece by piece: Ctrl-C between two of them would close the stream, and what it holds by then get the name.
    fs.copy_files(str(file), name, fs.LocalFileSystem(), filesystem, chunk_size=CHUNK)


def move(file: Path, place: str) -> None:
    """Give a file its path, or copy it to its URI; a reader sees the old or the new one. Raises `OSError`."""
    if is_uri(place):
        upload(file, place)
    else:
        file.replace(place)


def _make_folder(filesystem: Any, name: str) -> None:
    # Object stores have no folders; pyarrow would write an empty object that looks like one.
    if filesystem.type_name not in ("s3", "gcs"):
        filesystem.create_dir(os.path.dirname(name), recursive=True)


@_patiently
def names(uri: str) -> dict[str, tuple[int, Any]]:
    """The files below a URI, by their names relative to it, with size and time of change; none where nothing is.

    Raises:
        OSError: the storage does not answer, or refuses.
    """
    from pyarrow import fs

    filesystem, folder = locate(uri)
    folder = folder.rstrip("/")
    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True))
    return {each.path[len(folder) + 1 :]: (each.size, each.mtime_ns) for each in found if each.type == fs.FileType.File}


@_patiently
def top(uri: str) -> list[str]:
    """Names of the files and folders right below a URI; none where nothing is. Raises `OSError`."""
    from pyarrow import fs

    filesystem, folder = locate(uri)
    found = filesystem.get_file_info(fs.FileSelector(folder.rstrip("/"), allow_not_found=True))
    return [each.base_name for each in found]


def is_file(uri: str) -> bool:
    """Whether a URI is that of a file. Raises `OSError`."""
    return _info(uri).is_file


def is_folder(path: str) -> bool:
    """Whether a path is that of a folder, or a URI that of what holds files or ends in a slash. Raises `OSError`."""
    if not is_uri(path):
        return os.path.isdir(path)
    return locate(path)[1].endswith("/") or _info(path).type.name == "Directory"


def exists(path: str) -> bool:
    """Whether there is anything at a path or URI. Raises `OSError`."""
    return _info(path).type.name != "NotFound" if is_uri(path) else os.path.exists(path)


def size(path: str) -> int:
    """Bytes of a file. Raises `OSError`."""
    return _info(path).size if is_uri(path) else os.path.getsize(path)


@_patiently
def _info(uri: str) -> Any:
    filesystem, name = locate(uri)
    return filesystem.get_file_info(name)


def download(uri: str, folder: Path, wanted: Iterable[str]) -> None:
    """Copy files below a URI, by their relative names, to a folder on this machine. Raises `OSError`."""
    wanted = list(wanted)
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as readers:
        list(readers.map(lambda name: _download(join(uri, *name.split("/")), folder / name), wanted))


@_patiently
def _download(uri: str, file: Path) -> None:
    filesystem, name = locate(uri)
    file.parent.mkdir(parents=True, exist_ok=True)
    with filesystem.open_input_stream(name, compression=None) as source, file.open("wb") as target:
        shutil.copyfileobj(source, target, CHUNK)


@_patiently
def delete(uri: str) -> None:
    """Delete a file, or a folder with all that is in it; what is gone already is fine. Raises `OSError`."""
    from pyarrow import fs

    filesystem, name = locate(uri)
    name = name.rstrip("/")
    if "/" not in name:
        raise OSError(errno.EPERM, "a whole bucket is never deleted", uri)
    kind = filesystem.get_file_info(name).type
    with suppress(FileNotFoundError):
        if kind == fs.FileType.File:
            filesystem.delete_file(name)
        elif kind == fs.FileType.Directory:
            filesystem.delete_dir(name)


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
        self.uri = self._place if is_uri(self._place) else None
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
            return {path.name for path in folder.iterdir()} if folder.exists() else set()
        try:
            return set(top(join(self.uri, *below))) - {OWNER}
        except OSError as error:
            raise StorageError(f"{shown(self._place)}: cannot be read: {describe(error)}") from None

    def files(self, *below: str) -> set[str]:
        """Names of all files in it, or in a folder of it, relative to that; none where there is no such directory.

        Object storage may show folders whose files were deleted; they are none. Raises `StorageError`.
        """
        if not self.uri:
            folder = self.path.joinpath(*below)
            return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        try:
            return set(names(join(self.uri, *below))) - {OWNER}
        except OSError as error:
            raise StorageError(f"{shown(self._place)}: cannot be read: {describe(error)}") from None

    def fetch(self, *wanted: str) -> None:
        """Copy files and folders of these names from object storage. Raises `StorageError`."""
        if not self.uri:
            return
        try:
            with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as readers:
                files = list(itertools.chain.from_iterable(readers.map(self._files_of, wanted)))
            download(self.uri, self.path, files)
        except OSError as error:
            raise StorageError(f"{shown(self._place)}: cannot be read: {describe(error)}") from None
        self._known.update({name: self._state(name) for name in files})

    def _files_of(self, name: str) -> list[str]:
        """What is behind a name of object storage: the files of a folder, a file, nothing."""
        place = join(self.uri, name)
        return [f"{name}/{below}" for below in names(place)] or [name] * is_file(place)

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
        delete(join(self.uri, *name.split("/")))
        for file in [file for file in self._known if file == name or file.startswith(f"{name}/")]:
            del self._known[file]

    def take(self) -> None:
        """Say that this command writes here from now on: another that still does ends. Raises `StorageError`."""
        if not self.uri:
            return
        self.owner = uuid.uuid4().hex
        try:
            write(join(self.uri, OWNER), self.owner.encode())
        except OSError as error:
            raise StorageError(f"{shown(self._place)}: cannot be written: {describe(error)}") from None

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
            raise OSError(error.errno or errno.EIO, describe(error), shown(self._place)) from error

    def _push(self) -> None:
        if self.owner:
            self._check_owner()
        here = {name: self._state(name) for name in self._files()}
        changed = [name for name, state in here.items() if self._known.get(name) != state]
        for name in sorted(changed, key=lambda name: here[name]):
            upload(self.path / name, join(self.uri, *name.split("/")))
            self._known[name] = here[name]
        gone = self._known.keys() - here.keys()
        # Folders as such: of one whose last file was deleted an empty object would stay.
        for name in sorted({_gone_with(name, here) for name in gone}):
            delete(join(self.uri, *name.split("/")))
        for name in gone:
            del self._known[name]

    def _check_owner(self) -> None:
        # Another command that has ended since may have deleted it with all the rest.
        with suppress(FileNotFoundError):
            if self.owner and read(join(self.uri, OWNER)) == self.owner.encode():
                return
        raise OSError(errno.EBUSY, "another command has begun to write there since")

    def empty(self) -> None:
        """Delete all that it holds, whoever wrote it. Raises `OSError`."""
        self._known.clear()
        if self.uri:
            with self._named():
                delete(self.uri)
        for rest in self.path.iterdir():
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()

    def delete(self) -> None:
        """Delete it with all that it holds. Raises `OSError`, as where another command has taken it, or none has."""
        if not self.uri:
            shutil.rmtree(self.path)
            return
        with self._named():
            self._check_owner()
            delete(self.uri)

    def _files(self) -> Iterator[str]:
        """Names of all files but those that are being written, whose names begin with a dot."""
        for folder, folders, files in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
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
    yield directory.path


def describe(error: OSError) -> str:
    """An error for people: the system's words where there are some, else the first line of the storage's."""
    return (error.strerror or str(error)).strip().partition("\n")[0]
