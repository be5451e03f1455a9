"""Parquet files of data sets for Hugging Face's datasets, such as CATMuS, and raycrnn's own packed data sets.

An image is a struct of `bytes` and `path`, or only its bytes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raycrnn.errors import UsageError
from raycrnn.tools.convert import arrow_columns
from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine
from raycrnn.tools.convert.source_files import inside

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

FILES = "*.parquet"

IMAGE_COLUMNS = ("image", "im", "img", "images", "jpg", "png")
LABEL_COLUMNS = ("text", "label", "transcription", "ground_truth", "gt", "words", "sentence")

PACKED_COLUMNS = ["image", "label", "path", "width", "height"]
"""First columns of a packed data set, whose labels are in the form of raycrnn's CSV files."""

ROWS_AT_A_TIME = 16


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes is a Parquet file."""
    return head.startswith(b"PAR1")


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the rows of a file."""
    import pyarrow as pa
    from pyarrow import parquet

    folder = options.images or file.parent
    row = 0
    try:
        with parquet.ParquetFile(file, pre_buffer=False) as table:
            schema = table.schema_arrow
            image = choose_column(options.image_column, IMAGE_COLUMNS, schema.names, "--image-column", file)
            label = choose_column(options.label_column, LABEL_COLUMNS, schema.names, "--label-column", file)
            _check_types(file, schema, image, label)
            is_packed = _is_packed(schema)
            for batch in _batches(table, [image, label, *(["path"] if is_packed else [])]):
                data, paths = _columns(batch, image, is_packed)
                for value, path, text in zip(data, paths, arrow_columns.texts(batch[label]), strict=True):
                    row += 1
                    place = f"row {row}"
                    name = path.decode("utf-8", "replace") if isinstance(path, bytes) else ""
                    try:
                        if not isinstance(value, bytes) and not name:
                            raise UnusableLine("no image in the row")
                        found = value if isinstance(value, bytes) else inside(folder, name)
                        yield LabelledImage(file, place, name or f"{file.stem}_{row:06d}", found, text, is_packed)
                    except UnusableLine as error:
                        yield LeftOut.because(error, file, place)
    except (pa.ArrowException, OSError) as error:
        message = str(error).partition("\n")[0]
        yield LeftOut(file, f"after row {row}" if row else "", "not a Parquet file, or a damaged one", message)


def _is_packed(schema: "pa.Schema") -> bool:
    """Return whether a table is a packed data set, which another program may have written again."""
    return schema.names[: len(PACKED_COLUMNS)] == PACKED_COLUMNS and _is_binary(schema.field("image").type)


def _batches(table: "parquet.ParquetFile", columns: list[str]) -> Iterator["pa.RecordBatch"]:
    """Yield the rows of a table in small batches."""
    # One row group at a time: pyarrow keeps all that it has read until an iterator ends.
    for group in range(table.num_row_groups):
        yield from table.iter_batches(ROWS_AT_A_TIME, row_groups=[group], columns=columns, use_threads=False)


def _columns(batch: "pa.RecordBatch", image: str, is_packed: bool) -> tuple[Iterator[object], Iterator[object]]:
    """Return the bytes and the paths of the images in a batch. A path is bytes, and either may be None."""
    import pyarrow as pa

    column = batch[image]
    if is_packed:
        return arrow_columns.values(column), arrow_columns.texts(batch["path"])
    if not pa.types.is_struct(column.type):
        return arrow_columns.values(column), iter([None] * len(batch))
    names = [column.type.field(index).name for index in range(column.type.num_fields)]
    paths = arrow_columns.texts(arrow_columns.field(column, "path")) if "path" in names else iter([None] * len(batch))
    return arrow_columns.values(arrow_columns.field(column, "bytes")), paths


def choose_column(given: str | None, usual: Sequence[str], names: Sequence[str], option: str, file: Path) -> str:
    """Return the column that the user names, or the first of the usual names that a table has.

    Raises:
        UsageError: The table has no such column.
    """
    columns = f"the columns are {', '.join(names) or 'missing'}"
    if given is None:
        found = next((name for name in usual if name in names), None)
        if found is None:
            raise UsageError(f"{file}: {columns}: name the one to use with {option}")
        return found
    if given not in names:
        raise UsageError(f"{file}: there is no column {given}; {columns}")
    return given


def _check_types(file: Path, schema: "pa.Schema", image: str, label: str) -> None:
    import pyarrow as pa

    kind = schema.field(image).type
    if pa.types.is_struct(kind):
        fields = [kind.field(index).name for index in range(kind.num_fields)]
        is_image = "bytes" in fields
    else:
        is_image = _is_binary(kind)
    if not is_image:
        raise UsageError(f"{file}: the column {image} is {kind} and no image: name another one with --image-column")
    kind = schema.field(label).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UsageError(f"{file}: the column {label} is {kind} and no text: name another one with --label-column")


def _is_binary(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
