"""The directory with the models of all folds, which vote."""

import json
from collections.abc import Sequence
from pathlib import Path

from raycrnn import __version__, storage
from raycrnn.metrics.error_rates import Counts
from raycrnn.model.model_files import MODEL_CARD, MODELS, usage_lines


def write(path: Path, models: Sequence[str], group: str | None, counts: Counts) -> None:
    """Write a directory with copies of models. A reader finds either the old directory or the new one.

    Args:
        path: The directory.
        models: The model directory of each fold, a path or URI.
        group: `data.fold_group`.
        counts: The errors of the models on the rows that they were not trained on.

    Raises:
        OSError: The directory cannot be written, or a model cannot be read.
    """
    names = [f"fold-{number}" for number in range(1, len(models) + 1)]
    with storage.replacing_directory(path) as folder:
        for name, model in zip(names, models, strict=True):
            (folder / name).mkdir()
            for file in storage.Directory(model).files():
                (folder / name / file).write_bytes(storage.read(storage.join(model, file)))
        (folder / MODELS).write_text(json.dumps({"models": names}, indent=2) + "\n", encoding="utf-8")
        (folder / MODEL_CARD).write_text(_card(len(models), group, counts), encoding="utf-8")


def _card(models: int, group: str | None, counts: Counts) -> str:
    """Return the text of the directory's README.md."""
    grouped = f" Rows of one group (`{group}`) were held back together." if group else ""
    lines = [
        "# Text recognition models that vote",
        "",
        f"{models} models, trained with raycrnn {__version__} by cross-validation: each was trained without another "
        f"part of the rows.{grouped} All of them read an image, and at each place of the text the unit with the "
        "largest sum of confidences is taken. The README.md of each model says more about it.",
        "",
        *usage_lines("Voter"),
        "## Scores",
        "",
        f"On the training rows, each read by the model that was not trained on it ({counts.samples:,} rows):",
        "",
        "| Score | Value |",
        "| --- | --- |",
        f"| Character error rate (CER) | {counts.cer:.2%} |",
        f"| Word error rate (WER) | {counts.wer:.2%} |",
        f"| Exact transcriptions | {counts.accuracy:.2%} |",
        "",
    ]
    return "\n".join(lines) + "\n"
