"""Arguments that several small verbs have."""

from collections.abc import Iterable, Sequence
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


def check_output(output: Path, overwrite: bool, inputs: Iterable[str] = ()) -> Path:
    """Return the path of an output file, which may be in another Unicode normal form on the disk.

    Args:
        output: The path as the user typed it.
        overwrite: Whether the output may replace a file.
        inputs: Paths and URIs of files that it must not replace.

    Raises:
        UsageError: The file cannot be written, or exists and must not be replaced.
    """
    # Here, because `--help` needs no Arrow.
    from raycrnn.data.inputs import is_one_of

    file = storage.as_on_disk(output)
    if is_one_of(file, inputs):
        raise UsageError(f"{output}: is one of the inputs; name another file")
    if storage.check_output_file(file) and not overwrite:
        raise UsageError(f"{output}: already exists; use --overwrite to replace it, or name another file")
    return Path(file)
