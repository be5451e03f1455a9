"""Packed data sets: images and their labels in Parquet files, which object storage reads faster than small files.

A packed data set is one Parquet file, or a folder of them. The bytes of the images are stored one after the other,
uncompressed and in one page for each row group (encoding PLAIN of the Parquet format: each value follows its length in
four bytes). So every image is a range of bytes of the file, and any image can be read without reading others. The path
of such an image is a `byte_ranges.ByteRange`.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycrnn import storage
from raycrnn.data.byte_ranges import ByteRange
from raycrnn.errors import UsageError

SUFFIX = ".parquet"

SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("path", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("bytes", pa.int32(), nullable=False),
    ]
)
"""Columns of a packed data set: the bytes of the image file, its label, the path that it had, its upright width and
height in pixels, and the number of its bytes."""

DIGEST = b"raycrnn.sha256"
"""Key in the metadata of a file: a SHA-256 of its images and labels."""

SHARD_BYTES = 128 * 2**20
"""Bytes of the images in a file. Object storage reads files of about 100 MB at its full speed."""

ROW_GROUP_BYTES = 16 * 2**20
ROW_GROUP_ROWS = 10_000
"""Limits of a row group. pyarrow divides row groups of more than 20,000 rows into several pages."""


# --- writing


class PackedImagesWriter:
    """Writes a packed data set to files `00000.parquet`, `00001.parquet` … in a folder. Use it in a `with` block.

    Files get their names when they are complete. If the block raises an error, the file that is being written is
    deleted.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES):
        """
        Args:
            folder: An existing folder.
            shard_bytes: Bytes of the images in a file, exceeded by less than one row group.
        """
        self._folder, self._shard_bytes = folder, shard_bytes
        self._rows: list[tuple[bytes, str | None, str, int, int, int]] = []
        self._row_bytes = self._file_bytes = 0
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self.files: list[Path] = []
        """The files so far, the one that is being written included."""

    def __enter__(self) -> "PackedImagesWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._write_row_group()
            self._finish_file()

    def add(self, image: bytes, label: str | None, path: str, size: tuple[int, int]) -> None:
        """Add an image.

        Args:
            image: The bytes of the image file.
            label: The label, as in a CSV.
            path: The path that outputs and messages name.
            size: Upright width and height in pixels.

        Raises:
            OSError: The file cannot be written.
        """
        self._rows.append((image, label, path, *size, len(image)))
        self._row_bytes += len(image)
        if self._row_bytes >= min(ROW_GROUP_BYTES, self._shard_bytes) or len(self._rows) == ROW_GROUP_ROWS:
            self._write_row_group()
            if self._file_bytes >= self._shard_bytes:
                self._finish_file()

    def _write_row_group(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            path = self._folder / f"{len(self.files):05d}{SUFFIX}"
            temporary = self._stack.enter_context(storage.replacing_file(path))
            self._writer = self._stack.enter_context(_open_writer(temporary))
            self._digest = hashlib.sha256()
            self.files.append(path)
        for image, label, *_ in self._rows:
            text = "" if label is None else label
            self._digest.update(f"{len(image)} {label is None} {len(text)} {text}".encode())
            self._digest.update(image)
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), row_group_size=len(self._rows))
        self._file_bytes += self._row_bytes
        self._rows, self._row_bytes = [], 0

    def _finish_file(self) -> None:
        if self._writer is None:
            return
        self._writer.add_key_value_metadata({DIGEST.decode(): self._digest.hexdigest()})
        self._stack.close()
        self._writer, self._file_bytes = None, 0


def _open_writer(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        SCHEMA,
        compression={name: "NONE" if name == "image" else "ZSTD" for name in SCHEMA.names},
        use_dictionary=False,
        write_statistics=False,
        data_page_size=2**30,
        data_page_version="1.0",
    )


# --- reading


@dataclass(frozen=True)
class PackedRow:
    """A row of a packed data set."""

    path: str
    """The path that the image had."""
    label: str | None
    reference: str
    """The path of the image in the data set, for `image_files`."""
    size: tuple[int, int]
    """Upright width and height in pixels."""


def find_files(place: str) -> list[str]:
    """Return the files of a packed data set in the order of their names, or none if a path or URI is not one.

    Only the names are considered: a file that ends in `.parquet`, or a folder that contains such files directly.

    Raises:
        OSError: Object storage fails.
    """
    name = place.partition("?")[0] if storage.is_uri(place) else place
    if name.lower().endswith(SUFFIX) and not os.path.isdir(name):
        return [place]
    if not storage.is_folder(place):
        return []
    names = storage.listdir(place) if storage.is_uri(place) else os.listdir(place)
    return [storage.join(place, name) for name in sorted(names) if name.endswith(SUFFIX) and not name.startswith(".")]


def is_packed(file: str) -> bool:
    """Return whether a file is one of a packed data set."""
    try:
        _open(file).close()
    except UsageError:
        return False
    return True


def read_rows(files: Sequence[str]) -> Iterator[PackedRow]:
    """Yield the rows of the files of a packed data set, in order, without reading the images.

    Raises:
        UsageError: A file does not exist, cannot be read, or is not of a packed data set.
    """
    for file in files:
        place = file if storage.is_uri(file) else storage.absolute(file)
        for table, start in _row_groups(file):
            columns = [table[name].to_pylist() for name in ("path", "label", "width", "height", "bytes")]
            for path, label, width, height, count in zip(*columns, strict=True):
                yield PackedRow(path, label, str(ByteRange(place, start + 4, count)), (width, height))
                start += 4 + count


def digest(files: Sequence[str]) -> str:
    """Return a SHA-256 of the images and labels in the files of a packed data set. Raises `UsageError`."""
    found = hashlib.sha256()
    for file in files:
        with _open(file) as parquet:
            found.update(parquet.metadata.metadata[DIGEST])
    return found.hexdigest()


def _open(file: str) -> pq.ParquetFile:
    """Open a file of a packed data set. Raises `UsageError` if it is not one."""
    try:
        filesystem, name = storage.locate(file) if storage.is_uri(file) else (None, file)
        parquet = pq.ParquetFile(name, filesystem=filesystem, pre_buffer=True)
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {storage.describe(error)}") from None
    except pa.ArrowException as error:
        raise UsageError(f"{file}: not a Parquet file, or a damaged one: {error}") from None
    columns, metadata = parquet.schema_arrow.remove_metadata(), parquet.metadata.metadata or {}
    if DIGEST in metadata and columns.equals(SCHEMA):
        return parquet
    parquet.close()
    if columns.names == SCHEMA.names:
        raise _rewritten(file)
    names = ", ".join(columns.names)
    raise UsageError(f"{file}: not a packed data set, but has the columns {names}: import it with `raycrnn convert`")


def _rewritten(file: str) -> UsageError:
    return UsageError(f"{file}: was rewritten by another program: pack it again with `raycrnn convert`")


def _row_groups(file: str) -> Iterator[tuple[pa.Table, int]]:
    """Yield the columns of each row group, except the images, and the position at which its images start."""
    columns = [name for name in SCHEMA.names if name != "image"]
    with _open(file) as parquet:
        for number in range(parquet.num_row_groups):
            images = parquet.metadata.row_group(number).column(SCHEMA.get_field_index("image"))
            is_plain = images.compression == "UNCOMPRESSED" and set(images.encodings) <= {"PLAIN", "RLE"}
            end = images.data_page_offset + images.total_compressed_size
            try:
                table = parquet.read_row_group(number, columns)
                counts = table["bytes"].to_numpy().astype(np.int64)
                last = storage.read_range(file, end - int(counts[-1]) - 4, 4)
            except (OSError, pa.ArrowException) as error:
                raise UsageError(f"{file}: cannot be read: {error}") from None
            # The page has a header of unknown length before its values.
            start = end - int((counts + 4).sum())
            if not is_plain or start < images.data_page_offset or int.from_bytes(last, "little") != counts[-1]:
                raise _rewritten(file)
            yield table, start
