"""Decide whether a command starts or resumes a run, and check that data and settings are the same."""

import logging
from typing import TYPE_CHECKING

from raycrnn.errors import UsageError
from raycrnn.storage import Directory
from raycrnn.training import checkpoint
from raycrnn.training.checkpoint import RunState

if TYPE_CHECKING:
    from raycrnn.training.monitor import TrainingResult

logger = logging.getLogger(__name__)


def resume_state(output: Directory, restore: bool) -> RunState | None:
    """Return the state of the last undamaged checkpoint, or None to start a new run.

    Raises:
        UsageError: The output directory is in use, or none of its checkpoints can be read.
    """
    if output.path.exists() and not output.path.is_dir():
        raise UsageError(f"{output}: output_model_dir is a file")
    entries = output.entries()
    # A run that was refused because of its data leaves only rejected.csv.
    if entries <= {"rejected.csv"}:
        return None
    if not entries & {"run.json", "checkpoints"}:
        raise UsageError(f"{output}: is not empty and contains no run: choose another output_model_dir")
    if not restore:
        raise UsageError(
            f"{output}: exists and is not empty: choose another output_model_dir, or continue the run in it with "
            "restore_model=true"
        )
    output.fetch("checkpoints")
    if output.uri:
        checkpoint.delete_incomplete(output.path / "checkpoints")
    found, problems = checkpoint.latest(output.path / "checkpoints")
    for problem in problems:
        logger.warning(problem)
    if found is None and problems:
        raise UsageError(f"{output}: none of its checkpoints can be read: restore one, or choose another directory")
    if found is None:
        logger.info(f"{output}: no checkpoint: starting a new run")
        return None
    if problems:
        logger.info(f"the checkpoint before it is used: {found.path.name}")
    return found.state


def finished(output: Directory, state: RunState) -> "TrainingResult":
    """Return the result of a run that has ended. Raises `UsageError` if its model is missing."""
    progress = state["progress"]
    if "model" not in output.entries():
        raise UsageError(f"{output}: this run is finished, but its model/ is missing: start a new output_model_dir")
    logger.info(
        f"{output}: this run is finished, at step {progress['step']}; choose a new output_model_dir for another run"
    )
    return {"best": progress["best"], "steps": progress["step"], "rejected": state["rejected_count"]}


def check_same_data(resumed: RunState, now: dict[str, str], units: tuple[str, ...], output: Directory) -> None:
    """Raise `UsageError` if the CSVs or the alphabet are not those of the checkpoint."""
    before = resumed["csv_digests"]
    changed = [path for path, digest in now.items() if path in before and before[path] != digest]
    differences = {
        "changed": changed,
        "new": [path for path in now if path not in before],
        "no longer listed": [path for path in before if path not in now],
    }
    found = "; ".join(f"{what}: {', '.join(paths)}" for what, paths in differences.items() if paths)
    if found:
        raise UsageError(
            f"the CSVs are not those that the checkpoint was trained on ({found}): restore them, or start a new run "
            "in another output_model_dir"
        )
    if tuple(resumed["alphabet"]) != units:
        old, new = set(resumed["alphabet"]), set(units)
        difference = f"missing {sorted(old - new)}, new {sorted(new - old)}"
        raise UsageError(f"{output}: the alphabet is not that of the checkpoint: {difference}")


def check_same_settings(before: dict[str, object], now: dict[str, object]) -> None:
    """Raise `UsageError` if settings that must not change during a run differ from those of the checkpoint."""
    # Checkpoints of earlier versions lack some keys.
    known = {key: value for key, value in now.items() if key in before}
    changed = [f"{key}: {before[key]} then, {value} now" for key, value in known.items() if before[key] != value]
    if changed:
        raise UsageError(
            f"the configuration is not that of the checkpoint ({'; '.join(changed)}): set it back, or start a new run "
            "in another output_model_dir"
        )
