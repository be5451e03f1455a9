"""Save and load the full state of a training run.

A checkpoint is a directory `step_00000123/` with `tensors.safetensors` and `state.json`, which contains a SHA-256 of
both. It is written under a temporary name, flushed to disk and renamed, so that it is either complete or absent.
Nothing in it is executed on load.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from raycrnn import storage
from raycrnn.config import Training
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
"""Number of checkpoints that are kept. If the last one is damaged, the one before it is used."""


class ElapsedSeconds(TypedDict):
    """The wall time of a run at a checkpoint."""

    command: float
    """When the command that wrote the checkpoint started, in seconds since 1970."""
    earlier: float
    """Seconds spent by the commands before that one."""
    all: float
    """Seconds spent by all commands."""


class RunLimits(TypedDict):
    """The settings of `training.*` that end a run. If a finished run gets larger ones, it trains on."""

    n_epochs: int | None
    max_minutes: float | None
    early_stopping: int | None


def limits_of(settings: Training) -> RunLimits:
    """Return the settings that end a run."""
    return {name: getattr(settings, name) for name in RunLimits.__annotations__}  # type: ignore[return-value]


class RunState(TypedDict):
    """The state of a run without its tensors, as JSON."""

    progress: dict[str, Any]
    """The fields of a `learner.TrainingState`."""
    seconds: ElapsedSeconds
    alphabet: Sequence[str]
    csv_files: NotRequired[dict[str, Sequence[str]]]
    """The paths of the CSVs of each data set, in order. raycrnn 0.1 stored them in `identity`."""
    csv_digests: dict[str, str]
    """SHA-256 of each CSV, by its path."""
    csv_row_digests: NotRequired[dict[str, str]]
    """SHA-256 of the file names and labels in each CSV, by its path."""
    identity: dict[str, Any]
    """The settings that must not change during a run: `Configuration.identity`."""
    initial_model: NotRequired[str | None]
    """`training.initial_model`. It is not in `identity`, because it may move."""
    limits: NotRequired[RunLimits]
    """The settings that end a run. raycrnn 0.1 did not store them."""
    rejected_count: int
    """Number of all rejected samples, including those that are not in `rejected`."""
    rejected: dict[str, list[Sequence[Any]]]
    """The samples of each data set that could not be read during training: row number and fields of a `Rejection`."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    path: Path
    state: RunState
    tensors: "dict[str, Tensor]"


def make_state(
    job: "TrainingJob", progress: "TrainingState", seconds: ElapsedSeconds, rejected: "RejectedSamples"
) -> RunState:
    """Return the state of a run, without its tensors."""
    return {
        "progress": asdict(progress),
        "seconds": seconds,
        "alphabet": job.data.alphabet.units,
        "csv_files": {"train": job.configuration.data.train_csvs, "eval": job.configuration.eval_csvs},
        "csv_digests": job.data.csv_digests,
        "csv_row_digests": job.data.csv_row_digests,
        "identity": job.configuration.identity(),
        "initial_model": job.configuration.training.initial_model,
        "limits": limits_of(job.configuration.training),
        "rejected_count": rejected.total(),
        "rejected": {
            name: [(row, *asdict(rejection).values()) for row, rejection in rejections.items()]
            for name, rejections in rejected.while_training.items()
        },
    }


def read_rejected(state: RunState) -> dict[str, dict[int, Rejection]]:
    """Return the samples of each data set that could not be read during training, by row number."""
    return {
        name: {row: Rejection(*fields) for row, *fields in rejections} for name, rejections in state["rejected"].items()
    }


def seconds_before(state: RunState, started: float) -> float:
    """Return the seconds that a run took before this command.

    Args:
        state: The state in a checkpoint.
        started: When this command started. If one of its workers was replaced, the checkpoint may be its own.
    """
    seconds = state["seconds"]
    return seconds["earlier"] if seconds["command"] == started else seconds["all"]


def check_same(names: Sequence[str | None], directory: object) -> None:
    """Check that all workers found the same last checkpoint.

    Args:
        names: What each worker found, by rank.
        directory: The output directory, for the message.

    Raises:
        RaycrnnError: The workers found different checkpoints.
    """
    if len(set(names)) > 1:
        found = ", ".join(f"worker {rank}: {name or 'none'}" for rank, name in enumerate(names))
        raise RaycrnnError(
            f"{directory}/checkpoints: the workers see different last checkpoints ({found}): output_model_dir must be "
            "on a disk that all nodes share"
        )


def copy_tensors(tensors: "dict[str, Tensor]") -> "Callable[[], dict[str, Tensor]]":
    """Copy tensors to the memory of the CPU as they are now, without waiting for a GPU.

    Returns:
        A function that waits for the copy and returns it. Another thread may call it.
    """
    import torch

    copies, devices = {}, set()
    for name, tensor in tensors.items():
        # A GPU copies to pinned memory in the order of its other work: after the last step and before the next one.
        is_on_gpu = tensor.device.type == "cuda"
        copies[name] = torch.empty_like(tensor, device="cpu", pin_memory=is_on_gpu, requires_grad=False)
        copies[name].copy_(tensor.detach(), non_blocking=is_on_gpu)
        if is_on_gpu:
            devices.add(tensor.device)
    copied = [torch.cuda.current_stream(device).record_event() for device in devices]

    def wait() -> "dict[str, Tensor]":
        for event in copied:
            event.synchronize()
        return copies

    return wait


def save(directory: Path, step: int, state: RunState, tensors: "dict[str, Tensor]") -> Path:
    """Write the checkpoint of a step, and keep `MAX_CHECKPOINTS` − 1 of the earlier ones.

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
    # Later steps are damaged checkpoints, which were skipped when the run was resumed. They must not replace good ones.
    later = [path for path in _steps(directory) if path.name > final.name]
    for path in (*later, *_steps(directory)[len(later) + MAX_CHECKPOINTS :]):
        shutil.rmtree(path)
    return final


def _digest(tensors: bytes, state: RunState) -> str:
    return hashlib.sha256(tensors + json.dumps(state, sort_keys=True).encode()).hexdigest()


def _steps(directory: Path) -> list[Path]:
    """Return the paths of the checkpoints, the last step first."""
    return sorted(directory.glob("step_*"), reverse=True)


def last_of(names: Iterable[str]) -> str | None:
    """Return the name of the last complete checkpoint among file names such as `step_00000123/state.json`.

    In object storage a checkpoint may be incomplete, because its files are copied one by one, `state.json` last.
    """
    matches = (re.fullmatch(r"(step_\d+)/state\.json", name) for name in names)
    return max((match[1] for match in matches if match), default=None)


def delete_incomplete(directory: Path) -> None:
    """Delete incomplete checkpoints. A command that is killed can leave them in object storage."""
    for path in _steps(directory):
        if not (path / "state.json").exists():
            shutil.rmtree(path)


def latest(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the last undamaged checkpoint, or None, and a description of what is wrong with each later one."""
    problems: list[str] = []
    for checkpoint in _read_all(directory):
        if isinstance(checkpoint, Checkpoint):
            return checkpoint, problems
        problems.append(checkpoint)
    return None, problems


def _read_all(directory: Path) -> Iterator[Checkpoint | str]:
    """Yield each checkpoint, the last step first, or a description of what is wrong with it."""
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
