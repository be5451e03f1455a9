"""Save and load the full state of a training run.

A checkpoint is a directory `step_00000123/` with `tensors.safetensors` and `state.json`, which holds a SHA-256 of both.
It is written under a temporary name, flushed to disk and renamed, so that a reader finds all of it or nothing. Nothing
in it is executed on load.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from raycrnn import storage
from raycrnn.data.rejections import Rejection
from raycrnn.errors import RaycrnnError

if TYPE_CHECKING:
    from torch import Tensor

    from raycrnn.training.job import TrainingJob
    from raycrnn.training.learner import TrainingState
    from raycrnn.training.rejected_samples import RejectedSamples


FORMAT = 2
"""Version of the layout. Checkpoints in other layouts are not read."""

MAX_CHECKPOINTS = 2
"""Checkpoints that are kept: if the last one is damaged, the one before it is used."""


class ElapsedSeconds(TypedDict):
    """The wall time of a run at a checkpoint."""

    command: float
    """When the command that wrote the checkpoint started, in seconds since 1970."""
    earlier: float
    """Seconds spent by the commands before that one."""
    all: float
    """Seconds spent by all commands."""


class RunState(TypedDict):
    """The state of a run as JSON: all but the tensors."""

    progress: dict[str, Any]
    """The fields of a `learner.TrainingState`."""
    seconds: ElapsedSeconds
    alphabet: Sequence[str]
    csv_digests: dict[str, str]
    identity: dict[str, Any]
    rejected_count: int
    """All rejected samples, also those that are not in `rejected`."""
    rejected: dict[str, list[Sequence[Any]]]
    """For each set the samples that could not be read since training began: row number and fields of a `Rejection`."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    path: Path
    state: RunState
    tensors: "dict[str, Tensor]"


def make_state(
    job: "TrainingJob", progress: "TrainingState", seconds: ElapsedSeconds, rejected: "RejectedSamples"
) -> RunState:
    """Return the state of a run, to be saved beside its tensors."""
    return {
        "progress": asdict(progress),
        "seconds": seconds,
        "alphabet": job.data.alphabet.units,
        "csv_digests": job.data.csv_digests,
        "identity": job.configuration.identity(),
        "rejected_count": rejected.total(),
        "rejected": {
            name: [(row, *asdict(rejection).values()) for row, rejection in rejections.items()]
            for name, rejections in rejected.while_training.items()
        },
    }


def read_rejected(state: RunState) -> dict[str, dict[int, Rejection]]:
    """Return the samples of each set that could not be read since training began, by row number."""
    return {
        name: {row: Rejection(*fields) for row, *fields in rejections} for name, rejections in state["rejected"].items()
    }


def seconds_before(state: RunState, started: float) -> float:
    """Return the seconds that a run took before this command.

    Args:
        started: Start of this command. The checkpoint is its own if one of its workers was replaced.
    """
    seconds = state["seconds"]
    return seconds["earlier"] if seconds["command"] == started else seconds["all"]


def check_same(names: Sequence[str | None], directory: object) -> None:
    """Check that all workers found the same last checkpoint.

    Args:
        names: What each worker found, by rank.
        directory: The output directory, for the message.

    Raises:
        RaycrnnError: They would continue from different steps.
    """
    if len(set(names)) > 1:
        found = ", ".join(f"worker {rank}: {name or 'none'}" for rank, name in enumerate(names))
        raise RaycrnnError(
            f"{directory}/checkpoints: the workers see different last checkpoints ({found}): output_model_dir must be "
            "on a disk that all nodes share"
        )


def save(directory: Path, step: int, state: RunState, tensors: "dict[str, Tensor]") -> Path:
    """Write the checkpoint of a step, and delete all others but the `MAX_CHECKPOINTS` − 1 before it.

    Raises:
        OSError: It cannot be written, for example because the disk is full; existing checkpoints are unchanged.
    """
    import safetensors.torch

    final = directory / f"step_{step:08d}"
    with storage.replacing_directory(final) as temporary:
        data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        (temporary / "tensors.safetensors").write_bytes(data)
        envelope = {"format": FORMAT, "sha256": _digest(data, state), "state": state}
        (temporary / "state.json").write_bytes(json.dumps(envelope).encode())
    # Later steps are damaged checkpoints that the run was resumed before: they must not hide whole ones.
    later = [path for path in _steps(directory) if path.name > final.name]
    for path in (*later, *_steps(directory)[len(later) + MAX_CHECKPOINTS :]):
        shutil.rmtree(path)
    return final


def _digest(tensors: bytes, state: RunState) -> str:
    return hashlib.sha256(tensors + json.dumps(state, sort_keys=True).encode()).hexdigest()


def _steps(directory: Path) -> list[Path]:
    """Return the checkpoints by their names, the last step first."""
    return sorted(directory.glob("step_*"), reverse=True)


def last_of(names: Iterable[str]) -> str | None:
    """Return the name of the last complete checkpoint among file names such as `step_00000123/state.json`.

    In object storage a checkpoint may be half copied or half deleted; `state.json` is copied last.
    """
    matches = (re.fullmatch(r"(step_\d+)/state\.json", name) for name in names)
    return max((match[1] for match in matches if match), default=None)


def delete_incomplete(directory: Path) -> None:
    """Delete checkpoints that were half copied to object storage when the command that wrote them was killed."""
    for path in _steps(directory):
        if not (path / "state.json").exists():
            shutil.rmtree(path)


def latest(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the last undamaged checkpoint, or None, and a description of the damage of each later one."""
    problems: list[str] = []
    for checkpoint in _read_all(directory):
        if isinstance(checkpoint, Checkpoint):
            return checkpoint, problems
        problems.append(checkpoint)
    return None, problems


def _read_all(directory: Path) -> Iterator[Checkpoint | str]:
    """Yield each checkpoint, the last step first, or what is wrong with it."""
    import safetensors.torch

    for path in _steps(directory):
        try:
            envelope = json.loads((path / "state.json").read_text())
            data = (path / "tensors.safetensors").read_bytes()
            if envelope["format"] != FORMAT:
                raise ValueError(f"written by another version of raycrnn, in layout {envelope['format']}")
            if _digest(data, envelope["state"]) != envelope["sha256"]:
                raise ValueError("tensors.safetensors or state.json was changed after it was written")
            yield Checkpoint(path, envelope["state"], safetensors.torch.load(data))
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            yield f"{path}: damaged checkpoint: {error}"
