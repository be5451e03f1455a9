"""Train the folds of a cross-validation, let their models vote, and list the labels that are likely wrong."""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycrnn import __version__, cluster, config, storage
from raycrnn.config import Configuration
from raycrnn.console import defer_stop
from raycrnn.data import labelled_csvs
from raycrnn.data.csv_files import CsvFile
from raycrnn.data.image_files import SIZES_FILE
from raycrnn.errors import RaycrnnError, UsageError, WriteError
from raycrnn.folds import processes
from raycrnn.folds.resources import room_for_folds
from raycrnn.metrics.error_rates import Counts
from raycrnn.storage import Directory
from raycrnn.training import base_model

if TYPE_CHECKING:
    from raycrnn.data.labelled_csvs import LabelledCsvs
    from raycrnn.evaluation.analysis import Evaluation

logger = logging.getLogger(__name__)

RECORD = "folds.json"
"""File in the output directory with what the folds of a run have in common. A resumed run must not change it."""

CHOSEN = "initial model"
"""Key of the record with the values of `base_model.CHOSEN_KEYS` when the run started."""


@dataclass(frozen=True)
class FoldsResult:
    """The result of a run with folds."""

    folds: tuple[dict, ...]
    """The result of each fold, as `raycrnn train --json` prints it."""
    counts: Counts
    """The errors on the training rows, each read by the model that was not trained on it."""
    vote: "Evaluation | None"
    """The evaluation of the vote on `data.csv_files_eval`; None without these."""


def train(configuration: Configuration, address: str | None = None) -> FoldsResult | None:
    """Train all folds of a run.

    The output directory gets a usual output directory for each fold (fold-1 and so on), the directory `model` with the
    models of all folds, and the list of suspect labels.

    Args:
        configuration: The configuration of the run, with `training.folds`.
        address: Address of a Ray cluster. Default: the environment variable RAY_ADDRESS, else a local Ray.

    Returns:
        The result; None if a signal stopped the run.

    Raises:
        UsageError: The configuration cannot run here, the rows cannot be divided, or the output directory is in use.
        RaycrnnError: Too many rows of a fold are unusable, or the training of a fold has failed.
    """
    output = Directory(storage.absolute(configuration.output_model_dir))
    csvs = labelled_csvs.read(configuration)
    fold_of = labelled_csvs.folds_of_rows(csvs.train, configuration)
    record = _record(configuration, csvs)
    before = _check_output(output, record, configuration.restore_model)
    # All folds start alike, also those that start when the run is resumed.
    if before is not None:
        configuration = base_model.as_before(configuration, before.get(CHOSEN, {}))
    else:
        configuration = base_model.choose(configuration, csvs)
    with storage.lock_output(output):
        output.claim()
        _describe(configuration, fold_of)
        with ExitStack() as connection:
            connection.enter_context(cluster.connect(address))
            if RECORD not in output.entries():
                _check_rows(configuration, output)
                tree = configuration.model_dump(mode="json")
                record[CHOSEN] = {key: config.value_at(tree, key) for key in base_model.CHOSEN_KEYS}
                _write(output, RECORD, json.dumps(record, indent=2, ensure_ascii=False))
            results = _train_all(configuration, address, connection)
        if results is None:
            logger.info("stopped; the same command with restore_model=true continues the folds that are not finished")
            return None
        counts = _finish(configuration, output, csvs.train, fold_of)
    return FoldsResult(results, counts, _test(configuration, address))


def _record(configuration: Configuration, csvs: "LabelledCsvs") -> dict[str, object]:
    return {
        "raycrnn": __version__,
        "training.folds": configuration.training.folds,
        "training.seed": configuration.training.seed,
        "data.fold_group": configuration.data.fold_group,
        "rows of the training CSVs": [csvs.row_digests[file.path] for file in csvs.train],
    }


def _check_output(output: Directory, record: dict[str, object], restore: bool) -> dict[str, Any] | None:
    """Return the record of the run to resume, or None for a new one.

    Raises:
        UsageError: The output directory contains something else, or the folds of another run.
    """
    if output.path.exists() and not output.path.is_dir():
        raise UsageError(f"{output}: output_model_dir is a file")
    entries = output.entries()
    # A run that was refused because of its rows leaves only these.
    if entries <= {"rejected.csv", SIZES_FILE}:
        return None
    if RECORD not in entries:
        raise UsageError(f"{output}: is not empty and contains no run with training.folds: choose another one")
    if not restore:
        raise UsageError(
            f"{output}: exists and is not empty: choose another output_model_dir, or continue the run in it with "
            "restore_model=true"
        )
    before = config.read_json_object(storage.join(str(output), RECORD))
    changed = [key for key, value in record.items() if key != "raycrnn" and before.get(key) != value]
    if changed:
        raise UsageError(
            f"{output}: the folds are not those of this run, because {', '.join(changed)} differ: set them back, or "
            "start a new run in another output_model_dir"
        )
    return before


def _describe(configuration: Configuration, fold_of: Sequence[Sequence[int | None]]) -> None:
    """Log how many rows each fold holds back, and how long the run may take."""
    rows = Counter(number for own in fold_of for number in own if number is not None)
    least, most = min(rows.values()), max(rows.values())
    span = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    logger.info(f"{configuration.training.folds} folds hold back {span} of {sum(map(len, fold_of)):,} rows")
    if configuration.training.max_minutes:
        logger.info(f"each fold takes at most training.max_minutes={configuration.training.max_minutes:g}")


def _check_rows(configuration: Configuration, output: Directory) -> None:
    """Check the rows of every fold as its own command will do, before hours are spent on the first one.

    Raises:
        UsageError: The initial model does not fit, or the settings for the alphabet exclude each other.
        RaycrnnError: More than `data.max_rejected` of the rows that a fold is trained or evaluated on cannot be used.
    """
    from raycrnn.ingest import training_data
    from raycrnn.training import initial_model

    completed, model = initial_model.prepare(configuration)
    for fold in range(1, (configuration.training.folds or 0) + 1):
        own = config.completed(completed, {"training.fold": fold})
        try:
            training_data.put(initial_model.read_csvs(own, model), own, output)
        except RaycrnnError as error:
            raise type(error)(f"fold {fold}: {error}") from None
    # Of an earlier run that was refused.
    (output.path / "rejected.csv").unlink(missing_ok=True)


def _train_all(configuration: Configuration, address: str | None, connection: ExitStack) -> tuple[dict, ...] | None:
    """Train the folds, and return their results; None if a signal stopped them.

    Args:
        connection: Holds the connection to Ray; closed here if the folds do not need it.
    """
    folds = configuration.training.folds
    assert folds is not None
    with ExitStack() as stack:
        cluster.wait_for_nodes(configuration.cluster)
        nodes = cluster.with_usable_gpus(configuration.cluster, cluster.list_nodes())
        room, values = room_for_folds(configuration, nodes)
        logger.info(f"{room} folds at a time" if room > 1 else "one fold after another")
        if room > 1:
            import ray

            address = ray.get_runtime_context().gcs_address if cluster.is_local() else address
        else:
            # Each fold starts a Ray of its own if there is no cluster, and then trains in its own process.
            connection.close()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raycrnn-")))
        stop = stack.enter_context(defer_stop())
        paths = []
        for fold in range(1, folds + 1):
            own = {**values, "training.fold": fold, "output_model_dir": _output_of(configuration, fold)}
            tree = config.completed(configuration, own).model_dump(mode="json", exclude_unset=True)
            paths.append(folder / f"fold-{fold}.json")
            storage.write_text(paths[-1], json.dumps(tree, ensure_ascii=False))
        results = processes.run_all(paths, room, address, stop)
    finished = tuple(result for fold in range(1, folds + 1) if (result := results.get(fold)) is not None)
    return finished if len(finished) == folds else None


def _output_of(configuration: Configuration, fold: int) -> str:
    return storage.join(configuration.output_model_dir, f"fold-{fold}")


def _finish(
    configuration: Configuration, output: Directory, files: Sequence[CsvFile], fold_of: Sequence[Sequence[int | None]]
) -> Counts:
    """Read the held-back rows, and write the list of suspect labels and the directory of models."""
    # Only now, because they import torch, which the training of folds does not need in this process.
    from raycrnn.folds import models, out_of_fold, suspects

    folds = range(1, (configuration.training.folds or 0) + 1)
    directories = [storage.join(_output_of(configuration, fold), "model") for fold in folds]
    logger.info("reading each training row with the model that was not trained on it")
    lines = suspects.by_suspicion(list(out_of_fold.read(files, fold_of, directories)))
    counts = sum((each.line.counts for each in lines), Counts())
    try:
        suspects.write(output.path, lines, configuration.data.line_orientation)
        models.write(output.path / "model", directories, configuration.data.fold_group, counts)
        output.sync()
    except OSError as error:
        raise WriteError(f"{output}: cannot be written: {storage.describe(error)}") from None
    return counts


def _write(output: Directory, name: str, text: str) -> None:
    try:
        storage.write_text(output.path / name, text)
        output.sync()
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {storage.describe(error)}") from None


def _test(configuration: Configuration, address: str | None) -> "Evaluation | None":
    """Evaluate the vote on `data.csv_files_eval`, if there are any."""
    if not configuration.data.csv_files_eval:
        return None
    from raycrnn.evaluation.run import evaluate_all

    model = storage.join(configuration.output_model_dir, "model")
    logger.info("evaluating the vote on data.csv_files_eval")
    return evaluate_all([model], configuration.data.csv_files_eval, address=address)[0]
