"""The suggested input shape."""

import numpy as np
import pytest

from raycrnn.checking.sizes import suggested_shape


@pytest.mark.parametrize(
    ("height", "shape", "expected"),
    [
        (24, (32, 1024), 32),
        (38, (32, 1024), 32),
        (40, (32, 1024), 48),
        (57, (32, 1024), 48),
        (100, (32, 1024), 64),
        (100, (96, 1024), 96),
        (24, (64, 1024), 32),
        (300, (48, 1024), 64),
    ],
)
def test_the_height_follows_the_median_height(height, shape, expected):
    heights = np.array([height] * 9 + [2000])
    assert suggested_shape(heights, np.full(10, 5.0), shape) == (expected, 1024)


def test_the_width_covers_nearly_all_lines_but_no_outlier():
    aspects = np.array([10.0] * 990 + [40.0] * 9 + [500.0])
    height, width = suggested_shape(np.full(1000, 32), aspects, (32, 1024))
    assert (height, width) == (32, 40 * 32)
    assert np.mean(aspects * height <= width) >= 0.995


def test_a_height_can_be_kept():
    heights, aspects = np.full(100, 56), np.full(100, 50.0)
    assert suggested_shape(heights, aspects, (32, 1024)) == (48, 2400)
    assert suggested_shape(heights, aspects, (32, 1024), keep_height=True) == (32, 1600)


def test_a_smaller_width_is_never_suggested():
    assert suggested_shape(np.full(10, 32), np.full(10, 2.0), (32, 2048)) == (32, 2048)
