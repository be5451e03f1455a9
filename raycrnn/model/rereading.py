"""Read doubtful lines again at other widths.

Letters are wider in one book than in another, and a network reads best what is as wide as what it was trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from raycrnn.data import image
from raycrnn.data.image import PreparedImage
from raycrnn.model.transcription import Transcription

WIDTH_FACTORS = (1.15, 0.87, 1.3)
"""Factors of the width in the second and later readings. The second removes most of the errors that can be removed
(docs/prediction.md)."""

SURE = 0.9
"""Confidence from which a line is not read again. With a limit of 0.99, no more errors were removed."""

Read = Callable[[Sequence[PreparedImage]], list[Transcription]]
"""Transcribes images."""


def read_doubtful_again(images: Sequence[PreparedImage], read: Read, readings: int) -> list[Transcription]:
    """Read each image up to a number of times, until its confidence is at least `SURE`.

    Args:
        images: The images.
        read: Transcribes images.
        readings: The largest number of readings of an image, at most one more than there are `WIDTH_FACTORS`.

    Returns:
        The transcription with the highest confidence for each image.
    """
    transcriptions = read(images)
    for factor in WIDTH_FACTORS[: readings - 1]:
        doubtful = [i for i, each in enumerate(transcriptions) if each.confidence < SURE]
        stretched = [replace(images[i], pixels=image.stretch(images[i].pixels, factor)) for i in doubtful]
        for i, other in zip(doubtful, read(stretched), strict=True):
            if other.confidence > transcriptions[i].confidence:
                transcriptions[i] = other
    return transcriptions
