"""The files of a model directory, read without PyTorch: which there are, their versions, and the configuration."""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from raycrnn import config, storage
from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.lexicon import Lexicon
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language import model_files as language_files
from raycrnn.language.ngram_model import NgramModel

T = TypeVar("T")

WEIGHTS = "model.safetensors"
CONFIGURATION, ALPHABET, METRICS = "config.json", "alphabet.json", "metrics.json"
CALIBRATION = "calibration.json"
"""Missing in models that were written before there was a calibration."""
LANGUAGE_MODEL = "language_model.safetensors"
"""Missing in models without a language model."""
LEXICON = "lexicon.txt"
"""Missing in models without a lexicon."""
MODEL_CARD = "README.md"

FILES = (WEIGHTS, CONFIGURATION, ALPHABET, METRICS, CALIBRATION, LANGUAGE_MODEL, LEXICON)
"""The files that are read."""

IDENTITY_FILES = (WEIGHTS, CONFIGURATION, ALPHABET)
"""The files that tell one model from another."""


def read_configuration(location: str | Path, overrides: Sequence[str] = ()) -> config.Configuration:
    """Read the configuration of a model directory, with overrides that a trained model allows.

    Raises:
        UsageError: There is no model directory, or an override is invalid.
        RaycrnnError: Files are missing or damaged.
    """
    check_overrides(overrides)
    with storage.copied(location, FILES) as folder:
        return configuration_of(folder, str(location), overrides)


def read_unchanged(location: str | Path, read: Callable[[Path], T]) -> T:
    """Return what a function reads from a model directory, of which it gets the path or that of a local copy.

    If the directory is replaced in the meantime, the function reads the new one.
    """
    with storage.copied(location, FILES) as folder:
        before = fingerprint(folder)
        try:
            result = read(folder)
        except RaycrnnError:
            if fingerprint(folder) == before:
                raise
        else:
            if fingerprint(folder) == before:
                return result
    with storage.copied(location, FILES) as folder:
        return read(folder)


LABELS = "labels"
"""The value of `decoding.language_model` that names no file."""


def overridden_language_model(overrides: Sequence[str]) -> NgramModel | None:
    """Return the language model that overrides name, if any.

    Workers on other machines may not have its file: a command reads it once, and passes the model on.

    Raises:
        UsageError: The file cannot be read.
        RaycrnnError: It is not a language model, or is damaged.
    """
    given = [each for each in overrides if each.startswith("decoding.language_model=")]
    location = config.with_overrides({"decoding": {}}, given)["decoding"].get("language_model")
    if not isinstance(location, str) or location == LABELS:
        return None
    return language_files.read(storage.with_home(location))


def overridden_lexicon(
    location: str | Path, overrides: Sequence[str], configuration: config.Configuration
) -> Lexicon | None:
    """Return the lexicon that overrides name, if any, without the entries that the model cannot read.

    A command reads it once, and passes it on to its workers, as with `overridden_language_model`.

    Args:
        location: Path or URI of the model directory.
        overrides: The overrides.
        configuration: The configuration of the model with the overrides.

    Raises:
        UsageError: The file cannot be read, or has no entry that the model can read.
    """
    name = configuration.decoding.lexicon
    if name is None or not any(each.startswith("decoding.lexicon=") for each in overrides):
        return None
    lexicon = Lexicon.read(name, configuration.data)
    alphabet = Alphabet.load(storage.join(_current(location), ALPHABET), configuration.data.unicode_form)
    return lexicon.readable(alphabet, image.frames(configuration.image.input_shape[1]))


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise a `UsageError` if an override changes a setting that is fixed by training."""
    for override in overrides:
        if not override.startswith(("decoding.", "data.")):
            raise UsageError(f"{override}: only decoding.* and data.* can be changed in a trained model")


def configuration_of(folder: Path, location: str, overrides: Sequence[str]) -> config.Configuration:
    """Check that a folder has all files of a model directory, and return its configuration.

    Args:
        folder: The directory, or a local copy.
        location: The path or URI of the directory, for messages.
        overrides: Settings `key=value` that replace those of the model.

    Raises:
        UsageError: It is not a model directory, or an override is invalid.
        RaycrnnError: Files are missing or damaged.
    """
    if not (folder / WEIGHTS).is_file():
        inner = storage.join(location, "model")
        hint = f"; did you mean {inner}?" if storage.exists(storage.join(inner, WEIGHTS)) else ""
        raise UsageError(f"{location}: not a model directory: it contains no {WEIGHTS}{hint}")
    missing = [name for name in (CONFIGURATION, ALPHABET, METRICS) if not (folder / name).is_file()]
    if missing:
        raise RaycrnnError(f"{location}: the model directory lacks {', '.join(missing)}; copy all of its files")
    tree = config.read_json_object(folder / CONFIGURATION)
    return config.parse(tree, tuple(overrides), storage.join(location, CONFIGURATION))


def file_digests(location: str) -> dict[str, str]:
    """Return the SHA-256 digest of each file on which transcriptions depend."""
    digests = {}
    for name in (*IDENTITY_FILES, CALIBRATION, LANGUAGE_MODEL, LEXICON):
        with suppress(FileNotFoundError, NotADirectoryError):
            digests[name] = hashlib.sha256(storage.read(storage.join(_current(location), name))).hexdigest()
    return digests


def as_location(location: str | Path) -> str | Path:
    """Return a URI as a string, anything else as a path, so that equal locations compare equal."""
    return str(location) if storage.is_uri(location) else Path(location)


def fingerprint(location: str | Path) -> tuple[Hashable, ...]:
    """Return a value that changes when the model is replaced, without reading its files.

    Args:
        location: The result of `as_location`.

    Returns:
        The fingerprint; an empty tuple if there is no model.
    """
    try:
        if not isinstance(location, Path):
            files = storage.names(location)
            return tuple(files[name] for name in IDENTITY_FILES if name in files)
        folder = storage.current_directory(location)
        states = [(folder / name).stat() for name in IDENTITY_FILES]
    except OSError:
        return ()
    return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)


def version_of(location: str | Path) -> str:
    """Return the version of a model: 12 hexadecimal digits of a digest of its files.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for name in IDENTITY_FILES:
        digest.update(storage.read(storage.join(_current(location), name)))
    return digest.hexdigest()[:12]


def _current(location: str | Path) -> str:
    """Return the directory to read, also while it is being replaced."""
    return str(location) if storage.is_uri(location) else str(storage.current_directory(Path(location)))
