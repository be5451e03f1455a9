"""Columns of pyarrow's record batches as Python values. pyarrow is imported by those who call this."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def values(column: "pa.Array") -> Iterator[object]:
    """Yield the values one after the other, so that only one image is copied at a time. Raises `pa.ArrowException`."""
    import pyarrow as pa

    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        # In a damaged file, a value may lie outside the memory.
        column.validate(full=True)
    return (value.as_py() for value in column)


def texts(column: "pa.Array") -> Iterator[object]:
    """Yield the values of a column of text as bytes: Arrow does not ensure that text is valid UTF-8."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return values(column)


def field(column: "pa.Array", name: str) -> "pa.Array":
    """Return a field of a column of structs, which is null where the struct is."""
    return column.flatten()[column.type.get_field_index(name)]
