"""Lines: determinism, sizes, the place of the ink, glyphs, and right-to-left text."""

import dataclasses
import io
import math
import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont, features

from raycrnn.data.synthetic import drawing, recipe
from raycrnn.data.synthetic.fonts import FontSet
from raycrnn.data.synthetic.generator import LineGenerator
from raycrnn.data.synthetic.layout import Affine, Box
from raycrnn.errors import UsageError
from tests.data.synthetic.test_fonts import make_font

PLAIN = {
    "line": {"slant": 0, "skew": 0, "stretch": 1, "margin": 0.2, "word_spacing": 1},
    "ink": {"grey": 0, "weight": 0, "fading": 0},
    "paper": {"grey": 255, "texture": 0, "shading": 0},
    **{name: {"share": 0} for name in ("neighbours", "bleed_through", "stains", "blur", "noise")},
}
"""Black on white without any defect."""


def generator(seed: int = 0, pattern: str = "[A-Za-z0-9 ]{1,12}", **groups: dict) -> LineGenerator:
    return LineGenerator(recipe.parse({"text": {"pattern": pattern}, **groups}), seed)


def plain(seed: int = 0, pattern: str = "[A-Za-z0-9]{1,12}", fonts: object = (), **line: object) -> LineGenerator:
    groups = PLAIN | {"line": {**PLAIN["line"], **line}, "fonts": {"files": fonts}}
    return generator(seed, pattern, **groups)


def ink(image: Image.Image) -> np.ndarray:
    return 255 - np.asarray(image).astype(int)


def limits(least: float, most: float) -> st.SearchStrategy:
    return st.tuples(st.floats(least, most), st.floats(least, most)).map(sorted)


shares = st.fixed_dictionaries({"share": st.floats(0, 1)})
heights = st.tuples(st.integers(8, 96), st.integers(8, 96)).map(sorted)
recipes = st.fixed_dictionaries(
    {
        "line": st.fixed_dictionaries(
            {
                "direction": st.sampled_from(["horizontal", "vertical"]),
                "height": heights,
                "text_height": limits(0.11, 2),
                "margin": limits(0, 1),
                "letter_spacing": limits(-0.1, 1),
                "word_spacing": limits(0.5, 4),
                "stretch": limits(0.5, 2),
                "slant": limits(-45, 45),
                "skew": limits(-20, 20),
                "bounce": limits(0, 0.5),
            }
        ),
        "warp": st.fixed_dictionaries({"share": st.floats(0, 1), "strength": limits(0, 0.25)}),
        **{name: shares for name in ("neighbours", "bleed_through", "stains", "strokes", "blur", "noise")},
    }
)


@given(recipes, st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 2**40))
def test_every_variant_has_the_size_that_was_announced(groups, seed, row, variant):
    made = generator(seed, **groups)
    width, height = made.size(row)
    along, across = (height, width) if groups["line"]["direction"] == "vertical" else (width, height)
    assert along >= 8 and groups["line"]["height"][0] <= across <= groups["line"]["height"][1]
    for each in (0, variant):
        image = made.draw(row, each)
        assert (image.mode, image.size) == ("L", (width, height))


@given(recipes, st.integers(0, 99))
@settings(phases=[Phase.explicit, Phase.generate])
def test_the_ink_and_its_waves_stay_inside_the_image(groups, row):
    """With room on all sides, no ink lies outside the image or where a wave would carry it out."""
    made = generator(1, **groups)
    layout = made._layout(row)
    room, wave = 60, math.floor(layout.warp)
    roomy = dataclasses.replace(
        layout,
        transformation=layout.transformation.moved(room, room),
        size=(layout.size[0] + 2 * room, layout.size[1] + 2 * room),
    )
    whole = drawing.draw_ink(roomy, [(layout.typeset, 0.0, 0.0)]).copy()
    inside = slice(room + wave, -room - wave)
    assert whole.max() > 0
    whole[inside, inside] = 0
    assert whole.max() == 0


def test_lines_do_not_depend_on_the_order_of_calls_or_on_the_process(tmp_path):
    groups = {name: {"share": 0.5} for name in ("neighbours", "bleed_through", "stains", "warp", "strokes")}
    made = generator(7, **groups)
    forward = [(made.label(row), made.draw(row, row % 3).tobytes()) for row in range(20)]
    again = pickle.loads(pickle.dumps(made))
    backward = [(again.label(row), again.draw(row, row % 3).tobytes()) for row in reversed(range(20))]
    assert forward == backward[::-1]
    (tmp_path / "generator").write_bytes(pickle.dumps(made))
    code = (
        "import pickle, sys, zlib; made = pickle.load(open(sys.argv[1], 'rb'));"
        "print([(made.label(row), zlib.crc32(made.draw(row, row % 3).tobytes())) for row in range(20)])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "generator")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"})
    assert done.stdout.strip() == str([(label, zlib.crc32(pixels)) for label, pixels in forward])


def test_variants_look_different_and_rows_and_seeds_have_different_texts():
    made = generator(3)
    looks = {made.draw(0, variant).tobytes() for variant in range(10)}
    assert len(looks) == 10
    labels = [made.label(row) for row in range(200)] + [generator(4).label(row) for row in range(200)]
    assert len(set(labels)) > 380


def test_a_pickle_contains_neither_fonts_nor_texts():
    made = generator(3)
    made.draw(0)
    assert len(pickle.dumps(made)) < 5000


def test_letters_are_those_that_pillow_draws():
    """A line looks like the same text drawn by Pillow at once, in the same size."""
    made = plain(5, pattern="[A-Z][a-z]{6}", height=60, text_height=0.8)
    for row in range(5):
        drawn = ink(made.draw(row))
        size = 0.8 * 60 / sum(ImageFont.load_default(512).getmetrics()) * 512
        font = ImageFont.truetype(io.BytesIO(ImageFont.load_default(20).font_bytes), size)
        left, top, right, bottom = font.getbbox(made.label(row))
        reference = Image.new("L", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(reference).text((-left, -top), made.label(row), 255, font)
        rows, columns = (np.flatnonzero(drawn.max(axis=axis) > 60) for axis in (1, 0))
        cut = Image.fromarray(drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8))
        reference = reference.crop(reference.point(lambda value: 255 * (value > 60)).getbbox())
        assert cut.size == pytest.approx(reference.size, abs=3)
        correlation = np.corrcoef(np.asarray(cut.resize(reference.size)).ravel(), np.asarray(reference, float).ravel())[
            0, 1
        ]
        assert correlation > 0.75


def test_no_box_is_drawn_for_a_missing_character(tmp_path):
    """The fonts have bars for letters and a large box for missing ones."""
    for letters in ("abc", "cde"):
        make_font(tmp_path / f"{letters}.ttf", letters)
    made = plain(0, "[a-f]{2,6}", str(tmp_path), height=50)
    for row in range(40):
        columns = ink(made.draw(row)).sum(axis=0) > 255
        runs = np.diff(np.flatnonzero(np.diff(np.pad(columns, 1).astype(int))))[::2]
        assert len(runs) == len(made.label(row))
        # An em is about 40 pixels; a bar is 0.06 em wide and the box is 0.8 em wide.
        assert runs.max() <= 6


def test_letter_spacing_and_stretch_widen_a_line():
    widths = [plain(2, "[a-z]{8}", **line).size(0)[0] for line in ({}, {"letter_spacing": 0.2}, {"stretch": 1.5})]
    margins = 2 * 0.2 * 32 + 2
    assert widths[1] > widths[0] + 8 * 0.15 * 32 * 0.7 * 0.8
    assert (widths[2] - margins) / (widths[0] - margins) == pytest.approx(1.5, abs=0.03)


def test_slant_and_skew_lean_and_lower_the_ends(tmp_path):
    bars = str(make_font(tmp_path / "a.ttf", "a"))
    leaning = ink(plain(0, "a{5}", bars, height=100, slant=20).draw(0))
    rows = np.flatnonzero(leaning.max(axis=1) > 100)
    first_columns = [np.flatnonzero(leaning[row] > 100)[0] for row in (rows[3], rows[-4])]
    lean = np.degrees(np.arctan((first_columns[0] - first_columns[1]) / (rows[-4] - rows[3])))
    assert lean == pytest.approx(20, abs=2)
    sloping = ink(plain(0, "a{5}", bars, height=100, text_height=0.5, skew=5).draw(0))
    columns = np.flatnonzero(sloping.max(axis=0) > 100)
    tops = [np.flatnonzero(sloping[:, column] > 100)[0] for column in (columns[1], columns[-2])]
    assert np.degrees(np.arctan((tops[1] - tops[0]) / (columns[-2] - columns[1]))) == pytest.approx(5, abs=1.5)


def test_vertical_lines_stack_their_letters(tmp_path):
    bars = str(make_font(tmp_path / "a.ttf", "ab"))
    made = plain(0, "[ab]{6}", bars, height=40, direction="vertical")
    image = made.draw(0)
    assert image.width == 40 and image.height > 2 * image.width
    lines = ink(image).sum(axis=1) > 255
    assert np.count_nonzero(np.diff(np.pad(lines, 1).astype(int)) == 1) == 6


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow has no libraqm")
def test_text_from_right_to_left_is_reversed(tmp_path):
    make_font(tmp_path / "a.ttf", "אab")
    made = plain(0, "א{3} [ab]{2}", str(tmp_path), height=60, word_spacing=1)
    columns = ink(made.draw(0)).max(axis=0) > 100
    starts = np.flatnonzero(np.diff(np.pad(columns, 1).astype(int)) == 1)
    gaps = np.diff(starts)
    # Three Hebrew letters on the right, then a space, then two Latin letters on the left.
    assert len(starts) == 5
    assert np.argmax(gaps) == 1


def test_neighbours_show_no_more_than_half_of_a_line(tmp_path):
    bars = str(make_font(tmp_path / "a.ttf", "a"))
    groups = PLAIN | {"neighbours": {"share": 1, "gap": [-0.3, 0]}, "fonts": {"files": bars}}
    for height in (0.2, 0.5, 1.0):
        groups["line"] = PLAIN["line"] | {"text_height": height, "height": 100}
        made = generator(0, "a{4}", **groups)
        shown = 0
        for row in range(10):
            alone = made._layout(row)
            own = drawing.draw_ink(alone, [(alone.typeset, 0.0, 0.0)])
            added = np.flatnonzero((ink(made.draw(row)) - own).max(axis=1) > 100)
            above, below = added[added < 50], added[added >= 50]
            assert max(len(above), len(below)) <= 0.62 * height * 100
            shown += len(added)
        assert shown > 0


def test_the_eval_part_needs_reserved_texts():
    with pytest.raises(UsageError, match="eval_share is 0"):
        LineGenerator(recipe.parse({"text": {"pattern": "a", "eval_share": 0}}), 0, "eval")


@given(st.tuples(*[st.floats(-3, 3)] * 6).filter(lambda each: abs(each[0] * each[4] - each[1] * each[3]) > 0.1))
def test_affine_transformations_agree_with_numpy(values):
    affine, box = Affine(*values), Box(-1.0, -2.0, 3.0, 0.5)
    matrix = np.vstack([np.reshape(values, (2, 3)), [0, 0, 1]])
    assert np.allclose(np.reshape(affine.inverse(), (2, 3)), np.linalg.inv(matrix)[:2], atol=1e-6)
    corners = np.array([(x, y, 1) for x in (box.left, box.right) for y in (box.top, box.bottom)]) @ matrix.T
    expected = (*corners.min(axis=0)[:2], *corners.max(axis=0)[:2])
    assert np.allclose(affine.box(box), expected)


def test_fonts_are_drawn_equally_often(tmp_path):
    for number in range(3):
        make_font(tmp_path / f"{number}.ttf", "ab")
    made = plain(0, "[ab]{5}", str(tmp_path))
    chosen = [made._layout(row).style.font.path for row in range(150)]
    assert {chosen.count(font.path) > 30 for font in FontSet([str(tmp_path)]).fonts} == {True}
