"""Effects that move pixels: each within its strength, and nothing is cut off."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from raycrnn.data.augment import EFFECTS, Augmenter
from raycrnn.data.augment_geometry import Geometry, bend, distort_grid
from tests.data.test_augment import GEOMETRIC, GREATEST, noise, only


class Extreme:
    """A random generator that returns an end of the range."""

    def __init__(self, end: int):
        self.end = end

    def uniform(self, low: float, high: float) -> float:
        return (low, high)[self.end]


def ink(picture: Image.Image) -> np.ndarray:
    """Return the share of ink in each pixel of black writing on white."""
    return 1 - np.asarray(picture.convert("L")) / 255


def marked(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Return white paper of a size with a black box: left, top, right and bottom."""
    picture = Image.new("L", size, 255)
    picture.paste(0, box)
    return picture


@given(
    st.floats(2, 60),
    st.integers(12, 64),
    st.floats(0, 1),
    st.sampled_from(["top", "bottom", "left", "right"]),
    st.floats(0.001, GREATEST["rotation"]),
    st.integers(0, 1),
)
@example(27.0, 64, 0.0, "bottom", 0.02, 0)
@example(27.0, 64, 1.0, "bottom", 0.02, 1)
@example(60.0, 32, 0.0, "top", 0.785, 1)
@example(2.0, 32, 1.0, "right", 0.785, 0)
def test_rotation_loses_no_ink_even_at_the_edges_of_long_lines(aspect, height, place, edge, strength, end):
    """The mark is at the edge, from one corner to the other."""
    width = round(aspect * height)
    left, top = round(place * (width - 3)), round(place * (height - 3))
    left, top = {"top": (left, 0), "bottom": (left, height - 3), "left": (0, top), "right": (width - 3, top)}[edge]
    picture = marked((width, height), (left, top, left + 3, top + 3))
    found = ink(EFFECTS["rotation"](picture, strength, Extreme(end)))
    # A shear reduces the area. Interpolation blurs the edges of the mark; half a pixel of them can lie outside.
    assert found.sum() > 0.75 * 9 * math.cos(min(strength, math.pi / 4))


@given(st.integers(6, 400), st.integers(6, 120), st.floats(0.001, GREATEST["rotation"]), st.integers(0, 1))
@example(400, 6, 0.785, 0)
@example(6, 120, 0.785, 1)
def test_rotation_enlarges_each_side_by_at_most_an_eighth(width, height, strength, end):
    found = EFFECTS["rotation"](Image.new("L", (width, height)), strength, Extreme(end))
    assert found.height <= math.ceil(1.125 * height)
    assert found.width <= math.ceil(1.125 * width)


def direction(picture: Image.Image, axis: int) -> float:
    """Return the angle in radians between an axis, 0 (x) or 1 (y), and the only line of the image."""
    found = ink(picture) if axis == 0 else ink(picture).T
    along = np.flatnonzero(found.sum(axis=0) > 0.9)
    centres = (np.arange(len(found))[:, None] * found[:, along]).sum(axis=0) / found[:, along].sum(axis=0)
    return math.atan(np.polyfit(along, centres, 1)[0])


@pytest.mark.parametrize("end", [0, 1])
def test_a_short_image_is_rotated(end):
    baseline = EFFECTS["rotation"](marked((90, 60), (10, 29, 80, 31)), 0.08, Extreme(end))
    stroke = EFFECTS["rotation"](marked((90, 60), (44, 10, 46, 50)), 0.08, Extreme(end))
    angle = (-0.08, 0.08)[end]
    assert direction(baseline, 0) == pytest.approx(angle, abs=0.01)
    assert direction(stroke, 1) == pytest.approx(-angle, abs=0.01)


def test_a_long_line_is_sheared_and_keeps_most_of_its_height():
    size = (1000, 40)
    baseline = EFFECTS["rotation"](marked(size, (10, 19, 990, 21)), 0.3, Extreme(1))
    stroke = EFFECTS["rotation"](marked(size, (499, 0, 501, 40)), 0.3, Extreme(1))
    assert direction(baseline, 0) == pytest.approx(0.005, abs=0.0005)
    assert direction(stroke, 1) == pytest.approx(-0.3, abs=0.02)
    assert baseline.width < 1000 + 40


def test_rotation_uses_the_whole_range_of_its_strength():
    picture = marked((100, 80), (10, 39, 90, 41))
    angles = [direction(EFFECTS["rotation"](picture, 0.1, np.random.default_rng(seed)), 0) for seed in range(100)]
    assert -0.105 < min(angles) < -0.09
    assert 0.09 < max(angles) < 0.105
    assert abs(np.mean(angles)) < 0.02


@pytest.mark.parametrize(("mode", "ink", "paper"), [("L", 7, 200), ("RGB", (7, 8, 9), (210, 200, 190))])
def test_rotation_fills_the_corners_with_the_colour_of_the_border(mode, ink, paper):
    picture = Image.new(mode, (90, 30), paper)
    picture.paste(ink, (20, 10, 70, 20))
    found = EFFECTS["rotation"](picture, 0.2, Extreme(1))
    for corner in [(0, 0), (found.width - 1, 0), (0, found.height - 1), (found.width - 1, found.height - 1)]:
        assert found.getpixel(corner) == paper


PAPERS = [("L", 7, 200), ("L", 240, 20), ("RGB", (7, 8, 9), (210, 200, 190))]


@given(
    st.sampled_from([[effect] for effect in GEOMETRIC if effect != "rotation"] + [GEOMETRIC]),
    st.floats(0.2, 30),
    st.floats(0, 1),
    st.sampled_from(["top", "bottom", "left", "right"]),
    st.integers(0, 1000),
)
def test_nothing_at_the_edges_is_cut_off(effects, aspect, place, edge, seed):
    """The mark is at the edge, from one corner to the other. One effect makes it smaller by at most half."""
    height = 48
    width = round(aspect * height)
    left, top = round(place * (width - 6)), round(place * (height - 6))
    left, top = {"top": (left, 0), "bottom": (left, height - 6), "left": (0, top), "right": (width - 6, top)}[edge]
    picture = marked((width, height), (left, top, left + 6, top + 6))
    found = ink(Augmenter(only(*effects), 1, seed).apply(picture, 0, 0))
    assert found.sum() > (0.4 if len(effects) == 1 else 0.1) * 36


@pytest.mark.parametrize("edge", ["top", "bottom"])
def test_elastic_distortion_bends_no_line_out_of_the_image(edge):
    top = {"top": 0, "bottom": 46}[edge]
    picture = marked((480, 48), (0, top, 480, top + 2))
    for found in draws("elastic_distortion", picture, 20):
        assert ink(found).sum() > 0.9 * 480 * 2


@pytest.mark.parametrize("effect", GEOMETRIC)
@pytest.mark.parametrize(("mode", "ink", "paper"), PAPERS)
def test_what_lies_outside_has_the_colour_of_the_border(effect, mode, ink, paper):
    picture = Image.new(mode, (120, 40), paper)
    picture.paste(ink, (30, 15, 90, 25))
    for seed in range(5):
        found = np.asarray(EFFECTS[effect](picture, GREATEST[effect] / 2, np.random.default_rng(seed)))
        border = np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]])
        assert np.all(border == paper)


def extent(picture: Image.Image, axis: int) -> tuple[float, float]:
    """Return where the ink begins and ends along an axis, 0 (x) or 1 (y), to a part of a pixel."""
    along = ink(picture).max(axis=axis)
    places = np.flatnonzero(along > 0.02)
    return places[0] + 1 - along[places[0]], places[-1] + along[places[-1]]


BOX = marked((300, 60), (100, 20, 200, 40))


def draws(effect: str, picture: Image.Image, count: int = 100, strength: float = 1) -> list[Image.Image]:
    return [EFFECTS[effect](picture, strength, np.random.default_rng(seed)) for seed in range(count)]


def test_slant_leans_strokes_to_both_sides_and_keeps_the_baseline_level():
    angles = [direction(found, 1) for found in draws("slant", marked((600, 60), (299, 5, 301, 55)))]
    assert -0.51 < min(angles) < -0.4
    assert 0.4 < max(angles) < 0.51
    for found in draws("slant", marked((600, 60), (50, 29, 550, 31)), 10):
        assert direction(found, 0) == pytest.approx(0, abs=1e-3)


def test_slant_adds_at_most_an_eighth_to_the_width():
    for size in ((60, 60), (20, 60), (100, 40)):
        sizes = [found.size for found in draws("slant", Image.new("L", size))]
        assert max(width for width, _ in sizes) <= math.ceil(1.125 * size[0])
        assert {height for _, height in sizes} == {size[1]}


def test_stretch_makes_text_lower_or_narrower_in_an_image_of_the_same_size():
    sizes = []
    for found in draws("stretch", BOX):
        assert found.size == BOX.size
        (left, right), (top, bottom) = extent(found, 0), extent(found, 1)
        sizes.append(((right - left) / 100, (bottom - top) / 20))
    for along, across in sizes:
        assert max(along, across) == pytest.approx(1, abs=0.05)
        assert min(along, across) > 0.7
    ratios = [along / across for along, across in sizes]
    assert min(ratios) < 0.8
    assert max(ratios) > 1.25


def test_shift_adds_background_on_one_side_of_each_axis():
    sides = []
    for found in draws("shift", marked((302, 62), (1, 1, 301, 61))):
        (left, right), (top, bottom) = extent(found, 0), extent(found, 1)
        assert (right - left, bottom - top) == (pytest.approx(300, abs=0.1), pytest.approx(60, abs=0.1))
        assert min(left, found.width - right) < 2
        assert min(top, found.height - bottom) < 2
        sides.append((left, top, found.width - right, found.height - bottom))
    assert np.max(sides, axis=0) == pytest.approx([15] * 4, abs=2)


def test_perspective_makes_either_end_higher():
    both_ends = marked((300, 60), (20, 10, 280, 50))
    ratios = []
    for found in draws("perspective", both_ends):
        columns = ink(found).sum(axis=0)
        inside = np.flatnonzero(columns > 20)
        ratios.append(columns[inside[-5]] / columns[inside[4]])
    assert 0.74 < min(ratios) < 0.85
    assert 1.18 < max(ratios) < 1.35


def test_distorted_grids_keep_their_border_and_the_order_of_their_lines():
    for seed in range(50):
        geometry = Geometry((320, 64))
        distort_grid(geometry, 1, np.random.default_rng(seed))
        offsets = geometry.offsets
        assert np.allclose(offsets[:, [0, -1], 0], 0)
        assert np.allclose(offsets[[0, -1], :, 1], 0)
        bend(geometry, 1, np.random.default_rng(seed))
        steps = np.diff(geometry.offsets[..., 0] + np.linspace(0, 320, 11), axis=1)
        assert steps.min() > 0


def test_grid_distortion_stretches_some_letters_and_compresses_others():
    picture = marked((320, 64), (0, 0, 0, 0))
    for left in range(20, 300, 40):
        picture.paste(0, (left, 10, left + 20, 54))
    widths = []
    for found in draws("grid_distortion", picture, 30):
        assert found.size == picture.size
        edges = np.flatnonzero(np.diff((ink(found)[32] > 0.5).astype(int)))
        widths.extend(np.diff(edges)[::2])
    assert 10 <= min(widths) < 16
    assert 24 < max(widths) <= 36


def test_elastic_distortion_moves_each_part_by_its_own_distance_within_its_strength():
    dots = marked((320, 64), (0, 0, 0, 0))
    places = range(20, 320, 40)
    for left in places:
        dots.paste(0, (left - 2, 30, left + 2, 34))
    moved = []
    for found in draws("elastic_distortion", dots, 30):
        growth = (found.width - 320) / 2, (found.height - 64) / 2
        assert max(growth) <= 0.08 * 64 + 1
        for left in places:
            part = ink(found)[:, round(left + growth[0]) - 14 : round(left + growth[0]) + 14]
            y, x = (
                float(np.average(np.arange(n), weights=part.sum(axis=1 - axis))) for axis, n in enumerate(part.shape)
            )
            moved.append((x + 0.5 - 14, y + 0.5 - 32 - growth[1]))
    assert np.abs(moved).max() <= 0.08 * 64 + 1.5
    assert np.std(moved, axis=0).min() > 0.5


@pytest.mark.parametrize("effect", GEOMETRIC)
def test_an_effect_that_moves_nothing_does_not_blur(effect):
    picture = noise("L", 64, 32)
    found = EFFECTS[effect](picture, 1e-6, np.random.default_rng(0))
    assert found.size == picture.size
    assert np.abs(np.asarray(found).astype(int) - np.asarray(picture)).max() <= 1
