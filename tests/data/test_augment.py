"""Augmentation: reproducible by seed, epoch and row, with each effect within its strength."""

import colorsys
import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from raycrnn.config import Augmentation, Effect
from raycrnn.data.augment import COLOUR_ONLY, EFFECTS, Augmenter

ALL_OFF = {
    "data_augmentation_max_rotation": 0.0,
    "padding": {"strength": 0},
    "brightness": {"strength": 0},
    "contrast": {"strength": 0},
    "hue": {"strength": 0},
    "saturation": {"strength": 0},
}
GREATEST = {
    "rotation": 0.785,
    "padding": 0.5,
    "brightness": 1.0,
    "contrast": 0.99,
    "hue": 0.5,
    "saturation": 1.0,
}
"""The greatest strengths that the configuration allows."""


def only(effect: str, strength: float) -> Augmentation:
    if effect == "rotation":
        return Augmentation.model_validate({**ALL_OFF, "data_augmentation_max_rotation": strength})
    return Augmentation.model_validate({**ALL_OFF, effect: {"strength": strength}})


def noise(mode: str, width: int = 60, height: int = 20, low: int = 0, high: int = 256) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(1).integers(low, high, shape, dtype=np.uint8))


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.mode == second.mode and np.array_equal(first, second)


# --- which effects are applied


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_result_depends_only_on_seed_epoch_and_row(mode):
    picture, channels = noise(mode), len(mode)
    first = Augmenter(Augmentation(), channels, seed=3).apply(picture, 2, 7)
    again = Augmenter(Augmentation(), channels, seed=3)
    again.apply(picture, 0, 0)
    assert same(again.apply(picture, 2, 7), first)
    assert not same(again.apply(picture, 3, 7), first)
    assert not same(again.apply(picture, 2, 8), first)
    assert not same(Augmenter(Augmentation(), channels, seed=4).apply(picture, 2, 7), first)


def test_every_epoch_and_row_has_another_result():
    augmenter = Augmenter(Augmentation(), 1, seed=0)
    pictures = {augmenter.apply(noise("L"), epoch, row).tobytes() for epoch in range(8) for row in range(8)}
    assert len(pictures) == 64


def test_the_augmentation_of_a_row_is_the_same_after_pickling():
    of_row = Augmenter(Augmentation(), 3, seed=5).for_sample(epoch=1, row=9)
    assert same(pickle.loads(pickle.dumps(of_row))(noise("RGB")), of_row(noise("RGB")))
    assert same(of_row(noise("RGB")), Augmenter(Augmentation(), 3, seed=5).apply(noise("RGB"), 1, 9))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings_", [{"data_augmentation": False}, ALL_OFF])
def test_without_effects_the_image_is_unchanged(settings_, channels):
    augmenter = Augmenter(Augmentation.model_validate(settings_), channels, seed=0)
    assert augmenter.for_sample(epoch=0, row=0) is None
    picture = noise("L" if channels == 1 else "RGB")
    assert same(augmenter.apply(picture, 0, 0), picture)


@pytest.fixture
def called(monkeypatch) -> list[str]:
    """The names of the effects in the order of their calls; the effects are replaced by ones that only record these."""
    names = []
    for effect in list(EFFECTS):

        def record(image, strength, random, effect=effect):
            names.append(effect)
            return image

        monkeypatch.setitem(EFFECTS, effect, record)
    return names


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_only_enabled_effects_are_applied_and_colour_effects_only_to_colour(effect, channels, called):
    Augmenter(only(effect, GREATEST[effect] / 2), channels, seed=0).apply(noise("L"), 0, 0)
    assert called == ([] if channels == 1 and effect in COLOUR_ONLY else [effect])


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_of_strength_0_is_not_applied(effect, called):
    every = {name: {"strength": 0.1} for name in EFFECTS if name != "rotation"}
    off = {"data_augmentation_max_rotation": 0.0} if effect == "rotation" else {effect: {"strength": 0}}
    Augmenter(Augmentation.model_validate(every | off), 3, seed=0).apply(noise("RGB"), 0, 0)
    assert called == [name for name in EFFECTS if name != effect]


def test_the_configuration_has_a_group_for_every_effect():
    blocks = {name for name, field in Augmentation.model_fields.items() if isinstance(field.default, Effect)}
    assert EFFECTS.keys() == blocks | {"rotation"}
    assert blocks > COLOUR_ONLY


IN_COLOUR = [(effect, "RGB") for effect in EFFECTS]
IN_GREY = [(effect, "L") for effect in EFFECTS if effect not in COLOUR_ONLY]
SIZE = st.tuples(st.integers(1, 90), st.integers(1, 40))


@given(st.sampled_from(IN_COLOUR + IN_GREY), SIZE, st.floats(1e-6, 1), st.integers(0, 1000))
def test_effects_keep_the_mode_and_do_not_change_the_given_image(effect_and_mode, size, share, seed):
    effect, mode = effect_and_mode
    picture = noise(mode, *size)
    before = picture.tobytes()
    found = EFFECTS[effect](picture, share * GREATEST[effect], np.random.default_rng(seed))
    assert found.mode == mode
    assert min(found.size) >= 1
    assert picture.tobytes() == before
    if effect not in ("rotation", "padding"):
        assert found.size == size


# --- the effects


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


@pytest.mark.parametrize(("mode", "ink", "paper"), [("L", 7, 200), ("RGB", (7, 8, 9), (210, 200, 190))])
def test_padding_adds_pixels_in_the_colour_of_the_border(mode, ink, paper):
    picture = Image.new(mode, (50, 20), paper)
    picture.putpixel((0, 0), ink)
    sides = []
    for seed in range(60):
        found = EFFECTS["padding"](picture, 0.2, np.random.default_rng(seed))
        inked = np.argwhere((np.asarray(found).reshape(*found.size[::-1], -1) == ink).all(axis=2))
        assert len(inked) == 1
        top, left = inked[0].tolist()
        sides.append((left, top, found.width - 50 - left, found.height - 20 - top))
        expected = Image.new(mode, found.size, paper)
        expected.paste(picture, (left, top))
        assert same(found, expected)
    for side in zip(*sides, strict=True):
        assert set(side) == set(range(5))


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
