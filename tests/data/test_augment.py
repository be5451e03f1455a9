"""Augmentation: reproducible by seed, epoch and row, and with a range that contains the unchanged image."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from raycrnn.config import Augmentation, Effect
from raycrnn.config.augmentation import BlurEffect
from raycrnn.data.augment import COLOUR_ONLY, EFFECTS, STRONGER_LATER, Augmenter
from raycrnn.data.augment_geometry import GeometricEffect, Geometry
from raycrnn.data.image import augment_and_fit, fitted_width
from tests.conftest import draw

ALL_OFF = {"share": 1.0, "data_augmentation_max_rotation": 0.0} | {
    effect: {"strength": 0} for effect in EFFECTS if effect != "rotation"
}
GREATEST = {
    "rotation": 0.785,
    "slant": 1.0,
    "stretch": 1.0,
    "shift": 1.0,
    "perspective": 1.0,
    "grid_distortion": 1.0,
    "elastic_distortion": 1.0,
    "padding": 0.5,
    "thickness": 1.0,
    "occlusion": 1.0,
    "brightness": 1.0,
    "contrast": 0.99,
    "gamma": 1.0,
    "hue": 0.5,
    "saturation": 1.0,
    "inversion": 0.5,
    "blur": 1.0,
    "noise": 1.0,
    "jpeg": 1.0,
}
"""The greatest strengths that the configuration allows."""

GEOMETRIC = [effect for effect in EFFECTS if isinstance(EFFECTS[effect], GeometricEffect)]


def only(*effects: str, part: float = 1, share: float = 1) -> Augmentation:
    """Return settings with some effects at a part of their greatest strength, and the others off."""
    blocks = {effect: {"strength": part * GREATEST[effect], "share": share} for effect in effects}
    rotation = blocks.pop("rotation", {"strength": 0.0})["strength"]
    return Augmentation.model_validate({**ALL_OFF, **blocks, "data_augmentation_max_rotation": rotation})


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
    augmenter = Augmenter(Augmentation(share=1), 1, seed=0)
    pictures = {augmenter.apply(noise("L"), epoch, row).tobytes() for epoch in range(8) for row in range(8)}
    assert len(pictures) == 64


def test_the_augmentation_of_a_row_is_the_same_after_pickling():
    of_row = Augmenter(Augmentation(), 3, seed=5).for_sample(times=1, row=9)
    assert same(pickle.loads(pickle.dumps(of_row))(noise("RGB")), of_row(noise("RGB")))
    assert same(of_row(noise("RGB")), Augmenter(Augmentation(), 3, seed=5).apply(noise("RGB"), 1, 9))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings_", [{"data_augmentation": False}, ALL_OFF])
def test_without_effects_the_image_is_unchanged(settings_, channels):
    augmenter = Augmenter(Augmentation.model_validate(settings_), channels, seed=0)
    assert augmenter.for_sample(times=0, row=0) is None
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
    Augmenter(only(effect, part=0.5), channels, seed=0).apply(noise("L"), 0, 0)
    assert called == ([] if channels == 1 and effect in COLOUR_ONLY else [effect])


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_of_strength_0_is_not_applied(effect, called):
    every = {name: {"strength": 0.1, "share": 1} for name in EFFECTS if name != "rotation"}
    off = {"data_augmentation_max_rotation": 0.0} if effect == "rotation" else {effect: {"strength": 0}}
    Augmenter(Augmentation.model_validate(every | off), 3, seed=0).apply(noise("RGB"), 0, 0)
    assert called == [name for name in EFFECTS if name != effect]


def test_the_configuration_has_a_group_for_every_effect():
    blocks = {name for name, field in Augmentation.model_fields.items() if isinstance(field.default, Effect)}
    assert EFFECTS.keys() == blocks | {"rotation"}
    assert blocks > COLOUR_ONLY


@pytest.mark.parametrize("effect", GREATEST)
def test_the_greatest_strength_is_the_limit_of_the_configuration(effect):
    assert Augmenter(only(effect), 3, seed=0).strengths == {effect: GREATEST[effect]}
    with pytest.raises(ValidationError, match="less than"):
        only(effect, part=1.02)


def test_an_effect_changes_its_share_of_the_images_independently_of_others(called):
    augmenter, of_rows = Augmenter(only("slant", "blur", share=0.25), 1, seed=0), Counter()
    for row in range(1000):
        called.clear()
        augmenter.apply(noise("L"), 0, row)
        of_rows[tuple(called)] += 1
    assert of_rows[()] == pytest.approx(562, abs=50)
    assert of_rows["slant",] == pytest.approx(188, abs=40)
    assert of_rows["blur",] == pytest.approx(188, abs=40)
    assert of_rows["slant", "blur"] == pytest.approx(62, abs=25)


@pytest.mark.parametrize("effect", ["blur", *sorted(STRONGER_LATER)])
@pytest.mark.parametrize(
    ("after", "times", "is_new", "is_stronger"),
    [(3, 2, False, False), (3, 3, False, True), (3, 3, True, False), (None, 99, False, False)],
)
@pytest.mark.parametrize("part", [0.4, 0.7])
def test_effects_on_the_shapes_of_letters_are_stronger_on_images_that_were_seen_often(
    monkeypatch, effect, after, times, is_new, is_stronger, part
):
    strengths = []

    def note(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
        strengths.append(strength)
        return image

    monkeypatch.setitem(EFFECTS, effect, note)
    settings = only(effect, part=part, share=part).model_copy(update={"stronger_after_passes": after})
    augmenter = Augmenter(settings, 1, seed=0)
    for row in range(1000):
        augmenter.apply(noise("L"), times, row, is_new)
    expected = min(1, 2 * part) if is_stronger and effect in STRONGER_LATER else part
    assert set(strengths) == {expected}
    assert len(strengths) == pytest.approx(1000 * expected, abs=60)


def test_a_share_of_the_images_is_augmented_and_the_others_are_unchanged(called):
    augmenter = Augmenter(only("slant", "blur").model_copy(update={"share": 0.9}), 1, seed=0)
    for row in range(1000):
        augmenter.apply(noise("L"), 0, row)
    assert called.count("slant") == called.count("blur") == pytest.approx(900, abs=30)


@pytest.mark.parametrize("update", [{"share": 0.0}, {"blur": BlurEffect(strength=1, share=0)}])
def test_effects_with_a_share_of_0_are_off(update):
    assert Augmenter(only("blur").model_copy(update=update), 1, seed=0).for_sample(0, 0) is None


def test_effects_that_are_off_do_not_change_the_random_numbers_of_others():
    """The effects of version 0.1.0, applied one after the other with one generator, give the same image."""
    picture, random = noise("RGB", low=100, high=156), np.random.default_rng([3, 2, 7])
    expected = picture
    strengths = {"rotation": 0.02, "padding": 0.08, "brightness": 0.1, "contrast": 0.3, "hue": 0.05, "saturation": 0.3}
    for effect, strength in strengths.items():
        expected = EFFECTS[effect](expected, strength, random)
    blocks = {effect: {"strength": strength} for effect, strength in strengths.items() if effect != "rotation"}
    settings = Augmentation.model_validate({**ALL_OFF, **blocks, "data_augmentation_max_rotation": 0.02})
    assert same(Augmenter(settings, 3, seed=3).apply(picture, 2, 7), expected)


def test_geometric_effects_in_a_row_interpolate_once(monkeypatch):
    applied = []

    def apply(geometry: Geometry, picture: Image.Image) -> Image.Image:
        applied.append(picture.size)
        return picture

    monkeypatch.setattr(Geometry, "apply", apply)
    Augmenter(only(*GEOMETRIC, "blur"), 1, seed=0).apply(noise("L"), 0, 0)
    assert applied == [(60, 20)]


# --- images that are not augmented are like the augmented ones


def written(height: int = 32) -> Image.Image:
    """Return grey paper with dark text and its border."""
    picture = draw("text", height)
    return Image.fromarray((np.asarray(picture) // 2 + 60).astype(np.uint8))


def standardised(picture: Image.Image) -> np.ndarray:
    array = np.asarray(picture).astype(float)
    return (array - array.mean()) / array.std()


@pytest.mark.parametrize("effect", [effect for effect in EFFECTS if effect not in COLOUR_ONLY])
def test_the_unchanged_image_lies_in_the_range_of_the_augmented_ones(effect):
    """Some images are changed much less than most, as the network sees them."""
    picture = written()
    # Padding, shifts and perspective draw several numbers, which are rarely small together.
    parts = {"padding": 0.15, "brightness": 0.3, "shift": 0.3, "perspective": 0.3}
    augmenter = Augmenter(only(effect, part=parts.get(effect, 1)), 1, seed=0)
    augmented = [augmenter.apply(picture, 0, row).resize(picture.size, Image.Resampling.BILINEAR) for row in range(200)]
    changes = [np.abs(standardised(each) - standardised(picture)).mean() for each in augmented]
    assert min(changes) <= 0.25 * np.median(changes) + 0.02


def test_noise_leaves_most_of_the_contrast_of_any_image():
    for factor in (1, 0.1):
        picture = written().point([round(factor * value) for value in range(256)])
        for seed in range(20):
            noisy = EFFECTS["noise"](picture, 1, np.random.default_rng(seed))
            assert np.asarray(noisy).std() < 1.2 * np.asarray(picture).std() + 1


@given(st.sampled_from(["L", "RGB"]), st.integers(1, 300), st.integers(1, 64), st.integers(0, 1000))
def test_an_augmented_image_has_its_width_and_so_as_many_frames_for_its_label(mode, width, height, seed):
    picture = np.asarray(noise(mode, width, height)).reshape(height, width, -1)
    augment = Augmenter(only(*EFFECTS, share=0.8), len(mode), seed).for_sample(0, 0)
    assert augment_and_fit(picture, (32, 256), augment).shape == (
        32,
        fitted_width((width, height), (32, 256)),
        len(mode),
    )


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
    if effect not in [*GEOMETRIC, "padding"]:
        assert found.size == size


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
