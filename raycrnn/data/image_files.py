"""Read image files by path or URI."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from raycrnn import storage
from raycrnn.data import characters
from raycrnn.data.rejections import Rejected

JPEG, NETPBM = (".jpg", ".jpeg", ".jpe", ".jfif"), (".pbm", ".pgm", ".ppm", ".pnm")
SUFFIXES = (*JPEG, *NETPBM, ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2")
"""Suffixes of the files in a folder that are read as images."""

SIZES_FILE = "image_sizes.parquet"
"""File in an output directory with the sizes of the images behind URIs."""

IMAGES_READ_AHEAD = 64
"""Images that `iter_readers` reads from object storage at a time."""


def has_image_suffix(name: str) -> bool:
    """Return whether a file name, a path or a URI without options ends in one of `SUFFIXES`."""
    return name.lower().endswith(SUFFIXES)


def read_bytes(path: str) -> bytes:
    """Return the bytes at a path, or at a URI that pyarrow's filesystems can read.

    A local file is also found if its name is in another Unicode normal form.

    Raises:
        Rejected: The file does not exist or cannot be read.
        StorageError: Object storage fails, which says nothing about the file.
    """
    try:
        if not storage.is_uri(path) and Path(path).is_fifo():
            raise Rejected("cannot be read", f"{path}: a named pipe, not a file")
        return storage.read(path)
    except FileNotFoundError:
        return read_bytes(in_other_form(path))
    except OSError as error:
        raise _rejected(path, error) from None


def read_head(uri: str, count: int) -> tuple[bytes, int]:
    """Return the first bytes at a URI, at most `count`, and the size of the file. Raises what `read_bytes` raises."""
    try:
        return storage.read_head(uri, count)
    except OSError as error:
        raise _rejected(uri, error) from None


def in_other_form(path: str) -> str:
    """Return the path of a local file whose name differs from a missing one only in its Unicode normal form.

    Raises:
        Rejected: There is no such file either.
    """
    other = storage.in_other_form(path)
    if other is None:
        raise _no_such_file(path)
    return other


def prefetching_reader(paths: Sequence[str]) -> Callable[[str], bytes]:
    """Return a `read_bytes` for images that are about to be read.

    The images in object storage are read now, many at a time; the others when the function is called.

    Raises:
        StorageError: Object storage fails.
    """
    remote = [path for path in dict.fromkeys(paths) if storage.is_uri(path)]
    prefetched = dict(zip(remote, storage.read_many(remote), strict=True))

    def read(path: str) -> bytes:
        data = prefetched.get(path)
        if data is None:
            return read_bytes(path)
        if isinstance(data, OSError):
            raise _rejected(path, data)
        return data

    return read


def iter_readers(paths: Sequence[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield each path, in order, with a function that returns its bytes.

    At most `IMAGES_READ_AHEAD` images are prefetched at a time, which limits the memory they take.

    Raises:
        StorageError: Object storage fails.
    """
    for start in range(0, len(paths), IMAGES_READ_AHEAD):
        group = paths[start : start + IMAGES_READ_AHEAD]
        read = prefetching_reader(group)
        yield from ((path, partial(read, path)) for path in group)


def _rejected(path: str, error: OSError) -> Rejected:
    """Return the rejection of a file. Raises `StorageError` if the error does not concern the file."""
    storage.check_concerns_file(path, error)
    if isinstance(error, FileNotFoundError):
        return _no_such_file(path)
    return Rejected("cannot be read", f"{path}: {storage.describe(error)}")


def _no_such_file(path: str) -> Rejected:
    return Rejected("no such file", path + characters.notes_on(path))
