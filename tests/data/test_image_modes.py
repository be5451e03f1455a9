"""The background of transparent images."""

import io

import numpy as np
import pytest
from PIL import Image

from raycrnn.data import image


def drawn(ink: tuple[int, int, int], mode: str = "RGBA", backdrop: tuple[int, int, int] | None = None) -> bytes:
    """Return a PNG of a bar of ink on a transparent backdrop."""
    pixels_HWC = np.zeros((20, 60, 4), np.uint8)
    pixels_HWC[:, :, :3] = ink if backdrop is None else backdrop
    pixels_HWC[5:15, 10:50] = (*ink, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("ink", [(255, 255, 255), (245, 245, 250)])
def test_white_ink_on_transparency_is_laid_on_black(ink, mode, channels):
    array = np.asarray(image.decode(drawn(ink, mode), channels))
    assert array[0].max() == 0
    assert array[10, 30].min() >= 245


@pytest.mark.parametrize("ink", [(0, 0, 0), (200, 0, 0), (120, 120, 120), (230, 230, 230)])
def test_ink_that_can_be_seen_on_white_is_laid_on_white(ink):
    array = np.asarray(image.decode(drawn(ink, backdrop=(255, 255, 255)), 3))
    assert array[0].min() == 255
    assert array[10, 30].tolist() == list(ink)


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_blank_image_stays_white(alpha):
    buffer = io.BytesIO()
    Image.new("RGBA", (20, 10), (255, 255, 255, alpha)).save(buffer, "PNG")
    assert np.asarray(image.decode(buffer.getvalue())).min() == 255
