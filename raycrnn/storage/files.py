"""Files by path or by URI: a disk, or object storage through pyarrow's filesystems.

A URI is what pyarrow reads: `s3://bucket/folder/file`, `gs://…`, `hdfs://…`, options after a `?`
(`s3://bucket/file?region=eu-west-1`, `?endpoint_override=host:9000&scheme=http`). Its name is percent-decoded. How to
sign requests comes from the environment or the machine's role, as each storage has it.
"""

import errno
import functools
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

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


def with_suffix(path: str, ending: str) -> str:
    """The path of what is beside a file or a folder, and named as it is with something more; in a bucket of its own,
    of what is in it."""
    base, mark, options = path.partition("?") if is_uri(path) else (path, "", "")
    base = base.rstrip("/")
    if is_uri(path) and not urllib.parse.urlsplit(base).path:
        base += "/"
    return base + ending + mark + options


def resolve_relative(path: str, name: str) -> str:
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
        raise OSError(errno.EINVAL, f"not a URI that can be read: {error}", redacted(uri)) from None
    name = urllib.parse.unquote(parts.path)
    if filesystem.type_name == "s3" and "//" in name:
        raise OSError(errno.EINVAL, "not a URI that can be read: two slashes with nothing between them", uri)
    if filesystem.type_name == "abfs":
        raise OSError(errno.EINVAL, "not a URI that can be read: Azure's storage is not supported", redacted(uri))
    is_store = filesystem.type_name in ("s3", "gcs")
    return filesystem, (f"{parts.netloc.rpartition('@')[2]}{name}" if is_store else name)


STORES = ("s3", "gs", "gcs")


def redacted(place: str) -> str:
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
                raise OSError(errno.EINVAL, str(error), redacted(str(arguments[-1]))) from None
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
def listdir(uri: str) -> list[str]:
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


def describe(error: OSError) -> str:
    """An error for people: the system's words where there are some, else the first line of the storage's."""
    return (error.strerror or str(error)).strip().partition("\n")[0]
