"""Export a model to one file, checked before it is renamed into place."""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from raycrnn import storage
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.exporting import comparison, formats, graph
from raycrnn.exporting.comparison import Agreement
from raycrnn.exporting.formats import FORMS
from raycrnn.model.recognizer import Recognizer


def suffix(path: str) -> str:
    # The options of a URI are not part of its name.
    return Path(path.partition("?")[0] if storage.is_uri(path) else path).suffix


def export(recognizer: Recognizer, path: str | os.PathLike, images: Iterable[np.ndarray]) -> "Agreement":
    """Write a model in the form that the path's suffix names, if it agrees with the model on the images.

    Args:
        path: or URI.
        images: uint8 [H, W, C], as `Recognizer.prepare` gives them.

    Raises:
        UsageError: the path cannot be written, or packages are missing.
        RaycrnnError: the exporter fails, no images, or what it made differs; a file of that name is as it was.
    """
    path = os.fspath(path)
    form = FORMS[suffix(path)]
    form.check_installed()
    with _on_this_machine(path) as local, _write_output(local) as temporary:
        with _exporting(form.name):
            data = form.write(graph.trace(recognizer), formats.describe(recognizer))
            agreement = comparison.compare(recognizer, form.load(data), images)
        agreement.check(path)
        temporary.write_bytes(data)
    return agreement


@contextmanager
def _on_this_machine(path: str) -> Iterator[Path]:
    """A path itself; for a URI one from which the file is uploaded in the end. Raises `RaycrnnError`."""
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
    """Yield a temporary path, which is renamed in the end. Raises `UsageError` at once if it cannot be written."""
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


@contextmanager
def _exporting(name: str) -> Iterator[None]:
    """Without the exporters' warnings, which nobody can act on. What they fail with becomes a `RaycrnnError`."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RaycrnnError:
        raise
    except Exception as error:  # Exporters let through whatever a network makes them stumble over.
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RaycrnnError(f"torch {torch.__version__} makes no {name} of this model that runs: {message}") from None
    finally:
        logging.disable(disabled)
