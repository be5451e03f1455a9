"""Transcribe many images into one file."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from raycrnn import __version__
from raycrnn.config import Configuration

FORMATS = {"": "csv", ".csv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
"""of an output, by its suffix; of one with another suffix it has to be said"""


def identity(model: Mapping[str, str], configuration: Configuration, spans: bool, inputs: pa.Table) -> dict[str, Any]:
    """What a resumed run must have in common with the one that began.

    Args:
        model: digests of its files.
    """
    decoding = configuration.decoding.model_dump(mode="json")
    return {
        "raycrnn": __version__,
        **{f"the model's {name}": {"sha256": digest} for name, digest in model.items()},
        **{f"decoding.{key}": value for key, value in decoding.items()},
        # Of data.* the only key that has a part in what is read beside the list of images.
        "data.unicode_form": configuration.data.unicode_form,
        "spans": spans,
        "images": len(inputs),
        "the list of images": {"sha256": _digest(inputs)},
    }


def _digest(inputs: pa.Table) -> str:
    digest = hashlib.sha256()
    for batch in inputs.to_batches():
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()
