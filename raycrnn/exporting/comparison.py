"""Compare an exported file with the model it was made from."""

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
"""By how much a log-probability may differ from the model's own."""


MADE_WIDTHS = 16


def made_images(recognizer: Recognizer) -> Iterator[np.ndarray]:
    """Prepared images of noise and of units, from the least to the greatest width, narrow beside wide."""
    height, greatest_width = recognizer.configuration.image.input_shape
    generator = np.random.default_rng(0)
    widths = np.geomspace(image.MIN_WIDTH, greatest_width, MADE_WIDTHS).round().astype(int)
    mixed = np.stack([widths, widths[::-1]], axis=1).ravel()[:MADE_WIDTHS]
    font = ImageFont.load_default(size=height * 0.75)
    for width in mixed.tolist():
        yield recognizer.prepare(generator.integers(0, 256, (height, width), dtype=np.uint8)).pixels
        drawn = Image.new("RGB", (width, height), "white")
        text = "".join(generator.choice(recognizer.alphabet.units, 1 + width // height * 2))
        ImageDraw.Draw(drawn).text((height / 8, 0), text, fill="black", font=font)
        yield recognizer.prepare(drawn).pixels


# --- comparison

IMAGES_AT_A_TIME = 8


@dataclass(frozen=True)
class Agreement:
    """How an export's output compares with the model's own."""

    images: int
    difference: float
    """the greatest of a log-probability; infinite where the numbers of frames differ"""
    other_texts: int
    """how often another text was read"""

    def check(self, path: str) -> None:
        """Raises `RaycrnnError` if it may not be called the same model."""
        if not self.images:
            raise RaycrnnError(f"{path}: not written: there is no image to compare it with the model on")
        if not self.difference <= TOLERANCE or self.other_texts:
            raise RaycrnnError(
                f"{path}: not written, for it differs from the model: log-probabilities by up to {self.difference:.1e} "
                f"({TOLERANCE:.0e} is allowed), the text {self.other_texts:,} times in {self.images:,} images; other "
                "versions of torch, onnxscript and onnxruntime may do better"
            )


def compare(recognizer: Recognizer, run: Run, images: Iterable[np.ndarray]) -> Agreement:
    """Run an export on images in batches of any widths, one of each batch also alone, and compare it with the model."""
    count, other_texts, differences = 0, 0, [0.0]
    for some in _groups(images, IMAGES_AT_A_TIME):
        expected = _of_model(recognizer, some)
        # Not all of them alone: torch compiles kernels for each width that it has not met.
        readings = _by_image(*run(*image.collate(some))) + _by_image(*run(*_unpadded(some[0])))
        pairs = list(zip([*expected, expected[0]], readings, strict=True))
        count += len(some)
        differences += [_difference(own_TK, other_TK) for own_TK, other_TK in pairs]
        other_texts += sum(_codes(own_TK) != _codes(other_TK) for own_TK, other_TK in pairs)
    # Not max(), which passes over NaN.
    return Agreement(count, float(np.max(differences)), other_texts)


def _groups(images: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    group = []
    for array in images:
        group.append(array)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _of_model(recognizer: Recognizer, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities [T, K] of each image."""
    found: dict[int, np.ndarray] = {}
    for outputs in recognizer.log_probs(images):
        own = _by_image(outputs.log_probs_TBK.cpu().numpy(), outputs.frames_B.cpu().numpy())
        found |= zip(outputs.indices, own, strict=True)
    return [found[index] for index in range(len(images))]


def _by_image(log_probs_TBK: np.ndarray, frames_B: np.ndarray) -> list[np.ndarray]:
    return [log_probs_TBK[:frames, index] for index, frames in enumerate(frames_B)]


def _unpadded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `image.collate`, of one image in its own width."""
    return array.transpose(2, 0, 1)[None].copy(), np.array([array.shape[1]])


def _difference(one_TK: np.ndarray, other_TK: np.ndarray) -> float:
    return float(np.abs(one_TK - other_TK).max()) if one_TK.shape == other_TK.shape else float("inf")


def _codes(log_probs_TK: np.ndarray) -> tuple[int, ...]:
    return ctc.greedy(torch.tensor(log_probs_TK)[:, None], torch.tensor([len(log_probs_TK)]))[0].codes
