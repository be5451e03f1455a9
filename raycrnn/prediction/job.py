"""The settings of a prediction run that its workers need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from raycrnn.config import Configuration, Image

if TYPE_CHECKING:
    from raycrnn.data.lexicon import Lexicon
    from raycrnn.data.orientation import LineOrientation
    from raycrnn.language.ngram_model import NgramModel

Format = Literal["csv", "jsonl", "parquet", "labels"]
"""Format of an output. `labels` is a CSV of images and labels, as training reads it."""


ImageSettings = tuple[Image, "LineOrientation"]
"""The size and the channels of the images that a network reads, and how the lines run in the files."""


@dataclass(frozen=True)
class PredictionJob:
    """The model of a prediction run, and how it runs."""

    model: str | tuple[str, ...]
    """Path, URI or name of the model directory, or those of several, which vote."""
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
    orientation: "LineOrientation" = "horizontal"
    """How the lines run in the images: the model's `data.line_orientation`."""
    more_images: tuple[ImageSettings, ...] = ()
    """The image settings of other models of a vote that differ from those of the first."""
    language_model: "NgramModel | None" = None
    """The language model that overrides name; None if there is none, or if each worker reads it."""
    lexicon: "Lexicon | None" = None
    """The lexicon that overrides name; None if there is none, or if each worker reads it."""

    @property
    def all_images(self) -> tuple[ImageSettings, ...]:
        """The different image settings of the models."""
        return ((self.image, self.orientation), *self.more_images)


def make_job(
    model: str | Sequence[str],
    configurations: Sequence[Configuration],
    overrides: Sequence[str],
    digests: Mapping[str, str],
    spans: bool = False,
    replicas: int | None = None,
    language_model: "NgramModel | None" = None,
    lexicon: "Lexicon | None" = None,
) -> PredictionJob:
    """Return the job of a model, or of several that vote, with the image settings of their configurations."""
    settings = [(each.image, each.data.line_orientation) for each in configurations]
    different = [each for number, each in enumerate(settings) if each not in settings[:number]]
    (image, orientation), *more = different
    models, more_images = model if isinstance(model, str) else tuple(model), tuple(more)
    known = language_model, lexicon
    return PredictionJob(models, image, tuple(overrides), spans, replicas, digests, orientation, more_images, *known)
