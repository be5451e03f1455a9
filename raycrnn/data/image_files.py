"""Read image files by path or URI, with the reason when one cannot be read."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from raycrnn import storage
from raycrnn.data.rejections import Rejected


def read_bytes(path: str) -> bytes:
    """The bytes at a path or at a URI that pyarrow's filesystems read. Raises `Rejected`."""
    try:
        if not storage.is_uri(path) and Path(path).is_fifo():
            raise Rejected("cannot be read", f"{path}: a pipe, for which one may wait for ever")
        return storage.read(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def prefetching_reader(paths: Sequence[str]) -> Callable[[str], bytes]:
    """`read_bytes`, of images that are read soon: those in object storage are asked for now, many at a time."""
    remote = [path for path in dict.fromkeys(paths) if storage.is_uri(path)]
    found = dict(zip(remote, storage.read_many(remote), strict=True))

    def read(path: str) -> bytes:
        data = found.get(path)
        if data is None:
            return read_bytes(path)
        if isinstance(data, OSError):
            raise _unreadable(path, data)
        return data

    return read


IMAGES_READ_AHEAD = 64


def iter_readers(paths: Sequence[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Each path with what reads it, in order: `reading` for some at a time, so that memory holds only so many."""
    for start in range(0, len(paths), IMAGES_READ_AHEAD):
        some = paths[start : start + IMAGES_READ_AHEAD]
        read = prefetching_reader(some)
        yield from ((path, partial(read, path)) for path in some)


def _unreadable(path: str, error: OSError) -> Rejected:
    if isinstance(error, FileNotFoundError):
        return Rejected("no such file", path)
    return Rejected("cannot be read", f"{path}: {storage.describe(error)}")
