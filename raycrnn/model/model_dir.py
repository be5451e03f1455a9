"""Read and write model directories.

A model directory contains everything that evaluation, prediction, export and serving need: the weights, the
configuration, the alphabet, the scores, the calibration of confidences, and a model card. Loading it executes nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch

from raycrnn import __version__, config, storage
from raycrnn.config.decoding import LABELS
from raycrnn.config.group import AUTO
from raycrnn.data import file_kinds
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.lexicon import Lexicon
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language import model_files as language_files
from raycrnn.language.ngram_model import NgramModel
from raycrnn.model.calibration import Calibration
from raycrnn.model.crnn import CRNN
from raycrnn.model.model_files import (
    ALPHABET,
    CALIBRATION,
    CONFIGURATION,
    LANGUAGE_MODEL,
    LEXICON,
    METRICS,
    MODEL_CARD,
    WEIGHTS,
    configuration_of,
    overridden_language_model,
    overridden_lexicon,
    read_unchanged,
    usage_lines,
)

SCORES = {
    "cer": ("Character error rate (CER)", "{:.2%}"),
    "wer": ("Word error rate (WER)", "{:.2%}"),
    "accuracy": ("Exact transcriptions", "{:.2%}"),
    "loss": ("CTC loss", "{:.4g}"),
}
"""The scores in metrics.json that the model card lists, with their names and formats."""

FUSION_KEYS = ("decoding.language_model", "decoding.insertion_bonus")
"""Beginnings of overrides with which the calibration of confidences with a language model is not valid."""


@dataclass(frozen=True)
class StoredModel:
    """The contents of a model directory."""

    network: CRNN
    configuration: config.Configuration
    alphabet: Alphabet
    metrics: dict[str, float]
    """Scores of the evaluation during training, with the epoch and the step of the weights."""
    calibration: Calibration
    language_model: NgramModel | None = None
    lexicon: Lexicon | None = None


def read(
    location: str | Path,
    overrides: Sequence[str] = (),
    language_model: NgramModel | None = None,
    lexicon: Lexicon | None = None,
) -> StoredModel:
    """Read a model directory, to the CPU.

    If the directory is replaced in the meantime, the new one is read.

    Args:
        location: Path or URI.
        overrides: Settings `key=value` that replace those of the model.
        language_model: The language model that overrides name. By default it is read.
        lexicon: The lexicon that overrides name. By default it is read.

    Raises:
        UsageError: There is no model directory, or an override is invalid.
        RaycrnnError: Files are missing, damaged or inconsistent.
    """
    language_model = language_model or overridden_language_model(overrides)
    return read_unchanged(location, lambda folder: _read(folder, str(location), overrides, language_model, lexicon))


def _read(
    folder: Path,
    location: str,
    overrides: Sequence[str],
    language_model: NgramModel | None,
    lexicon: Lexicon | None,
) -> StoredModel:
    configuration = configuration_of(folder, location, overrides)
    # Models of earlier versions have no direction, and were trained with labels as they were.
    direction = "visual" if configuration.data.text_direction == "auto" else configuration.data.text_direction
    alphabet = replace(Alphabet.load(folder / ALPHABET, configuration.data.unicode_form), text_direction=direction)
    # Initialising weights that are replaced would take longer than all the rest.
    network = CRNN.from_settings(configuration.model, configuration.image, len(alphabet) + 1, initialised=False)
    load_weights(network, folder / WEIGHTS, storage.join(location, WEIGHTS))
    calibration = Calibration()
    if (folder / CALIBRATION).exists():
        calibration = Calibration.from_json(config.read_json_object(folder / CALIBRATION), str(folder / CALIBRATION))
    metrics = config.read_json_object(folder / METRICS)
    if not _uses_language_model(folder, configuration.decoding):
        language_model = None
    elif language_model is None:
        language_model = _stored_language_model(folder, location)
    if any(each.startswith(FUSION_KEYS) for each in overrides):
        calibration = replace(calibration, with_language_model=None)
    if lexicon is None and configuration.decoding.lexicon is not None:
        lexicon = overridden_lexicon(folder, overrides) or _stored_lexicon(folder, location, configuration)
    return StoredModel(network, configuration, alphabet, metrics, calibration, language_model, lexicon)


def _uses_language_model(folder: Path, decoding: config.Decoding) -> bool:
    if decoding.language_model == AUTO:
        return decoding.tries_language_model and (folder / LANGUAGE_MODEL).is_file()
    return decoding.language_model is not None


def _stored_lexicon(folder: Path, location: str, configuration: config.Configuration) -> Lexicon:
    if not (folder / LEXICON).is_file():
        raise UsageError(
            f"{storage.join(location, LEXICON)}: the model directory has no lexicon: name one, with "
            "decoding.lexicon=FILE, or set decoding.lexicon=null"
        )
    return Lexicon.read(folder / LEXICON, configuration.data)


def _stored_language_model(folder: Path, location: str) -> NgramModel:
    place = storage.join(location, LANGUAGE_MODEL)
    if not (folder / LANGUAGE_MODEL).is_file():
        raise UsageError(
            f"{place}: the model directory has no language model: name one, with decoding.language_model=FILE, or set "
            "decoding.language_model=null"
        )
    return language_files.read(folder / LANGUAGE_MODEL)


def load_weights(network: CRNN, weights: Path | bytes, location: str) -> None:
    """Load the weights of a model into a network of its configuration.

    Args:
        network: The network.
        weights: The file, or its content.
        location: The path or URI of the file, for messages.

    Raises:
        RaycrnnError: The file is damaged, does not contain the weights of this network, or not only finite ones.
    """
    try:
        if isinstance(weights, bytes):
            network.load_state_dict(safetensors.torch.load(weights))
        else:
            network.load_state_dict(safetensors.torch.load_file(weights))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        # Only now, because valid weights can begin with any two bytes.
        if kind := _kind_of(weights):
            raise RaycrnnError(f"{location}: not the weights of a model, but {kind}") from None
        raise RaycrnnError(f"{location}: damaged, or from another model than {CONFIGURATION}: {error}") from None
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise RaycrnnError(f"{location}: some weights are not finite: the training diverged; retrain the model")


def _kind_of(weights: Path | bytes) -> str | None:
    """Return what a file is instead of weights, and what to do, if it is of a known kind."""
    if isinstance(weights, bytes):
        head = weights[: file_kinds.HEAD_BYTES]
    else:
        with weights.open("rb") as file:
            head = file.read(file_kinds.HEAD_BYTES)
    return file_kinds.describe_document(head, "copy the model directory again")


def write(path: Path, model: StoredModel) -> None:
    """Write a model directory. A reader finds either the old directory or the new one.

    Raises:
        OSError: The directory cannot be written.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.network.state_dict().items()}
    texts = {
        CONFIGURATION: _complete(model).model_dump_json(indent=2),
        ALPHABET: model.alphabet.to_json(),
        METRICS: json.dumps(model.metrics, indent=2),
        CALIBRATION: model.calibration.to_json(),
        MODEL_CARD: model_card(model),
    }
    with storage.replacing_directory(path) as folder:
        # Not safetensors' save_file, which does not raise OSError on a full disk.
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(tensors))
        if model.language_model is not None:
            (folder / LANGUAGE_MODEL).write_bytes(language_files.to_bytes(model.language_model))
        if model.lexicon is not None:
            text = model.lexicon.to_text(model.configuration.data)
            (folder / LEXICON).write_text(text, encoding="utf-8", newline="")
        for name, text in texts.items():
            (folder / name).write_text(text + "\n", encoding="utf-8")


def _complete(model: StoredModel) -> config.Configuration:
    """Return the configuration with the direction of the text that training found, and what decoding uses."""
    configuration = model.configuration
    data = configuration.data.model_copy(update={"text_direction": model.alphabet.text_direction})
    decoding = configuration.decoding
    if model.lexicon is not None:
        # It replaces the language model, and the two cannot be set together.
        decoding = decoding.model_copy(update={"lexicon": decoding.lexicon or LEXICON, "language_model": None})
    return configuration.model_copy(update={"data": data, "decoding": decoding})


def _language_model_lines(model: StoredModel) -> list[str]:
    """Return the line of the model card on the language model."""
    if model.language_model is None:
        return []
    decoding = model.configuration.decoding
    name = decoding.language_model or ""
    origin = "the training labels" if name in (AUTO, LABELS) else f"`{storage.redacted(name)}`"
    return [
        f"- Decoding: beam search with a language model of {origin} (`{LANGUAGE_MODEL}`: n-grams of up to "
        f"{model.language_model.order} units), with weight {decoding.language_model_weight:g}. Training scores the "
        "network without it."
    ]


def _lexicon_lines(model: StoredModel) -> list[str]:
    """Return the line of the model card on the lexicon."""
    if model.lexicon is None:
        return []
    restricted = "Each word of a text" if model.configuration.decoding.lexicon_mode == "words" else "A text"
    return [
        f"- Decoding: {restricted} is one of the {len(model.lexicon):,} entries of `{LEXICON}`. The scores below are "
        "those of the network without it."
    ]


def model_card(model: StoredModel) -> str:
    """Return the text of the directory's README.md: what the model reads, how to use it, and its scores."""
    image = model.configuration.image
    height, width = image.input_shape
    colours = "grey" if image.input_channels == 1 else "colour"
    orientation = model.configuration.data.line_orientation
    turned = "" if orientation == "horizontal" else f" Its line runs {orientation.replace('_', ' ')}; raycrnn turns it."
    scores = [
        f"| {title} | {form.format(model.metrics[name])} |"
        for name, (title, form) in SCORES.items()
        if model.metrics.get(name) is not None
    ]
    training = ", ".join(f"{name} {model.metrics[name]}" for name in ("epoch", "step") if name in model.metrics)
    lines = [
        "# Text recognition model",
        "",
        f"A convolutional recurrent neural network (CRNN) that transcribes images of single text lines, trained with "
        f"raycrnn {__version__}.",
        *(line for sentence in _origin(model.configuration.training) for line in ("", sentence)),
        "",
        f"- Input: images of one text line in any size.{turned} They are converted to {colours} and scaled to a height "
        f"of {height} pixels; lines that would then be wider than {width} pixels are compressed to that width.",
        f"- Output: text in the {len(model.alphabet)} units of `{ALPHABET}`, usually characters.",
        *_language_model_lines(model),
        *_lexicon_lines(model),
        "",
        *usage_lines("Recognizer"),
        "## Scores",
        "",
    ]
    if scores:
        lines += ["On the evaluation set:", "", "| Score | Value |", "| --- | --- |", *scores]
    else:
        lines += ["The model was trained without an evaluation set."]
    if training:
        lines += ["", f"The weights are those of {training}."]
    return "\n".join(lines)


def _origin(training: config.Training) -> list[str]:
    """Return the sentences of the model card about the initial model and the fold, if there are any."""
    sentences = []
    if training.initial_model and training.initial_model_sha256:
        sentences.append(
            f"Training started from the weights of `{storage.redacted(training.initial_model)}` (SHA-256 of "
            f"`{WEIGHTS}`: `{training.initial_model_sha256}`)."
        )
    if training.fold:
        sentences.append(
            f"It is model {training.fold} of {training.folds} of a cross-validation: it was trained without the rows "
            f"of fold {training.fold}, which are its evaluation set."
        )
    return sentences
