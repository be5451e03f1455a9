"""The settings of a prediction run that its workers need."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raycrnn.config import Image
from raycrnn.data.lexicon import Lexicon
from raycrnn.data.orientation import LineOrientation
from raycrnn.language.ngram_model import NgramModel

Format = Literal["csv", "jsonl", "parquet"]
"""Format of an output."""


@dataclass(frozen=True)
class PredictionJob:
    """The model of a prediction run, and how it runs."""

    model: str
    """Path or URI of the model directory."""
    image: Image
    """The model's settings of images."""
    overrides: tuple[str, ...] = ()
    """Settings as KEY=VALUE, as `Recognizer.load` takes them."""
    spans: bool = False
    """Whether to return the units of each transcription, with their positions and confidences."""
    replicas: int | None = None
    """Copies of the model that run in parallel; None for as many as fit."""
    digests: Mapping[str, str] | None = None
    """Digests of the model's files: every replica must load the same ones. None disables the check."""
    orientation: LineOrientation = "horizontal"
    """How the lines run in the images: the model's `data.line_orientation`."""
    language_model: NgramModel | None = None
    """The language model that overrides name; None if there is none, or if each worker reads it."""
    lexicon: Lexicon | None = None
    """The lexicon that overrides name; None if there is none, or if each worker reads it."""
