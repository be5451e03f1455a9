"""Files of a model directory."""

import hashlib
from contextlib import suppress
from pathlib import Path

from raycrnn import config, storage
from raycrnn.model.calibration import Calibration


def file_digests(model: str) -> dict[str, str]:
    """SHA-256 of each of a model's files that says what it reads."""
    found = {}
    for name in ("model.safetensors", "config.json", "alphabet.json", "calibration.json"):
        with suppress(FileNotFoundError, NotADirectoryError):
            found[name] = hashlib.sha256(storage.read(storage.join(model, name))).hexdigest()
    return found


FILES = ("model.safetensors", "config.json", "alphabet.json", "metrics.json", "calibration.json")
"""of a model directory, as far as they are read"""


def read_calibration(model: Path) -> Calibration:
    """Of models that were exported before there was one, none. Raises `RaycrnnError` where it is damaged."""
    path = model / "calibration.json"
    return Calibration.from_json(config.read_json_object(path), str(path)) if path.exists() else Calibration()


MODEL_FILES = ("model.safetensors", "config.json", "alphabet.json")


def as_location(model: str | Path) -> str | Path:
    """A URI as it is, else a path, however it is written."""
    return str(model) if storage.is_uri(model) else Path(model)


def fingerprint(model: str | Path) -> tuple:
    """What changes when files of a model directory do; () where it is not there."""
    try:
        if not isinstance(model, Path):
            there = storage.names(model)
            return tuple(there[name] for name in MODEL_FILES if name in there)
        states = [(model / name).stat() for name in MODEL_FILES]
    except OSError:
        return ()
    return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)


def version_of(model: str | Path) -> str:
    digest = hashlib.sha256()
    for name in MODEL_FILES:
        digest.update(storage.read(storage.join(str(model), name)))
    return digest.hexdigest()[:12]
