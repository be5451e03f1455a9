"""Files by path or by URI: on a disk, or in object storage through pyarrow's filesystems.

URIs are those of pyarrow: `s3://bucket/folder/file`, `gs://…`, `hdfs://…`, with options after a `?`
(`s3://bucket/file?region=eu-west-1`, `?endpoint_override=host:9000&scheme=http`). Names in them are percent-decoded.
Credentials come from the environment or the role of the machine, as usual for each storage.
"""

import errno
import functools
import os
import random
import re
import shutil
import time
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from raycrnn.errors import StorageError, UsageError
from raycrnn.storage.normal_forms import in_other_form

if TYPE_CHECKING:
    from pyarrow import fs

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

CHUNK = 8 * 2**20
"""Bytes copied at a time."""

REQUESTS_AT_A_TIME = 32
"""Parallel requests to object storage, which answers after about 20 ms, be it one request or many."""

CONNECTIONS = 128
"""Connections to object storage that a process may open at a time."""


def is_uri(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a URI."""
    return "://" in os.fspath(path)


def join(folder: str, *names: str) -> str:
    """Join names to a folder; those of a URI are percent-encoded and stand before its options."""
    if not is_uri(folder):
        return os.path.join(folder, *names)
    base, mark, options = folder.partition("?")
    return "/".join([base.rstrip("/"), *map(urllib.parse.quote, names)]) + mark + options


def with_suffix(path: str, ending: str) -> str:
    """Append an ending to the name of a file or a folder. Below a bucket the ending becomes a name of its own."""
    base, mark, options = path.partition("?") if is_uri(path) else (path, "", "")
    base = base.rstrip("/")
    if is_uri(path) and not urllib.parse.urlsplit(base).path:
        base += "/"
    return base + ending + mark + options


def resolve_relative(path: str, name: str) -> str:
    """Resolve a name against the folder of the file `path`. Absolute paths and URIs are returned unchanged."""
    if is_uri(name):
        return name
    name = with_home(name)
    if not is_uri(path):
        # Not abspath(), which folds `link/../x` to `x` although the link may lead elsewhere.
        return os.path.join(os.getcwd(), os.path.dirname(path), name)
    base, mark, options = path.partition("?")
    if name.startswith("/"):
        return name
    return base.rpartition("/")[0] + "/" + urllib.parse.quote(name) + mark + options


def with_home(path: str) -> str:
    """Return a path that begins with `~/` with the home directory of the user instead."""
    return os.path.expanduser(path) if path.startswith("~/") else path


def absolute(path: str) -> str:
    """Return an absolute path; a URI unchanged."""
    return path if is_uri(path) else os.path.abspath(path)


@functools.lru_cache(maxsize=64)
def _filesystem(scheme: str, host: str, options: str) -> "fs.FileSystem":
    """Return the filesystem of a bucket. It is cached, since each has its own connections."""
    import pyarrow as pa
    from pyarrow import fs

    # The S3 client opens one connection for each of pyarrow's I/O threads, but never fewer than 25.
    pa.set_io_thread_count(max(pa.io_thread_count(), CONNECTIONS))
    # With a dummy name: some filesystems require one, and none checks that it exists.
    return fs.FileSystem.from_uri(urllib.parse.urlunsplit((scheme, host, "/x", options, "")))[0]


def locate(uri: str) -> tuple["fs.FileSystem", str]:
    """Return the filesystem of a URI and the name in it.

    Raises:
        OSError: pyarrow does not know the scheme, or refuses the options or the name.
    """
    try:
        parts = urllib.parse.urlsplit(uri, allow_fragments=False)
        # The colon also finds keys with a slash in them, where urlsplit sees no password: bucket names have no colon.
        if parts.password or (parts.scheme in STORES and ":" in parts.netloc):
            raise ValueError("keys in a URI end up in logs and in models: put them into the environment")
        if parts.scheme in ("http", "https"):
            raise ValueError("files on the web are not read: download them first")
        filesystem = _filesystem(parts.scheme, parts.netloc, parts.query)
    except (OSError, ValueError, NotImplementedError) as error:
        # NotImplementedError: pyarrow was built without this scheme.
        raise OSError(errno.EINVAL, f"not a URI that can be read: {error}", redacted(uri)) from None
    name = urllib.parse.unquote(parts.path)
    if filesystem.type_name == "s3" and "//" in name:
        raise OSError(errno.EINVAL, "not a URI that can be read: two slashes in a row", uri)
    if filesystem.type_name == "abfs":
        raise OSError(errno.EINVAL, "not a URI that can be read: Azure storage is not supported", redacted(uri))
    is_store = filesystem.type_name in ("s3", "gcs")
    return filesystem, (f"{parts.netloc.rpartition('@')[2]}{name}" if is_store else name)


STORES = ("s3", "gs", "gcs")
"""Schemes of object storage, whose host is a bucket."""


def redacted(place: str) -> str:
    """Return a path or URI for messages, without keys."""
    return re.sub(r"://[^?]*@", "://…@", place) if re.match(r"[^/?]*://[^?]*:[^?]*@", place) else place


TRANSIENT = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIME"
    r"|HTTP status (?:429|5\d\d)|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|[Tt]imeout|[Uu]navailable|[Cc]onnection reset"
)
"""Matches errors of object storage that a retry may resolve."""

OF_ONE_FILE = re.compile("ACCESS_DENIED|NO_SUCH_KEY|INVALID_OBJECT_STATE|Not a regular file|is a directory")
"""Matches errors of object storage that concern one file, and not the storage as a whole."""

RETRY_SECONDS = 30.0
"""Seconds of retries: a run of days must not fail because the network is down for a moment."""


def _with_retries(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Retry a request to object storage while its error is transient; a missing file is not."""

    @functools.wraps(function)
    def request(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        deadline, pause = time.monotonic() + RETRY_SECONDS, 0.5
        while True:
            try:
                return function(*args, **kwargs)
            except ValueError as error:
                # A name that is invalid on every filesystem.
                raise OSError(errno.EINVAL, str(error), redacted(str(args[-1]))) from None
            except OSError as error:
                if time.monotonic() + pause > deadline or not TRANSIENT.search(str(error)):
                    raise
            # A random pause: otherwise, requests that were throttled together would be throttled again.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause *= 2

    return request


def read(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes at a path or URI. Raises `OSError`.

    A local file is also found if its name is in another Unicode normal form.
    """
    path = os.fspath(path)
    if is_uri(path):
        return _read_remote(path)
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        other = in_other_form(path)
        # Not a named pipe, which would wait for a writer.
        if other is None or not os.path.isfile(other):
            raise
        return Path(other).read_bytes()
    except ValueError as error:
        # A name that is invalid on every filesystem.
        raise OSError(errno.EINVAL, str(error), path) from None


@_with_retries
def _read_remote(uri: str) -> bytes:
    filesystem, name = locate(uri)
    with filesystem.open_input_stream(name, compression=None) as stream:
        return stream.read()


def read_many(paths: Sequence[str]) -> list[bytes | OSError]:
    """Return the bytes at each path, or why this one cannot be read, reading several at a time.

    Raises:
        StorageError: Object storage fails, which says nothing about a single file.
    """
    if len(paths) < 2:
        return list(map(_try_to_read, paths))
    with ThreadPoolExecutor(min(REQUESTS_AT_A_TIME, len(paths))) as readers:
        return list(readers.map(_try_to_read, paths))


def _try_to_read(path: str) -> bytes | OSError:
    try:
        return read(path)
    except OSError as error:
        check_concerns_file(path, error)
        return error


@_with_retries
def read_head(uri: str, count: int) -> tuple[bytes, int]:
    """Return the first bytes of a file in object storage, at most `count`, and the file's size. Raises `OSError`."""
    filesystem, name = locate(uri)
    with filesystem.open_input_file(name) as file:
        return file.read(count), file.size()


@_with_retries
def read_range(path: str, first: int, count: int) -> bytes:
    """Return `count` bytes of a file from the position `first` on, or fewer at its end. Raises `OSError`."""
    if not is_uri(path):
        with open(path, "rb") as local:
            local.seek(first)
            return local.read(count)
    filesystem, name = locate(path)
    with filesystem.open_input_file(name) as file:
        return file.read_at(count, first)


def check_concerns_file(path: str, error: OSError) -> None:
    """Check that an error concerns the file that was read: it is missing, or denied, or its name is invalid.

    Any other error of object storage, such as throttling or an outage, says nothing about the file.

    Raises:
        StorageError: It is such an error.
    """
    if not is_uri(path) or isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return
    if error.errno != errno.EINVAL and not OF_ONE_FILE.search(str(error)):
        raise StorageError(f"{redacted(path)}: object storage does not deliver it: {describe(error)}") from None


@_with_retries
def write(path: str, data: bytes) -> None:
    """Write a file to object storage in one step: a reader sees the old or the new one. Raises `OSError`."""
    filesystem, name = locate(path)
    _make_folder(filesystem, name)
    with filesystem.open_output_stream(name, compression=None) as stream:
        stream.write(data)


@_with_retries
def upload(file: Path, uri: str) -> None:
    """Copy a file to object storage in one step: a reader sees the old or the new one. Raises `OSError`."""
    from pyarrow import fs

    filesystem, name = locate(uri)
    _make_folder(filesystem, name)
    # Not by writing to a stream: Ctrl-C would close it, and half a file would get the name.
    fs.copy_files(str(file), name, fs.LocalFileSystem(), filesystem, chunk_size=CHUNK)


def move(file: Path, place: str) -> None:
    """Rename a file to a path, or copy it to a URI: a reader sees the old or the new one. Raises `OSError`."""
    if is_uri(place):
        upload(file, place)
    else:
        file.replace(place)


def _make_folder(filesystem: "fs.FileSystem", name: str) -> None:
    # Object storage has no folders; pyarrow would write an empty object that looks like one.
    if filesystem.type_name not in ("s3", "gcs"):
        filesystem.create_dir(os.path.dirname(name), recursive=True)


@_with_retries
def names(uri: str) -> dict[str, tuple[int, int | None]]:
    """Return the files below a URI by relative name, with size and modification time in nanoseconds.

    Returns an empty dictionary if there is no such folder.

    Raises:
        OSError: the storage does not answer or denies access.
    """
    from pyarrow import fs

    filesystem, folder = locate(uri)
    folder = folder.rstrip("/")
    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True))
    return {info.path[len(folder) + 1 :]: (info.size, info.mtime_ns) for info in found if info.type == fs.FileType.File}


@_with_retries
def listdir(uri: str) -> list[str]:
    """Return the names of the files and folders directly below a URI, if it exists. Raises `OSError`."""
    from pyarrow import fs

    filesystem, folder = locate(uri)
    found = filesystem.get_file_info(fs.FileSelector(folder.rstrip("/"), allow_not_found=True))
    return [info.base_name for info in found]


def is_file(uri: str) -> bool:
    """Return whether there is a file at a URI. Raises `OSError`."""
    return _info(uri).is_file


def is_folder(path: str) -> bool:
    """Return whether there is a folder at a path, or a URI ends in a slash or has files below. Raises `OSError`."""
    if not is_uri(path):
        return os.path.isdir(path)
    return locate(path)[1].endswith("/") or _info(path).type.name == "Directory"


def exists(path: str) -> bool:
    """Return whether there is a file or a folder at a path or URI. Raises `OSError`."""
    return _info(path).type.name != "NotFound" if is_uri(path) else os.path.exists(path)


def check_output_file(path: str, name: str | None = None) -> bool:
    """Check that a path or URI can be that of a new file, and return whether there is a file already.

    Args:
        path: The path or URI.
        name: What the user typed, for the message. Default: `path`.

    Raises:
        UsageError: It is a directory, its folder does not exist, or storage cannot be read.
    """
    name = path if name is None else name
    try:
        if is_folder(path):
            raise UsageError(f"{name or repr('')}: is a directory and not the name of a file to write")
        found = exists(path)
    except OSError as error:
        raise UsageError(f"{name}: cannot be written: {describe(error)}") from None
    if not is_uri(path) and not os.path.isdir(folder := os.path.dirname(path) or os.curdir):
        raise UsageError(f"{name}: there is no folder {folder}; create it first")
    return found


def size(path: str) -> int:
    """Return the size of a file in bytes. Raises `OSError`."""
    return _info(path).size if is_uri(path) else os.path.getsize(path)


@_with_retries
def _info(uri: str) -> "fs.FileInfo":
    filesystem, name = locate(uri)
    return filesystem.get_file_info(name)


def download(uri: str, folder: Path, names: Iterable[str]) -> None:
    """Copy files below a URI, given by their relative names, to a folder on this machine. Raises `OSError`."""
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as readers:
        list(readers.map(lambda name: _download(join(uri, *name.split("/")), folder / name), names))


@_with_retries
def _download(uri: str, file: Path) -> None:
    filesystem, name = locate(uri)
    file.parent.mkdir(parents=True, exist_ok=True)
    with filesystem.open_input_stream(name, compression=None) as source, file.open("wb") as target:
        shutil.copyfileobj(source, target, CHUNK)


@_with_retries
def delete(uri: str) -> None:
    """Delete a file, or a folder and everything in it, if it exists. Raises `OSError`."""
    from pyarrow import fs

    filesystem, name = locate(uri)
    name = name.rstrip("/")
    if "/" not in name:
        raise OSError(errno.EPERM, "raycrnn does not delete buckets", uri)
    kind = filesystem.get_file_info(name).type
    with suppress(FileNotFoundError):
        if kind == fs.FileType.File:
            filesystem.delete_file(name)
        elif kind == fs.FileType.Directory:
            filesystem.delete_dir(name)


def describe(error: OSError) -> str:
    """Return the message of the operating system, if there is one, else the first line of the storage's."""
    return (error.strerror or str(error)).strip().partition("\n")[0]
