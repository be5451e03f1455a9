"""Doubtful lines are read again at other widths, and the reading with the highest confidence counts."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from raycrnn.config.decoding import Decoding
from raycrnn.data.image import PreparedImage
from raycrnn.model.rereading import read_doubtful_again
from raycrnn.model.transcription import Alternative, Transcription
from tests.conftest import draw
from tests.model.test_recognizer import recognizer


class Reader:
    """Reads images with a confidence for each width, and remembers the widths."""

    def __init__(self, confidences: dict[int, float]):
        self.confidences = confidences
        self.calls: list[list[int]] = []

    def __call__(self, images: Sequence[PreparedImage]) -> list[Transcription]:
        widths = [each.pixels.shape[1] for each in images]
        self.calls.append(widths)
        return [Transcription((Alternative(str(w), (), -1.0, self.confidences[w]),), None, None, None) for w in widths]


def line(width: int) -> PreparedImage:
    return PreparedImage(np.zeros((32, width, 1), np.uint8), (width, 32))


def texts(reader: Reader, widths: list[int], readings: int) -> list[str]:
    return [each.text for each in read_doubtful_again([line(width) for width in widths], reader, readings)]


@pytest.mark.parametrize(
    ("readings", "confidences", "text", "calls"),
    [
        (1, {100: 0.1}, "100", [[100]]),
        (2, {100: 0.95}, "100", [[100], []]),
        (2, {100: 0.5, 115: 0.6}, "115", [[100], [115]]),
        (2, {100: 0.5, 115: 0.4}, "100", [[100], [115]]),
        (3, {100: 0.5, 115: 0.95}, "115", [[100], [115], []]),
        (4, {100: 0.1, 115: 0.2, 87: 0.8, 130: 0.3}, "87", [[100], [115], [87], [130]]),
        # Of equal confidences, the first.
        (4, {100: 0.3, 115: 0.3, 87: 0.3, 130: 0.3}, "100", [[100], [115], [87], [130]]),
    ],
)
def test_a_doubtful_line_is_read_again_until_a_reading_is_sure(readings, confidences, text, calls):
    reader = Reader(confidences)
    assert texts(reader, [100], readings) == [text]
    assert reader.calls == calls


def test_only_the_doubtful_lines_of_a_batch_are_read_again():
    reader = Reader({100: 0.5, 200: 0.9, 300: 0.2, 115: 0.99, 345: 0.1, 261: 0.7})
    assert texts(reader, [100, 200, 300], 3) == ["115", "200", "261"]
    assert reader.calls == [[100, 200, 300], [115, 345], [261]]


@pytest.mark.parametrize(
    ("decoding", "readings"),
    [({}, 2), ({"method": "greedy"}, 1), ({"readings": 1}, 1), ({"method": "greedy", "readings": 3}, 3)],
)
def test_lines_are_read_twice_by_default_and_once_if_greedy(decoding, readings):
    assert Decoding(**decoding).most_readings == readings


def test_each_transcription_is_that_of_the_most_confident_width():
    once, four_times = recognizer(), recognizer(readings=4)
    images = [draw(text) for text in ("abc", "ba", "fade", "a", "ddd")]
    changed = 0
    for image in images:
        (read,) = four_times(image, log_probs=True)
        prepared = once.prepare(image)
        grey = Image.fromarray(prepared.pixels[:, :, 0])
        readings = once(image, log_probs=True)
        for factor in (1.15, 0.87, 1.3):
            width = max(8, round(grey.width * factor))
            stretched = grey.resize((width, grey.height), Image.Resampling.BICUBIC)
            readings += once(stretched, log_probs=True)
        best = max(readings, key=lambda each: each.confidence)
        assert read.text == best.text and read.confidence == pytest.approx(best.confidence)
        np.testing.assert_allclose(read.log_probs, best.log_probs, atol=1e-4)
        changed += best is not readings[0]
        # In pixels of the image that was given, not of the stretched one.
        lefts = [unit.left for unit in read.units]
        assert lefts == sorted(lefts) and all(unit.right <= image.width for unit in read.units)
    assert changed
