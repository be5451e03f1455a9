"""Decide whether a command starts or resumes a run, and check that data and settings are the same."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from raycrnn import config, storage
from raycrnn.config import Configuration, Training
from raycrnn.data.image_files import SIZES_FILE
from raycrnn.errors import UsageError
from raycrnn.storage import Directory
from raycrnn.training import base_model, checkpoint, initial_model, network_keys
from raycrnn.training.checkpoint import RunLimits, RunState

if TYPE_CHECKING:
    from raycrnn.data.labelled_csvs import LabelledCsvs
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
    # A run that was refused because of its data, or whose storage failed, leaves only these.
    if entries <= {"rejected.csv", SIZES_FILE}:
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


def complete(configuration: Configuration, state: RunState) -> Configuration:
    """Return the configuration of a resumed run, with what the run took from its initial model when it started.

    The weights are in the checkpoint, so the model is only read if it is at another place than before.

    Raises:
        UsageError: The initial model is not that of the run, or cannot be read at its new place.
        RaycrnnError: The model at the new place is damaged.
    """
    key, before = base_model.INITIAL_MODEL, state.get("initial_model")
    configuration = base_model.as_before(configuration, {**state["identity"], key: before})
    now = configuration.training.initial_model
    if before is None or now is None:
        names = [location and storage.redacted(location) for location in (before, now)]
        check_same_settings({key: names[0]}, {key: names[1]})
        return configuration
    identity = state["identity"]
    digest = identity["training.initial_model_sha256"]
    if now != before:
        moved = initial_model.read(configuration)
        check_same_settings({f"SHA-256 of {key}": digest}, {f"SHA-256 of {key}": moved.sha256})
    values = network_keys.values_not_set(configuration, identity)
    if configuration.training.initial_model_sha256 is None:
        values["training.initial_model_sha256"] = digest
    return config.completed(configuration, values)


def trains_on(output: Directory, state: RunState, settings: Training) -> bool:
    """Return whether a finished run trains on, because the settings allow it more than before; log how far.

    Raises:
        UsageError: The model of the run is missing, or what it was allowed is unknown.
    """
    if "model" not in output.entries():
        raise UsageError(f"{output}: this run is finished, but its model/ is missing: start a new output_model_dir")
    before, now = state.get("limits") or _limits_of_run(output), checkpoint.limits_of(settings)
    batches = _batches_per_epoch(state)
    epoch, epochs = state["progress"]["step"] / batches, settings.epochs(batches)
    # The number of batches of an earlier version comes from a rounded epoch.
    if round(epoch, 2) >= epochs:
        return False
    if not (
        epochs > (before["n_epochs"] or settings.model_copy(update={"n_epochs": None}).epochs(batches))
        or _exceeds(now["max_minutes"], before["max_minutes"])
        or _exceeds(now["early_stopping"], before["early_stopping"])
    ):
        return False
    minutes = f", for at most {now['max_minutes']:g} minutes" if now["max_minutes"] else ""
    logger.info(
        f"{output}: this run was finished; it trains on from epoch {epoch:.4g} to {epochs}{minutes}, with a "
        f"new {settings.schedule} schedule. Its model is only replaced by a better one"
    )
    return True


def _batches_per_epoch(state: RunState) -> int:
    progress = state["progress"]
    if progress.get("batches_per_epoch"):
        return progress["batches_per_epoch"]
    # A checkpoint of an earlier version. The best evaluation may have been in the first thousandth of an epoch.
    best = progress["best"]
    return max(1, round(best["step"] / max(best["epoch"], 0.0005)))


def _exceeds(limit: float | None, before: float | None) -> bool:
    """Return whether a limit is larger than before; None is no limit."""
    return before is not None and (limit is None or limit > before)


def _limits_of_run(output: Directory) -> RunLimits:
    """Return the limits from run.json, for a checkpoint that does not have them."""
    output.fetch("run.json")
    tree = config.read_json_object(output.path / "run.json")["configuration"]
    return checkpoint.limits_of(config.parse(tree).training)


def finished(output: Directory, state: RunState) -> "TrainingResult":
    """Return the result of a run that has ended."""
    progress = state["progress"]
    logger.info(
        f"{output}: this run is finished, at step {progress['step']}; a larger training.n_epochs trains on, and a new "
        "output_model_dir starts another run"
    )
    return {"best": progress["best"], "steps": progress["step"], "rejected": state["rejected_count"]}


def check_same_data(
    resumed: RunState, csvs: "LabelledCsvs", files: Mapping[str, Sequence[str]], output: Directory
) -> None:
    """Check that the CSVs and the alphabet are those of the checkpoint. The CSVs may be at other places.

    Args:
        files: The paths of the CSVs of each data set, in order.

    Raises:
        UsageError: What is in the CSVs, their order or the alphabet differs.
    """
    identity = resumed["identity"]
    files_before = resumed.get("csv_files") or {name: identity[f"data.csv_files_{name}"] for name in files}
    rows_before, rows = resumed.get("csv_row_digests"), csvs.row_digests
    found, moved = [], []
    for name, paths in files.items():
        before = files_before[name]
        if len(before) != len(paths):
            found.append(f"{name}: {', '.join(before) or 'none'} then, {', '.join(paths) or 'none'} now")
            continue
        digests_before = [resumed["csv_digests"][path] for path in before]
        digests = [csvs.digests[path] for path in paths]
        if digests != digests_before and sorted(digests) == sorted(digests_before):
            found.append(f"{name}, another order: {', '.join(before)} then, {', '.join(paths)} now")
            continue
        for old, new in zip(before, paths, strict=True):
            place = new if old == new else f"{new} (then {old})"
            same_rows = rows_before is not None and rows_before[old] == rows[new]
            if resumed["csv_digests"][old] != csvs.digests[new] and not same_rows:
                found.append(f"changed: {place}")
            elif old != new:
                moved.append(place)
    if found:
        raise UsageError(
            f"the CSVs are not those that the checkpoint was trained on ({'; '.join(found)}): restore them, or start a "
            "new run in another output_model_dir"
        )
    if moved:
        logger.info(f"the CSVs have moved since the checkpoint, with the same rows: {', '.join(moved)}")
    # The units of an initial model follow those of a lookup file.
    more = identity.get("training.initial_alphabet") == "union" and resumed.get("initial_model") is not None
    units = csvs.alphabet.units if csvs.alphabet else ()
    if units and tuple(resumed["alphabet"])[: len(units) if more else None] != units:
        old_units, new_units = set(resumed["alphabet"]), set(units)
        difference = f"missing {sorted(old_units - new_units)}, new {sorted(new_units - old_units)}"
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
