"""Whether a run goes on in a directory, from which checkpoint, and whether it is still the same run."""

import logging

from raycrnn.errors import UsageError
from raycrnn.storage import Directory
from raycrnn.training import checkpoint

logger = logging.getLogger(__name__)


def resume_state(output: Directory, restore: bool) -> dict | None:
    """The state of the last whole checkpoint, None to start afresh. Raises `UsageError`."""
    if output.path.exists() and not output.path.is_dir():
        raise UsageError(f"{output}: output_model_dir is a file")
    held = output.entries()
    # rejected.csv alone is left by a run that was refused for its data, and is no reason to refuse the next.
    if held <= {"rejected.csv"}:
        return None
    if not held & {"run.json", "checkpoints"}:
        raise UsageError(f"{output}: holds files, and none of a run: choose another output_model_dir")
    if not restore:
        raise UsageError(
            f"{output}: exists and is not empty: choose another output_model_dir, "
            "or restore_model=true to go on with the run in it"
        )
    output.fetch("checkpoints")
    if output.uri:
        checkpoint.delete_half_copied(output.path / "checkpoints")
    found, problems = checkpoint.latest(output.path / "checkpoints")
    for problem in problems:
        logger.warning(f"{problem}")
    if found is None and problems:
        raise UsageError(f"{output}: none of its checkpoints can be read: restore one, or choose another directory")
    if found is None:
        logger.info(f"{output}: no checkpoint: starting afresh")
        return None
    if problems:
        logger.info(f"the checkpoint before it is used: {found.path.name}")
    return found.state


def finished(output: Directory, state: dict) -> dict:
    """What a run that is over gave. Raises `UsageError` if its model is gone."""
    progress = state["progress"]
    if "model" not in output.entries():
        raise UsageError(f"{output}: this run is finished, but its model/ is gone: start a new output_model_dir")
    logger.info(
        f"{output}: this run is finished, at step {progress['step']}; for another choose a new output_model_dir"
    )
    return {"best": progress["best"], "steps": progress["step"], "rejected": state["rejected_count"]}


def check_same_data(resumed: dict, now: dict[str, str], units: tuple[str, ...], output: Directory) -> None:
    """Raises `UsageError` if a run would go on with other data, or another alphabet, than it began with."""
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


def check_same_settings(before: dict, now: dict) -> None:
    """Raises `UsageError` if a run would go on with other steps than it began with."""
    changed = [f"{key}: {before.get(key)} then, {value} now" for key, value in now.items() if before.get(key) != value]
    if changed:
        raise UsageError(
            f"the configuration is not that of the checkpoint ({'; '.join(changed)}): set it back, or start a new run "
            "in another output_model_dir"
        )
