"""Find where the units of a transcription are in its image."""

from collections.abc import Sequence

from torch import Tensor

from raycrnn.data.alphabet import Alphabet
from raycrnn.data.image import PreparedImage
from raycrnn.data.orientation import LineOrientation, box_of, horizontal_size, spans
from raycrnn.model.alignment import align
from raycrnn.model.transcription import Unit


def locate_units(
    images: Sequence[PreparedImage],
    log_probs_TBK: Tensor,
    frames_B: Tensor,
    labels: Sequence[Sequence[int]],
    alphabet: Alphabet,
    orientation: LineOrientation,
) -> list[tuple[Unit, ...]]:
    """Return the units of each image's transcription in logical order, with their positions and confidences.

    Args:
        images: The images.
        log_probs_TBK: Log-probabilities.
        frames_B: Frames of each image.
        labels: The codes of the transcriptions, from left to right.
        alphabet: The units of the codes.
        orientation: How the lines run in the images.
    """
    alignments = align(log_probs_TBK, frames_B, labels)
    units = []
    for i, (prepared, label, ranges) in enumerate(zip(images, labels, alignments, strict=True)):
        probs_TK = log_probs_TBK[:, i].exp().cpu().numpy()
        size = prepared.original_size
        length, _ = horizontal_size(size, orientation)
        boxes = [box_of(span, size, orientation) for span in spans(ranges, prepared.pixels.shape, length)]
        confidences = [float(probs_TK[first:end, code].max()) for code, (first, end) in zip(label, ranges, strict=True)]
        units.append(
            tuple(
                Unit(alphabet.units[code], code, confidences[index], *boxes[index])
                for index, code in alphabet.in_logical_order(label)
            )
        )
    return units
