"""Compare an exported file with its model."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from raycrnn.data import image
from raycrnn.errors import RaycrnnError
from raycrnn.exporting.formats import Run
from raycrnn.model import ctc
from raycrnn.model.recognizer import Recognizer

TOLERANCE = 1e-4
"""Greatest allowed difference of a log-probability."""

NUMBER_OF_WIDTHS = 16
"""Different widths of the generated images."""


def generate_images(recognizer: Recognizer) -> Iterator[np.ndarray]:
    """Generate prepared images of noise and of text, from the least to the greatest width, narrow next to wide."""
    settings = recognizer.configuration.image
    height, greatest_width = settings.input_shape
    generator = np.random.default_rng(0)
    widths = np.geomspace(image.MIN_WIDTH, greatest_width, NUMBER_OF_WIDTHS).round().astype(int)
    mixed = np.stack([widths, widths[::-1]], axis=1).ravel()[:NUMBER_OF_WIDTHS]
    font = ImageFont.load_default(size=height * 0.75)
    for width in mixed.tolist():
        noise = generator.integers(0, 256, (height, width), dtype=np.uint8)
        drawn = Image.new("RGB", (width, height), "white")
        text = "".join(generator.choice(recognizer.alphabet.units, 1 + width // height * 2))
        ImageDraw.Draw(drawn).text((height / 8, 0), text, fill="black", font=font)
        # Not by the recognizer, which may turn them.
        for generated in (noise, drawn):
            yield image.prepare_image(generated, settings.input_shape, settings.input_channels).pixels


BATCH_SIZE = 8


@dataclass(frozen=True)
class Agreement:
    """How the output of an exported file differs from the model's."""

    images: int
    """Number of images compared."""
    difference: float
    """Greatest difference of a log-probability; infinite if the number of frames differs."""
    other_texts: int
    """Number of images with a different text."""

    def check(self, path: str) -> None:
        """Raise `RaycrnnError` if the difference is too large."""
        if not self.images:
            raise RaycrnnError(f"{path}: not written: there is no image to compare it with the model on")
        if not self.difference <= TOLERANCE or self.other_texts:
            raise RaycrnnError(
                f"{path}: not written, because it differs from the model: log-probabilities by up to "
                f"{self.difference:.1e} ({TOLERANCE:.0e} is allowed), the text {self.other_texts:,} times in "
                f"{self.images:,} images; try other versions of torch, onnxscript and onnxruntime"
            )


def compare(recognizer: Recognizer, run: Run, images: Iterable[np.ndarray]) -> Agreement:
    """Compare an exported network with the model, on images in batches, and on the first of each batch also alone."""
    count, other_texts, differences = 0, 0, [0.0]
    for batch in _batches(images, BATCH_SIZE):
        expected = _log_probs_of_model(recognizer, batch)
        # Not every image alone: torch compiles kernels for each new width.
        readings = _by_image(*run(*image.collate(batch))) + _by_image(*run(*_unpadded(batch[0])))
        pairs = list(zip([*expected, expected[0]], readings, strict=True))
        count += len(batch)
        differences += [_difference(own_TK, other_TK) for own_TK, other_TK in pairs]
        other_texts += sum(_codes(own_TK) != _codes(other_TK) for own_TK, other_TK in pairs)
    # Not max(), which ignores NaN.
    return Agreement(count, float(np.max(differences)), other_texts)


def _batches(images: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    # itertools.batched is new in Python 3.12.
    iterator = iter(images)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _log_probs_of_model(recognizer: Recognizer, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the log-probabilities [T, K] of each image."""
    found: dict[int, np.ndarray] = {}
    for outputs in recognizer.log_probs(images):
        own = _by_image(outputs.log_probs_TBK.cpu().numpy(), outputs.frames_B.cpu().numpy())
        found |= zip(outputs.indices, own, strict=True)
    return [found[index] for index in range(len(images))]


def _by_image(log_probs_TBK: np.ndarray, frames_B: np.ndarray) -> list[np.ndarray]:
    return [log_probs_TBK[:frames, index] for index, frames in enumerate(frames_B)]


def _unpadded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what `image.collate` does for one image, without padding."""
    return array.transpose(2, 0, 1)[None].copy(), np.array([array.shape[1]])


def _difference(one_TK: np.ndarray, other_TK: np.ndarray) -> float:
    return float(np.abs(one_TK - other_TK).max()) if one_TK.shape == other_TK.shape else float("inf")


def _codes(log_probs_TK: np.ndarray) -> tuple[int, ...]:
    return ctc.greedy(torch.tensor(log_probs_TK)[:, None], torch.tensor([len(log_probs_TK)]))[0].codes
