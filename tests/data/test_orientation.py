"""Lines that stand upright: the turn, sizes, and the places of units."""

import io
import typing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raycrnn.data import image, orientation
from raycrnn.data.orientation import LineOrientation
from tests.conftest import draw

QUARTERS = {"horizontal": 0, "top_to_bottom": 1, "bottom_to_top": -1}
"""Quarter turns, counterclockwise, that make a line horizontal: the argument of `np.rot90`."""

each_orientation = pytest.mark.parametrize("name", typing.get_args(LineOrientation))


def test_the_first_letter_is_on_the_left_after_the_turn():
    column = Image.fromarray(np.array([[10], [20], [30]], np.uint8))
    assert np.asarray(orientation.make_horizontal(column, "top_to_bottom")).tolist() == [[10, 20, 30]]
    assert np.asarray(orientation.make_horizontal(column, "bottom_to_top")).tolist() == [[30, 20, 10]]
    assert orientation.make_horizontal(column, "horizontal") is column


@each_orientation
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    edges=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_a_box_shows_the_same_pixels_as_its_columns_after_the_turn(name, size, edges):
    width, height = size
    pixels_HW = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    turned_HW = np.rot90(pixels_HW, QUARTERS[name])
    assert orientation.horizontal_size(size, name) == turned_HW.shape[::-1]
    first, end = sorted(min(edge, turned_HW.shape[1]) for edge in edges)
    left, top, right, bottom = box = orientation.box_of((first, end), size, name)
    assert np.array_equal(np.rot90(pixels_HW[top:bottom, left:right], QUARTERS[name]), turned_HW[:, first:end])
    assert orientation.span_of(box, size, name) == (first, end)


@each_orientation
@pytest.mark.parametrize("augment", [None, lambda drawn: drawn.point(lambda value: 255 - value)])
def test_a_line_is_prepared_like_the_one_turned_by_hand(name, augment):
    drawn = draw("abcdef", height=80)
    standing = Image.fromarray(np.rot90(np.asarray(drawn), -QUARTERS[name]))
    one, other = io.BytesIO(), io.BytesIO()
    drawn.save(one, "PNG")
    standing.save(other, "PNG")
    expected = image.prepare(one.getvalue(), (32, 1024), 1, augment)
    assert np.array_equal(image.prepare(other.getvalue(), (32, 1024), 1, augment, name), expected)


def test_the_orientation_of_exif_comes_first():
    """The camera stored a column of text on its side: its top is on the right, and orientation 8 turns it upright."""
    drawn = np.asarray(draw("abcdef"))
    column = np.rot90(drawn, -1)
    stored = Image.fromarray(np.rot90(column, -1))
    exif = Image.Exif()
    exif[0x0112] = 8
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    prepared = image.prepare_image(file.getvalue(), (32, 1024), 1, orientation="top_to_bottom")
    assert np.array_equal(prepared.pixels[:, :, 0], drawn)
    assert prepared.original_size == column.shape[::-1]
