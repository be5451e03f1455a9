"""Ink, paper and defects: each changes the image, within bounds that keep text legible."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raycrnn.data import textures
from raycrnn.data.synthetic import paper, recipe
from raycrnn.data.synthetic.degradations import render
from raycrnn.data.synthetic.drawing import add_strokes, warp
from tests.data.synthetic.test_generator import PLAIN

INK = np.zeros((40, 200), np.uint8)
INK[12:28, 20:180] = 255
"""A bar in the middle of an image."""

ON, OFF = (slice(15, 25), slice(30, 170)), (slice(0, 8), slice(None))


def image(verso: np.ndarray | None = None, seed: int = 0, **groups: dict) -> np.ndarray:
    merged = PLAIN | {name: PLAIN.get(name, {}) | values for name, values in groups.items()}
    settings = recipe.parse({"text": {"pattern": "a"}, **merged})
    other_side = None if verso is None else Image.fromarray(verso)
    return np.asarray(render(Image.fromarray(INK), other_side, 40, settings, random.Random(seed))).astype(int)


def test_without_defects_ink_and_paper_have_their_grey_levels():
    drawn = image(ink={"grey": 30}, paper={"grey": 220})
    assert np.all(drawn[INK == 255] == 30)
    assert np.all(drawn[INK == 0] == 220)


def test_inverted_lines_are_light_on_dark():
    light = image(ink={"grey": 30, "inverted": 1}, paper={"grey": 220})
    assert np.array_equal(light, 255 - image(ink={"grey": 30}, paper={"grey": 220}))


DEFECTS = {
    "fading": {"ink": {"fading": 0.3}},
    "texture": {"paper": {"grey": 200, "texture": 0.1}},
    "shading": {"paper": {"grey": 200, "shading": 0.3}},
    "stains": {"stains": {"share": 1, "strength": 0.4, "count": 3}},
    "blur": {"blur": {"share": 1, "radius": 0.05}},
    "noise": {"paper": {"grey": 200}, "noise": {"share": 1, "strength": 0.05}},
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_changes_the_image_differently_each_time_and_leaves_text_legible(name):
    clean = image(paper={"grey": DEFECTS[name].get("paper", {}).get("grey", 255)})
    drawn = [image(seed=seed, **DEFECTS[name]) for seed in range(6)]
    assert all(np.any(each != clean) for each in drawn)
    assert name == "blur" or np.any(drawn[0] != drawn[1])
    for each in drawn:
        assert np.median(each[OFF]) - np.median(each[ON]) > 80


def test_bleed_through_is_the_other_side_mirrored_and_faint():
    verso = np.zeros_like(INK)
    verso[2:10, 10:60] = 255
    groups = {"bleed_through": {"share": 1, "strength": 0.2}}
    difference = image() - image(verso, **groups)
    assert np.all(difference[4:8, 145:185] == 51)
    assert np.all(difference[:, :130] == 0)
    assert np.all(difference[ON] == 0)


def test_noise_has_the_given_deviation():
    drawn = image(
        paper={
            "grey": 128,
        },
        ink={"grey": 0},
        noise={"share": 1, "strength": 0.04},
    )
    assert np.std(drawn[OFF]) == pytest.approx(0.04 * 255, rel=0.1)


@pytest.mark.parametrize(("weight", "sign"), [(0.5, 1), (-0.5, -1)])
def test_weight_spreads_or_thins_the_edges_of_strokes(weight, sign):
    soft = Image.new("L", (20, 20), 128)
    means = []
    for each in (0, weight):
        tree = {"text": {"pattern": "a"}, **PLAIN, "ink": {"grey": 0, "weight": each, "fading": 0}}
        means.append(np.asarray(render(soft, None, 20, recipe.parse(tree), random.Random(0))).mean())
    normal, changed = means
    assert (normal - changed) * sign > 10


def test_shading_darkens_one_side_by_no_more_than_its_strength():
    settings = recipe.parse({"text": {"pattern": "a"}, "paper": {"grey": 200, "texture": 0, "shading": 0.2}}).paper
    for seed in range(20):
        sheet = paper.make_paper((30, 90), settings, random.Random(seed))
        assert 200 + 0.01 >= sheet.max() >= 199
        assert 200 - 0.2 * 255 <= sheet.min() <= 200 - 0.2 * 127 * 0.7


@given(st.integers(1, 600), st.integers(1, 5000), st.integers(0, 9))
def test_textures_cover_any_shape(height, width, seed):
    part = textures.crop(textures.clouds(), (height, width), random.Random(seed).randrange)
    assert part.shape == (height, width)
    assert -1 <= part.min() <= part.max() <= 1


@given(st.floats(0, 6), st.integers(0, 99))
def test_waves_move_ink_by_no_more_than_their_height(amplitude, seed):
    dot = np.zeros((40, 60), np.uint8)
    dot[20, 30] = 255
    y, x = np.nonzero(np.asarray(warp(Image.fromarray(dot), amplitude, 40, random.Random(seed))))
    assert len(y) > 0
    assert np.abs(y - 20).max() <= amplitude + 1
    assert np.abs(x - 30).max() <= amplitude + 1


@pytest.mark.parametrize("shape", [(30, 120), (120, 30)])
def test_strokes_cross_the_whole_line(shape):
    settings = recipe.parse({"text": {"pattern": "a"}, "strokes": {"count": 2, "width": 0.05}}).strokes
    image = Image.new("L", shape[::-1])
    add_strokes(image, settings, random.Random(0))
    drawn = np.asarray(image)
    along = 1 if shape[1] > shape[0] else 0
    assert np.all(drawn.max(axis=1 - along) > 100)
    assert 0 < (drawn > 0).mean() < 0.2
