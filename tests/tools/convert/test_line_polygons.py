"""Lines that are cut out of pages, compared with pixels that are known or computed one by one."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raycrnn.tools.convert.line_polygons import band, cut, parse_points, rectangle, typical_distance
from raycrnn.tools.convert.records import UnusableLine


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def inside(outline: list[tuple[int, int]], x: int, y: int) -> bool:
    """Return whether a pixel is inside a convex outline whose points run clockwise on the screen."""
    sides = zip(outline, outline[1:] + outline[:1], strict=True)
    return all((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) >= 0 for (x1, y1), (x2, y2) in sides)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_skewed_outline_keeps_its_pixels_and_fills_the_rest(channels):
    generator = np.random.default_rng(0)
    page = generator.integers(0, 60, (50, 90, channels)).astype(np.uint8) + 150
    outline = [(10, 5), (70, 25), (65, 40), (5, 20)]
    found = pixels(cut(Image.fromarray(page.squeeze()), outline)).reshape(36, 66, channels)
    part = page[5:41, 5:71]
    ys, xs = np.mgrid[5:41, 5:71]
    is_inside = np.vectorize(lambda x, y: inside(outline, x, y))(xs, ys)
    assert np.array_equal(found[is_inside], part[is_inside])
    changed = (found != part).any(axis=2)
    # Pixels that the sides touch are kept, too. The others have one colour, which the page has most.
    outside = ~is_inside & changed
    assert len(np.unique(found[outside], axis=0)) == 1
    assert np.abs(found[outside][0].astype(float) - np.median(part[is_inside], axis=0)).max() <= 3
    assert outside.sum() > 0.8 * (~is_inside).sum()


def test_the_background_of_white_ink_is_dark():
    page = np.full((40, 60), 20, np.uint8)
    page[15:20, 10:50] = 250
    found = pixels(cut(Image.fromarray(page), [(5, 5), (55, 12), (55, 30), (5, 23)]))
    assert found[-1, 0] == found[0, -1] == 20
    assert 250 in found


@pytest.mark.parametrize(
    ("outline", "size"),
    [
        ([(-20, -9), (5, -9), (5, 5), (-20, 5)], (6, 6)),
        ([(80, 30), (200, 30), (200, 300), (80, 300)], (10, 20)),
        ([(10.2, 10.2), (20.0000001, 10.2), (20, 20.5), (10.2, 20.5)], (11, 12)),
    ],
)
def test_an_outline_ends_at_the_edge_of_the_page(outline, size):
    assert Image.open(io.BytesIO(cut(Image.new("L", (90, 50)), outline))).size == size


def test_an_outline_whose_box_meets_the_page_but_not_its_area_is_outside():
    with pytest.raises(UnusableLine, match="outside"):
        cut(Image.new("L", (90, 50)), [(85, -40), (200, 60), (200, 61), (190, -40)])


def test_a_band_around_a_baseline():
    assert band([(10, 100), (110, 100)], 40) == [(10, 70), (110, 70), (110, 110), (10, 110)]
    # Drawn from right to left, as for Hebrew: up is still up.
    assert band([(110, 100), (10, 100)], 40) == [(110, 70), (10, 70), (10, 110), (110, 110)]
    upper = band([(0, 0), (30, 40)], 50)[:2]
    assert np.allclose(upper, [(30, -22.5), (60, 17.5)])
    with pytest.raises(UnusableLine, match="outline"):
        band([(5, 5), (5, 5)], 40)


def test_the_typical_distance_is_that_within_a_column():
    left = [[(0, y), (100, y + 2)] for y in (50, 90, 131, 400)]
    right = [[(200, y), (300, y)] for y in (60, 100, 140)]
    assert typical_distance([*left, *right, []]) == 40
    assert typical_distance([left[0], right[1]]) is None
    assert typical_distance([]) is None


def test_a_rectangle_is_rotated_around_its_corner():
    assert np.allclose(rectangle(10, 20, 30, 5, 90), [(10, 20), (10, 50), (5, 50), (5, 20)])


numbers = st.floats(-1e5, 1e5).map(lambda number: round(number, 3))


@given(st.lists(st.tuples(numbers, numbers), max_size=20), st.sampled_from(["{},{} ", "{} {} ", " {} , {}"]))
def test_points_are_parsed_in_every_notation(points, notation):
    assert parse_points("".join(notation.format(x, y) for x, y in points)) == points


@given(st.text("0123456789.,- eE+xn", max_size=30))
def test_any_text_is_parsed_or_refused(text):
    try:
        points = parse_points(text)
    except UnusableLine:
        return
    assert all(abs(number) <= 1e6 for point in points for number in point)


def test_parsing_takes_no_exponential_time():
    with pytest.raises(UnusableLine):
        parse_points("1" * 50_000 + "x")
