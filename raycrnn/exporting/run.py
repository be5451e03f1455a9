"""Export a model to one file, checked before it is renamed into place."""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raycrnn import storage
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.exporting import comparison, formats, graph
from raycrnn.exporting.comparison import Agreement
from raycrnn.exporting.formats import FORMATS
from raycrnn.model import runtime
from raycrnn.model.recognizer import Recognizer


def suffix(path: str) -> str:
    """Return the suffix of a path or URI."""
    # The options of a URI are not part of its name.
    return Path(path.partition("?")[0] if storage.is_uri(path) else path).suffix


@dataclass(frozen=True)
class ExportedFile:
    """What is known about a file that was written."""

    agreement: Agreement
    runtime: str
    """What is needed to run it, such as "onnxruntime 1.11 or later"."""


def export(recognizer: Recognizer, path: str | os.PathLike[str], images: Iterable[np.ndarray]) -> ExportedFile:
    """Export a model in the format of the path's suffix, if the result agrees with the model on the images.

    Args:
        path: path or URI of the file to write.
        images: uint8 [H, W, C], as `Recognizer.prepare` returns them.

    Raises:
        UsageError: the path cannot be written, or packages are missing.
        RaycrnnError: the exporter fails, there are no images, or the result differs. An existing file stays unchanged.
    """
    runtime.limit_threads()
    path = os.fspath(path)
    format = FORMATS[suffix(path)]
    format.check_installed()
    with _on_this_machine(path) as local, _write_output(local) as temporary:
        with _exporting(format.name):
            data = format.write(graph.trace(recognizer), formats.describe(recognizer))
            agreement = comparison.compare(recognizer, format.load(data), images)
        agreement.check(path)
        temporary.write_bytes(data)
    return ExportedFile(agreement, format.runtime(data))


@contextmanager
def _on_this_machine(path: str) -> Iterator[Path]:
    """Yield the path, or for a URI a temporary path, whose file is uploaded at the end. Raises `RaycrnnError`."""
    if not storage.is_uri(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="raycrnn-") as folder:
        local = Path(folder) / "model"
        yield local
        try:
            storage.upload(local, path)
        except OSError as error:
            raise RaycrnnError(f"{path}: cannot be written: {storage.describe(error)}") from None


@contextmanager
def _write_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed at the end. Raises `UsageError` at once if it cannot be written."""
    path = path.resolve()
    try:
        with storage.replacing_file(path) as temporary:
            try:
                temporary.touch()
            except OSError as error:
                raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
            yield temporary
    except OSError as error:
        raise RaycrnnError(f"{path}: cannot be written: {error.strerror}") from None


EXPORTERS = ("torch", "onnxscript", "onnx_ir")
"""Loggers of the libraries that export."""


@contextmanager
def _exporting(name: str) -> Iterator[None]:
    """Hide warnings of the exporters, which users cannot act on, and turn their errors into a `RaycrnnError`."""
    loggers = [logging.getLogger(exporter) for exporter in EXPORTERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RaycrnnError:
        raise
    except Exception as error:  # Exporters raise errors of any type.
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RaycrnnError(f"torch {torch.__version__} cannot export this model as {name}: {message}") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
