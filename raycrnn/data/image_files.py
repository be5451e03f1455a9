"""Read image files by path or URI."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from raycrnn import storage
from raycrnn.data import byte_ranges, characters, generated_lines
from raycrnn.data.byte_ranges import FindFile
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


def file_of(path: str) -> str:
    """Return the file that an image comes from: its own, that of its packed data set, or its recipe."""
    if packed := byte_ranges.parse_reference(path):
        return packed.file
    line = generated_lines.parse_reference(path)
    return path if line is None else line.recipe


def is_whole_file(path: str) -> bool:
    """Return whether an image is a file of its own."""
    return file_of(path) == path


def read_bytes(path: str) -> bytes:
    """Return the bytes of an image: at a path or a URI, in a packed data set, or those of a generated line.

    A local file is also found if its name is in another Unicode normal form.

    Raises:
        Rejected: The file does not exist or cannot be read.
        StorageError: Object storage fails, which says nothing about the file.
    """
    try:
        if reference := byte_ranges.parse_reference(path):
            return storage.read_range(*reference)
        if line := generated_lines.parse_reference(path):
            return generated_lines.draw(line)
        if not storage.is_uri(path):
            check_no_pipe(path)
        return storage.read(path)
    except FileNotFoundError:
        return read_bytes(in_other_form(path))
    except OSError as error:
        raise _rejected(path, error) from None


def check_no_pipe(path: str) -> None:
    """Raise `Rejected` if a local path is that of a named pipe, which would wait for a writer."""
    if Path(path).is_fifo():
        raise Rejected("cannot be read", f"{path}: a named pipe, not a file")


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


def prefetching_reader(paths: Sequence[str], find_file: FindFile = lambda file: None) -> Callable[[str], bytes]:
    """Return a `read_bytes` for images that are about to be read.

    The images in object storage are read now, many at a time; the others when the function is called.

    Args:
        paths: Paths of the images.
        find_file: Returns the contents of those files of packed data sets that are in memory.

    Raises:
        StorageError: Object storage fails.
    """
    remote = [path for path in dict.fromkeys(paths) if storage.is_uri(path)]
    references = {path: reference for path in remote if (reference := byte_ranges.parse_reference(path))}
    whole = [path for path in remote if path not in references]
    prefetched: dict[str, bytes | OSError] = dict(zip(whole, storage.read_many(whole), strict=True))
    packed = byte_ranges.read_many(list(references.values()), find_file)
    prefetched |= {path: packed[reference] for path, reference in references.items()}

    def read(path: str) -> bytes:
        data = prefetched.get(path)
        if data is None:
            return read_bytes(path)
        if isinstance(data, OSError):
            raise _rejected(path, data)
        return data

    return read


def iter_readers(
    paths: Sequence[str], find_file: FindFile = lambda file: None
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield each path, in order, with a function that returns its bytes.

    At most `IMAGES_READ_AHEAD` images are prefetched at a time, which limits the memory they take. The arguments are
    those of `prefetching_reader`.

    Raises:
        StorageError: Object storage fails.
    """
    for start in range(0, len(paths), IMAGES_READ_AHEAD):
        group = paths[start : start + IMAGES_READ_AHEAD]
        read = prefetching_reader(group, find_file)
        yield from ((path, partial(read, path)) for path in group)


def _rejected(path: str, error: OSError) -> Rejected:
    """Return the rejection of a file. Raises `StorageError` if the error does not concern the file."""
    storage.check_concerns_file(path, error)
    if isinstance(error, FileNotFoundError):
        return _no_such_file(path)
    return Rejected("cannot be read", f"{path}: {storage.describe(error)}")


def _no_such_file(path: str) -> Rejected:
    return Rejected("no such file", path + characters.notes_on(path))
