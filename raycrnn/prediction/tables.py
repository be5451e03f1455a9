"""The columns of the tables between the stages of a prediction run."""

import pyarrow as pa

from raycrnn.prediction import formats

DECODED = pa.schema(
    {
        "pixels": pa.large_binary(),
        "width": pa.int32(),
        "size": pa.list_(pa.int32()),
        "others": pa.list_(pa.struct({"pixels": pa.large_binary(), "width": pa.int32()})),
        "rejected": pa.list_(pa.string()),
    }
)
"""Columns of a table with one row per image: uint8 [H, W, C] as bytes, its upright width and height before it was
fitted, and the image for other models of a vote that read another size; or the reason and the detail of a rejection."""

RESULTS = pa.schema(
    {
        "text": pa.string(),
        "codes": pa.list_(pa.int32()),
        "confidence": pa.float64(),
        "log_prob": pa.float64(),
        "score": pa.float64(),
        "alternatives": pa.list_(pa.struct({**formats.ALTERNATIVE, "codes": pa.list_(pa.int32())})),
        "units": pa.list_(pa.struct({**formats.UNIT, "code": pa.int32()})),
        "size": pa.list_(pa.int32()),
        "is_blank": pa.bool_(),
        "rejected": pa.list_(pa.string()),
    }
)
"""Columns of a table with one row per image: `Transcription.to_json`, the upright width and height of the image and
whether all its pixels are equal; or the reason and the detail of a rejection."""
