"""The files of model directories, read without PyTorch: which there are, their versions, and the configuration."""

import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from raycrnn import config, storage
from raycrnn.config.decoding import LABELS
from raycrnn.config.group import AUTO
from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.lexicon import Lexicon
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language import model_files as language_files
from raycrnn.language.ngram_model import NgramModel
from raycrnn.model.model_names import NAMES, directory_of

T = TypeVar("T")

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
CONFIGURATION, ALPHABET, METRICS = "config.json", "alphabet.json", "metrics.json"
CALIBRATION = "calibration.json"
"""Missing in models that were written before there was a calibration."""
LANGUAGE_MODEL = "language_model.safetensors"
"""Missing in models without a language model."""
LEXICON = "lexicon.txt"
"""Missing in models without a lexicon."""
MODEL_CARD = "README.md"

MODELS = "models.json"
"""In a directory of several models, which vote: {"models": [the names of their directories in it]}."""

Models = str | Path | Sequence[str | Path]
"""Paths, URIs or names (`model_names.NAMES`) of model directories, or of directories that hold several models."""

FILES = (WEIGHTS, CONFIGURATION, ALPHABET, METRICS, CALIBRATION, LANGUAGE_MODEL, LEXICON, MODELS)
"""The files that are read."""

REQUIRED_FILES = (WEIGHTS, CONFIGURATION, ALPHABET)

IDENTITY_FILES = (*REQUIRED_FILES, LANGUAGE_MODEL, LEXICON)
"""The files that tell one model from another, as far as it has them."""


def members(models: Models) -> tuple[str, ...]:
    """Return the locations of all model directories, with those that directories of several models list.

    Raises:
        UsageError: The list of a directory cannot be read or is not valid.
    """
    locations = [models] if isinstance(models, str | Path) else models
    return tuple(member for location in locations for member in _members_of(_as_text(location)))


def _members_of(location: str) -> list[str]:
    place = storage.join(_current(location), MODELS)
    if not storage.exists(place):
        return [location]
    names = config.read_json_object(place).get("models")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UsageError(f'{place}: not a list of models: it must be {{"models": ["name of a directory in it", …]}}')
    return [storage.join(location, name) for name in names]


def is_model(location: str) -> bool:
    """Return whether a location is that of a model directory, or of a directory that holds several models."""
    try:
        return any(storage.exists(storage.join(directory_of(location), name)) for name in (WEIGHTS, MODELS))
    except OSError:
        # Storage is unreachable. Whatever uses the argument reports it.
        return False


def usage_lines(name: str) -> list[str]:
    """Return the section of a model card that shows how to use it, given the class of the Python API that loads it."""
    variable = name.lower()
    return [
        "## Usage",
        "",
        "In this directory:",
        "",
        "    raycrnn predict . images/ -o transcriptions.csv",
        "    raycrnn evaluate . data.csv",
        "    raycrnn serve .",
        "",
        "In Python:",
        "",
        f"    from raycrnn import {name}",
        "",
        f'    {variable} = {name}.load(".")',
        f'    print({variable}("line.png")[0].text)',
        "",
    ]


def describe(models: Models) -> str:
    """Return the models as text for messages and reports."""
    return str(models) if isinstance(models, str | Path) else ", ".join(map(str, models))


def as_argument(model: str) -> str:
    """Return an argument that names a model.

    For the name of an included model it is `./NAME`, if the working directory has a model directory of that name.
    """
    if model not in NAMES or not is_model(f"./{model}"):
        return model
    logger.warning(f"{model}: reading the model directory ./{model}, not the model of that name in raycrnn")
    return f"./{model}"


def leading_models(first: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the model directories at the start of the arguments of a command, and the arguments after them.

    Args:
        first: The first argument, which is a model directory.
        arguments: The others.
    """
    others = list(itertools.takewhile(_is_model_argument, arguments))
    models = list(map(as_argument, (first, *others)))
    if any(model in NAMES for model in models[1:]):
        logger.info(f"{len(models)} models vote: {', '.join(models)}")
    return models, list(arguments[len(others) :])


def _is_model_argument(argument: str) -> bool:
    # A folder of images may have the name of a model.
    return is_model(f"./{argument}" if argument in NAMES and os.path.exists(argument) else argument)


def read_configurations(models: Models, overrides: Sequence[str] = ()) -> list[config.Configuration]:
    """Read the configuration of each model directory, with overrides that a trained model allows.

    Raises:
        UsageError: There is no model directory, or an override is invalid.
        RaycrnnError: Files are missing or damaged.
    """
    check_overrides(overrides)
    configurations = []
    for location in members(models):
        with storage.copied(directory_of(location), FILES) as folder:
            configurations.append(configuration_of(folder, location, overrides))
    return configurations


def read_unchanged(location: str | Path, read: Callable[[Path], T]) -> T:
    """Return what a function reads from a model directory, of which it gets the path or that of a local copy.

    If the directory is replaced in the meantime, the function reads the new one.
    """
    # Not of the copy, whose files may be those of two models.
    source, directory = as_location(location), directory_of(_as_text(location))
    before = fingerprint(source)
    with storage.copied(directory, FILES) as folder:
        try:
            result = read(folder)
        except RaycrnnError:
            if fingerprint(source) == before:
                raise
        else:
            if fingerprint(source) == before:
                return result
    with storage.copied(directory, FILES) as folder:
        return read(folder)


def overridden_language_model(overrides: Sequence[str]) -> NgramModel | None:
    """Return the language model that overrides name, if any.

    Workers on other machines may not have its file: a command reads it once, and passes the model on.

    Raises:
        UsageError: The file cannot be read.
        RaycrnnError: It is not a language model, or is damaged.
    """
    given = [each for each in overrides if each.startswith("decoding.language_model=")]
    location = config.with_overrides({"decoding": {}}, given)["decoding"].get("language_model")
    if not isinstance(location, str) or location in (AUTO, LABELS):
        return None
    return language_files.read(storage.with_home(location))


def overridden_lexicon(models: Models, overrides: Sequence[str]) -> Lexicon | None:
    """Return the lexicon that overrides name, if any, without the entries that the model cannot read.

    A command reads it once, and passes it on to its workers, as with `overridden_language_model`. If several models
    vote, each of them leaves out other entries, so that here all are kept.

    Args:
        models: The models.
        overrides: The overrides.

    Raises:
        UsageError: There is no model directory, an override is invalid, the file cannot be read, or it has no entry
            that the model can read.
        RaycrnnError: Files of a model directory are missing or damaged.
    """
    if not any(each.startswith("decoding.lexicon=") for each in overrides):
        return None
    configuration, *others = read_configurations(models, overrides)
    if configuration.decoding.lexicon is None:
        return None
    lexicon = Lexicon.read(configuration.decoding.lexicon, configuration.data)
    if others:
        return lexicon
    (location,) = members(models)
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
    if (folder / MODELS).is_file():
        raise UsageError(
            f"{location}: holds several models, which vote: evaluate, predict and serve take it, and raycrnn.Voter; "
            "otherwise name one of the model directories in it"
        )
    if not (folder / WEIGHTS).is_file():
        inner = storage.join(location, "model")
        hint = f"; did you mean {inner}?" if storage.exists(storage.join(inner, WEIGHTS)) else ""
        raise UsageError(f"{location}: not a model directory: it contains no {WEIGHTS}{hint}")
    missing = [name for name in (CONFIGURATION, ALPHABET, METRICS) if not (folder / name).is_file()]
    if missing:
        raise RaycrnnError(f"{location}: the model directory lacks {', '.join(missing)}; copy all of its files")
    tree = config.read_json_object(folder / CONFIGURATION)
    return config.parse(tree, tuple(overrides), storage.join(location, CONFIGURATION))


def file_digests(models: Models) -> dict[str, str]:
    """Return the SHA-256 digest of each file on which transcriptions depend.

    The names of the files of several models begin with the number of the model.
    """
    digests, locations = {}, members(models)
    for number, location in enumerate(locations, 1):
        for name in (*IDENTITY_FILES, CALIBRATION):
            with suppress(FileNotFoundError, NotADirectoryError):
                data = storage.read(storage.join(_current(location), name))
                key = name if len(locations) == 1 else f"{number}/{name}"
                digests[key] = hashlib.sha256(data).hexdigest()
    return digests


def as_location(models: Models) -> Models:
    """Return URIs and names as strings, anything else as paths, so that equal locations compare equal."""
    return _as_location(models) if isinstance(models, str | Path) else tuple(map(_as_location, models))


def _as_location(model: str | Path) -> str | Path:
    return str(model) if storage.is_uri(model) or model in NAMES else Path(model)


def _as_text(location: str | Path) -> str:
    """Return a location as text. Only text is a name: the path of ./latin is written like one."""
    return f"./{location}" if isinstance(location, Path) and str(location) in NAMES else str(location)


def absolute(models: str | Sequence[str]) -> str | tuple[str, ...]:
    """Return the locations of one or several models for processes with another working directory."""
    return _absolute(models) if isinstance(models, str) else tuple(map(_absolute, models))


def _absolute(model: str) -> str:
    return model if model in NAMES else storage.absolute(model)


def fingerprint(models: Models) -> tuple[Hashable, ...]:
    """Return a value that changes when a model is replaced, without reading the files of models.

    Args:
        models: The result of `as_location`.

    Returns:
        The fingerprint; an empty tuple if a model is missing.
    """
    try:
        states = [_fingerprint_of(location) for location in members(models)]
    except (OSError, UsageError):
        return ()
    return tuple(state for own in states for state in own) if all(states) else ()


def _fingerprint_of(location: str) -> tuple[Hashable, ...]:
    try:
        if storage.is_uri(location):
            files = storage.names(location)
            return tuple(files[name] for name in IDENTITY_FILES if name in files)
        folder = Path(_current(location))
        names = [name for name in IDENTITY_FILES if name in REQUIRED_FILES or (folder / name).exists()]
        states = [(folder / name).stat() for name in names]
    except OSError:
        return ()
    return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)


def version_of(models: Models) -> str:
    """Return the version of a model, or of several: 12 hexadecimal digits of a digest of their files.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for location in members(models):
        for name in IDENTITY_FILES:
            with nullcontext() if name in REQUIRED_FILES else suppress(FileNotFoundError):
                digest.update(storage.read(storage.join(_current(location), name)))
    return digest.hexdigest()[:12]


def _current(location: str) -> str:
    """Return the directory to read, also while it is being replaced."""
    directory = directory_of(location)
    return directory if storage.is_uri(directory) else str(storage.current_directory(Path(directory)))
