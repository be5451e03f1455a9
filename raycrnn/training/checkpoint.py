"""Full training state <-> directory, whole or not at all.

A checkpoint is `step_00000123/` with `tensors.safetensors` and `state.json`, which holds a digest of both. It is
written under a temporary name, flushed to disk and renamed. Nothing in it is executed on load.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


FORMAT = 2
"""Number of the layout; checkpoints of another one are not read."""

KEPT = 2
"""Checkpoints that stay: should the last one be damaged there is one before it."""


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    state: dict
    """JSON values"""
    tensors: "dict[str, Tensor]"


def save(directory: Path, step: int, state: dict, tensors: "dict[str, Tensor]") -> Path:
    """Write the checkpoint of a step; before it `KEPT` − 1 stay, of what went past it nothing.

    Raises:
        OSError: as of a full disk; what was there before is as it was.
    """
    import safetensors.torch

    final = directory / f"step_{step:08d}"
    temporary = directory / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        _write(temporary / "tensors.safetensors", data)
        envelope = {"format": FORMAT, "sha256": _digest(data, state), "state": state}
        _write(temporary / "state.json", json.dumps(envelope).encode())
        if final.exists():
            aside = final.with_name(f".{final.name}.{os.getpid()}.old")
            final.rename(aside)
            temporary.rename(final)
            shutil.rmtree(aside)
        else:
            temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    # Later steps are of damaged checkpoints that the run went on before: they must not outrank whole ones.
    later = [path for path in _steps(directory) if path.name > final.name]
    for path in (*later, *_steps(directory)[len(later) + KEPT :]):
        shutil.rmtree(path)
    return final


def _digest(tensors: bytes, state: dict) -> str:
    return hashlib.sha256(tensors + json.dumps(state, sort_keys=True).encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _steps(directory: Path) -> list[Path]:
    """Checkpoints by name, the last step first."""
    return sorted(directory.glob("step_*"), reverse=True)


def last_of(names: Iterable[str]) -> str | None:
    """The name of the last checkpoint of those to which some files belong, `step_00000123/state.json` among them.

    In object storage one may be half copied, or half deleted: `state.json` is copied last.
    """
    found = (re.fullmatch(r"(step_\d+)/state\.json", name) for name in names)
    return max((match[1] for match in found if match), default=None)


def delete_half_copied(directory: Path) -> None:
    """Delete those of which object storage had the beginning alone, for who wrote them was killed: none were made."""
    for path in _steps(directory):
        if not (path / "state.json").exists():
            shutil.rmtree(path)


def latest(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last whole checkpoint, if there is one, and what is wrong with each later one."""
    problems = []
    for checkpoint in _read_all(directory):
        if isinstance(checkpoint, Checkpoint):
            return checkpoint, problems
        problems.append(checkpoint)
    return None, problems


def _read_all(directory: Path) -> Iterator[Checkpoint | str]:
    import safetensors.torch

    for path in _steps(directory):
        try:
            envelope = json.loads((path / "state.json").read_text())
            data = (path / "tensors.safetensors").read_bytes()
            if envelope["format"] != FORMAT:
                raise ValueError(f"written by another version of raycrnn, in layout {envelope['format']}")
            if _digest(data, envelope["state"]) != envelope["sha256"]:
                raise ValueError("tensors.safetensors or state.json is not what was written")
            yield Checkpoint(path, envelope["state"], safetensors.torch.load(data))
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            yield f"{path}: not whole: {error}"
