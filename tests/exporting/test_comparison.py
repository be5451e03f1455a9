"""The comparison of an exported file with its model."""

import numpy as np
import pytest
import torch

from raycrnn.errors import RaycrnnError
from raycrnn.exporting.comparison import Agreement, compare, generate_images
from tests.exporting.test_formats import tall_and_coloured
from tests.model.test_recognizer import recognizer


def test_generated_images_have_all_widths_in_mixed_order():
    arrays = list(generate_images(tall_and_coloured()))
    assert {array.shape[0::2] for array in arrays} == {(48, 3)}
    widths = [array.shape[1] for array in arrays]
    assert (min(widths), max(widths)) == (8, 200)
    assert all(max(widths[i : i + 8]) > 2 * min(widths[i : i + 8]) for i in range(0, 24, 8))


def as_the_model(images_BCHW: np.ndarray, widths_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    padded = np.pad(images_BCHW, ((0, 0), (0, 0), (0, 0), (0, 4)))
    with torch.inference_mode():
        log_probs_TBK, frames_B = recognizer().network(torch.from_numpy(padded), torch.from_numpy(widths_B))
    return log_probs_TBK.numpy()[:-1].copy(), frames_B.numpy()


def test_the_model_itself_agrees_with_the_model():
    agreement = compare(recognizer(), as_the_model, generate_images(recognizer()))
    assert (agreement.images, agreement.other_texts) == (32, 0)
    assert agreement.difference < 1e-4
    agreement.check("x")


def test_differences_are_measured():
    def changed(images_BCHW, widths_B):
        log_probs_TBK, frames_B = as_the_model(images_BCHW, widths_B)
        log_probs_TBK[-1] += change
        return log_probs_TBK, frames_B - lost

    change, lost = np.array([0, 0, 0, 0, 0, 0.01], np.float32), 0
    images = list(generate_images(recognizer()))[-3:]
    assert compare(recognizer(), changed, images).difference == pytest.approx(0.01, rel=0.02)
    change = np.full(6, np.nan, np.float32)
    assert np.isnan(compare(recognizer(), changed, images).difference)
    change, lost = np.zeros(6, np.float32), 1
    assert compare(recognizer(), changed, images).difference == np.inf
    change, lost = np.array([50, 0, 0, 0, 0, 0], np.float32), 0
    assert compare(recognizer(), changed, images).other_texts > 0


@pytest.mark.parametrize(
    ("agreement", "said"),
    [
        (Agreement(0, 0.0, 0), "no image to compare"),
        (Agreement(9, 0.0005, 0), r"by up to 5\.0e-04 \(1e-04 is allowed\), the text 0 times in 9 images"),
        (Agreement(9, float("nan"), 0), "by up to nan"),
        (Agreement(9, 0.0, 2), "the text 2 times in 9 images"),
    ],
)
def test_a_file_that_differs_is_refused_with_the_difference(agreement, said):
    with pytest.raises(RaycrnnError, match=rf"x\.onnx: not written.*{said}"):
        agreement.check("x.onnx")
