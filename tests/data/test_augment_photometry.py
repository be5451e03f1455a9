"""Effects that change values: each within its strength, for dark ink on light paper and the reverse."""

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from raycrnn.data.augment import COLOUR_ONLY, EFFECTS
from tests.data.test_augment import GREATEST, noise, same

LEVELS = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
"""An image of one row, with each value once."""


def draws(effect: str, picture: Image.Image, count: int = 50, strength: float = 1) -> list[np.ndarray]:
    """Return what an effect makes of an image with some generators, int [H, W] or [H, W, C]."""
    found = [EFFECTS[effect](picture, strength, np.random.default_rng(seed)) for seed in range(count)]
    return [np.asarray(each).astype(int) for each in found]


@given(st.sampled_from(["L", "RGB"]), st.floats(0.01, 1), st.integers(0, 1000))
def test_brightness_shifts_all_values_equally_within_its_strength(mode, strength, seed):
    picture = noise(mode)
    found = np.asarray(EFFECTS["brightness"](picture, strength, np.random.default_rng(seed))).astype(int)
    shifts = found - np.asarray(picture)
    assert abs(shifts.mean()) <= strength * 255 + 0.5
    inside = (found > 0) & (found < 255)
    assert len(set(shifts[inside])) <= 1
    assert np.abs(shifts).max() <= strength * 255 + 0.5


def test_brightness_uses_the_whole_range_of_its_strength():
    grey = Image.new("L", (1, 1), 128)
    generators = [np.random.default_rng(seed) for seed in range(200)]
    levels = [EFFECTS["brightness"](grey, 0.2, random).getpixel((0, 0)) for random in generators]
    assert 77 <= min(levels) <= 80
    assert 176 <= max(levels) <= 179


@given(st.sampled_from(["L", "RGB"]), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_contrast_scales_around_the_mean_within_its_strength(mode, strength, seed):
    picture = noise(mode, low=100, high=156)
    found = EFFECTS["contrast"](picture, strength, np.random.default_rng(seed))
    before, after = np.asarray(picture).astype(float), np.asarray(found).astype(float)
    assert abs(after.mean() - before.mean()) <= 1.5
    factor = np.polyfit(before.ravel(), after.ravel(), 1)[0]
    assert 1 - strength - 0.02 <= factor <= 1 + strength + 0.02


def colours() -> Image.Image:
    """Return an image of one row, in which each pixel is a saturated colour of another hue."""
    hues = [[round(255 * band) for band in colorsys.hsv_to_rgb(hue / 24, 0.8, 0.9)] for hue in range(24)]
    return Image.fromarray(np.array([hues], dtype=np.uint8))


def hsv(picture: Image.Image) -> np.ndarray:
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in (np.asarray(picture)[0] / 255).tolist()])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("strength", [0.05, 0.5])
def test_hue_shifts_all_colours_equally_within_its_strength(strength, seed):
    before, after = hsv(colours()), hsv(EFFECTS["hue"](colours(), strength, np.random.default_rng(seed)))
    turns = (after[:, 0] - before[:, 0] + 0.5) % 1 - 0.5
    from_first = (turns - turns[0] + 0.5) % 1 - 0.5
    assert np.abs(turns).max() <= strength + 0.02
    assert np.abs(from_first).max() <= 0.02
    assert np.abs(after[:, 1:] - before[:, 1:]).max() <= 0.02


def test_hue_uses_the_whole_range_of_its_strength():
    turned = [hsv(EFFECTS["hue"](colours(), 0.5, np.random.default_rng(seed)))[0, 0] for seed in range(20)]
    assert np.std(turned) > 0.2


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_saturation_scales_the_distance_from_grey_within_its_strength(strength, seed):
    picture = Image.fromarray((np.asarray(colours()) // 4 + 96).astype(np.uint8))
    found = EFFECTS["saturation"](picture, strength, np.random.default_rng(seed))
    before, after = (np.asarray(p).astype(float) for p in (picture, found))
    grey = np.asarray(picture.convert("L")).astype(float)[:, :, None]
    factor = np.polyfit((before - grey).ravel(), (after - grey).ravel(), 1)[0]
    assert 1 - strength - 0.03 <= factor <= 1 + strength + 0.03
    assert np.abs(after - (grey + factor * (before - grey))).max() <= 2


@pytest.mark.parametrize("effect", sorted(COLOUR_ONLY))
def test_colour_effects_do_not_change_grey(effect):
    greys = noise("L").convert("RGB")
    for seed in range(5):
        assert same(EFFECTS[effect](greys, GREATEST[effect], np.random.default_rng(seed)), greys)


def bar(ink: int, paper: int, mode: str = "L") -> Image.Image:
    """Return a vertical stroke of 10 pixels in an image of 100 by 200, in which 1 pixel is 0.005 of the height."""
    picture = Image.new(mode, (100, 200), (paper,) * 3 if mode == "RGB" else paper)
    picture.paste((ink,) * 3 if mode == "RGB" else ink, (45, 40, 55, 160))
    return picture


@pytest.mark.parametrize(("ink", "paper"), [(20, 220), (220, 20)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_strokes_of_dark_and_of_light_ink_get_thinner_and_thicker(ink, paper, mode):
    widths = []
    for found in draws("thickness", bar(ink, paper, mode)):
        row = (found.reshape(200, 100, -1)[100, :, 0] - paper) / (ink - paper)
        assert set(row[[0, 30, 70, 99]]) == {0}
        widths.append(row.sum())
    # 3 pixels on each side.
    assert 4 <= min(widths) < 5.5
    assert 14.5 < max(widths) <= 16


def test_occlusion_covers_small_parts_with_the_background_alone():
    picture = Image.new("L", (400, 50), 230)
    picture.paste(40, (0, 10, 400, 40))
    covered = []
    for found in draws("occlusion", picture):
        changed = found != np.asarray(picture)
        assert np.all(found[changed] == 230)
        covered.append(changed.sum())
    # Four rectangles of at most 15 × 15 pixels.
    assert np.median(covered) > 0
    assert max(covered) <= 4 * 225


def test_gamma_maps_values_by_a_power_that_keeps_black_and_white():
    exponents = []
    for found in draws("gamma", LEVELS, 100):
        assert found[0, 0] == 0
        assert found[0, 255] == 255
        exponent = np.log(found[0, 128] / 255) / np.log(128 / 255)
        assert np.abs(found[0] - 255 * (np.arange(256) / 255) ** exponent).max() <= 1.5
        exponents.append(exponent)
    assert 0.49 < min(exponents) < 0.6
    assert 1.7 < max(exponents) < 2.05


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_inversion_swaps_light_and_dark_with_the_probability_of_its_strength(mode):
    picture = noise(mode)
    found = [EFFECTS["inversion"](picture, 0.3, np.random.default_rng(seed)) for seed in range(300)]
    inverted = sum(same(each, ImageOps.invert(picture)) for each in found)
    assert 60 < inverted < 120
    assert sum(same(each, picture) for each in found) == 300 - inverted


def test_blur_spreads_an_edge_by_its_standard_deviation_in_parts_of_the_height():
    edge = Image.new("L", (200, 100), 255)
    edge.paste(0, (100, 0, 200, 100))
    deviations = []
    for found in draws("blur", edge):
        slope = -np.diff(found[50])
        middle = np.average(np.arange(199), weights=slope)
        deviations.append(np.sqrt(np.average((np.arange(199) - middle) ** 2, weights=slope)))
    assert min(deviations) < 0.6
    assert 2.4 < max(deviations) <= 3.3


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("height", [32, 64])
def test_noise_is_grey_and_relative_to_the_contrast_of_the_image(mode, height):
    picture = Image.new(mode, (400, height), (110,) * 3 if mode == "RGB" else 110)
    picture.paste((150,) * 3 if mode == "RGB" else 150, (0, 0, 200, height))
    ratios = []
    for found in draws("noise", picture):
        added = (found - np.asarray(picture).astype(int)).reshape(height, 400, -1)
        assert np.all(added == added[..., :1])
        assert abs(added.mean()) < 0.7
        ratios.append(added.std() / 20)
    assert min(ratios) < 0.05
    assert (0.4 if height == 32 else 0.25) < max(ratios) < 0.52


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_compression_changes_images_little_to_much(mode):
    # Grey, because colours are halved in resolution at any quality.
    picture = noise("L", low=80, high=176).convert(mode)
    changes = [np.abs(found - np.asarray(picture).astype(int)).mean() for found in draws("jpeg", picture)]
    assert min(changes) < max(changes) / 4
    assert 10 < max(changes) < 30
