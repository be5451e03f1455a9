"""Arguments that several small verbs have."""

from collections.abc import Sequence
from pathlib import Path

from raycrnn import config, storage
from raycrnn.errors import UsageError


def paths_and_settings(inputs: Sequence[str]) -> tuple[list[str], config.Data]:
    """Return the paths among the inputs of a command, and the settings that the others make.

    Raises:
        UsageError: A setting is invalid, or does not concern how data are read.
    """
    overrides = [text for text in inputs if config.is_override(text)]
    other = next((text for text in overrides if not text.startswith("data.")), None)
    if other:
        raise UsageError(f"{other}: only data.* concerns how CSVs are read")
    paths = [text for text in inputs if text not in overrides]
    return paths, config.parse({"data": {"csv_files_train": paths or ["none.csv"]}}, overrides).data


def check_output(output: Path, overwrite: bool) -> None:
    """Raise a `UsageError` if an output file cannot be written, or exists and must not be replaced."""
    if storage.check_output_file(str(output)) and not overwrite:
        raise UsageError(f"{output}: already exists; use --overwrite to replace it, or name another file")
