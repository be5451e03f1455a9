"""Binary data sets of kraken (`ketos compile`): Arrow files with a column `lines` of structs with `text` and `im`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from raycrnn.tools.convert import arrow_columns
from raycrnn.tools.convert.records import ImportOptions, Items, LabelledImage, LeftOut, UnusableLine

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

FILES = "*.arrow"

COLUMN = "lines"


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes is an Arrow file."""
    return head.startswith(b"ARROW1")


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the lines of a file."""
    import pyarrow as pa

    row = 0
    try:
        with pa.memory_map(str(file)) as memory, pa.ipc.open_file(memory) as table:
            if problem := _problem(table.schema):
                raise UnusableLine("not a data set of kraken", problem)
            splits = [name for name in ("train", "validation", "test") if name in table.schema.names]
            if splits:
                logger.info(f"{file}: the division in {', '.join(splits)} is not kept: use raycrnn split")
            for number in range(table.num_record_batches):
                column = table.get_batch(number)[COLUMN]
                images = arrow_columns.values(arrow_columns.field(column, "im"))
                texts = arrow_columns.texts(arrow_columns.field(column, "text"))
                for image, text in zip(images, texts, strict=True):
                    row += 1
                    if isinstance(image, bytes):
                        yield LabelledImage(file, f"row {row}", f"{file.stem}_{row:06d}", image, text)
                    else:
                        yield LeftOut(file, f"row {row}", "no image in the row")
    except (pa.ArrowException, OSError) as error:
        message = str(error).partition("\n")[0]
        yield LeftOut(file, f"after row {row}" if row else "", "not an Arrow file, or a damaged one", message)


def _problem(schema: "pa.Schema") -> str | None:
    """Return why a table is not a data set of kraken; None if it is one."""
    import pyarrow as pa

    if COLUMN not in schema.names:
        return f"there is no column {COLUMN}; the columns are {', '.join(schema.names)}"
    kind = schema.field(COLUMN).type
    if not pa.types.is_struct(kind) or not {"text", "im"} <= {kind.field(i).name for i in range(kind.num_fields)}:
        return f"the column {COLUMN} is {kind} and no struct of text and im"
    return None
