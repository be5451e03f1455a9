"""Make transcriptions of a network's outputs."""

from collections.abc import Iterator, Sequence

from raycrnn.data.image import PreparedImage
from raycrnn.data.orientation import LineOrientation
from raycrnn.model.calibration import Calibration, apply_temperature
from raycrnn.model.decoding import LineDecoder, Outputs, path_confidences
from raycrnn.model.transcription import Alternative, Transcription, Unit
from raycrnn.model.unit_positions import locate_units


def transcribe_outputs(
    images: Sequence[PreparedImage],
    outputs: Outputs,
    decoder: LineDecoder,
    calibration: Calibration,
    orientation: LineOrientation,
    spans: bool,
) -> Iterator[Transcription]:
    """Yield the transcription of each image of a batch.

    Args:
        images: The images.
        outputs: The network's outputs for them.
        decoder: Decodes the outputs.
        calibration: The calibration of confidences.
        orientation: How the lines run in the images.
        spans: Whether to return the position and the confidence of each unit.
    """
    alphabet, paths = decoder.alphabet, decoder.decode(outputs)
    calibrated_TBK = apply_temperature(outputs.log_probs_TBK, calibration.temperature)
    returned = slice(decoder.settings.num_beam_paths)
    scored = [image_paths if image_paths[0].is_in_lexicon else image_paths[returned] for image_paths in paths]
    confidences = path_confidences(calibrated_TBK, outputs.frames_B, scored, calibration)
    units: list[tuple[Unit, ...]] | list[None] = [None] * len(images)
    if spans:
        labels = [best.codes for best, *_ in paths]
        units = locate_units(images, calibrated_TBK, outputs.frames_B, labels, alphabet, orientation)
    for i, prepared in enumerate(images):
        alternatives = []
        for path, confidence in zip(paths[i][returned], confidences[i][returned], strict=True):
            codes = tuple(code for _, code in alphabet.in_logical_order(path.codes))
            text = "".join(alphabet.decode(codes))
            alternatives.append(Alternative(text, codes, path.log_prob, confidence))
        yield Transcription(tuple(alternatives), decoder.score(paths[i]), units[i], prepared.name)
