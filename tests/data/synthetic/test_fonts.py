"""Fonts: which files are used, which characters they have, and that no box is drawn for a missing one."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont, newTable
from PIL import ImageFont

from raycrnn.data.synthetic import fonts
from raycrnn.data.synthetic.fonts import FontSet, clusters, face
from raycrnn.errors import UsageError


def make_font(path: Path, letters: str, blank: str = "", unmapped: str = "") -> Path:
    """Write a font whose letters are thin vertical bars, and whose glyph for a missing character is a large box."""

    def rectangle(width: int) -> object:
        pen = TTGlyphPen(None)
        for x, y, draw in ((100, 0, pen.moveTo), (100, 700, pen.lineTo), (100 + width, 700, pen.lineTo)):
            draw((x, y))
        pen.lineTo((100 + width, 0))
        pen.closePath()
        return pen.glyph()

    names = {letter: f"u{ord(letter):04X}" for letter in (" ", *letters, *blank)}
    glyphs = {name: rectangle(60) if letter in letters else TTGlyphPen(None).glyph() for letter, name in names.items()}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *glyphs])
    mapped = {ord(letter): name for letter, name in names.items()} | {ord(letter): ".notdef" for letter in unmapped}
    builder.setupCharacterMap(mapped)
    builder.setupGlyf({".notdef": rectangle(800), **glyphs})
    builder.setupHorizontalMetrics({name: (1000 if name == ".notdef" else 300, 100) for name in [".notdef", *glyphs]})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    builder.setupPost()
    builder.save(path)
    return path


def test_characters_are_those_with_a_visible_glyph(tmp_path):
    font = FontSet([str(make_font(tmp_path / "a.ttf", "ab", blank="c", unmapped="d"))]).fonts[0]
    assert [letter for letter in "ab cde" if font.has(letter)] == ["a", "b", " "]


def test_folders_are_searched_at_any_depth_in_the_order_of_names(tmp_path):
    (tmp_path / "z" / "deep").mkdir(parents=True)
    make_font(tmp_path / "z" / "deep" / "x.ttf", "a")
    make_font(tmp_path / "b.TTF", "b")
    (tmp_path / "notes.txt").write_text("not a font")
    found = FontSet([str(tmp_path)])
    assert [Path(font.path).name for font in found.fonts] == ["b.TTF", "x.ttf"]
    assert (found.mask("a"), found.mask("b"), found.mask("ab")) == (0b10, 0b01, 0)


def test_all_fonts_of_a_collection_are_used(tmp_path):
    collection = TTCollection()
    collection.fonts = [TTFont(make_font(tmp_path / f"{letter}.ttf", letter)) for letter in "ab"]
    collection.save(tmp_path / "both.ttc")
    found = FontSet([str(tmp_path / "both.ttc")])
    assert [font.index for font in found.fonts] == [0, 1]
    assert [font.has("b") for font in found.fonts] == [False, True]


def test_a_web_font_is_drawn_like_the_font_that_it_compresses(tmp_path):
    font = TTFont(make_font(tmp_path / "plain.ttf", "ab"))
    font.flavor = "woff"
    font.save(tmp_path / "web.woff")
    plain, web = FontSet([str(tmp_path)]).fonts
    assert (tmp_path / "web.woff").read_bytes().startswith(b"wOFF")
    assert web.characters == plain.characters
    np.testing.assert_array_equal(face(web, 40).glyph("b").pixels, face(plain, 40).glyph("b").pixels)


def test_fonts_that_cannot_be_used_are_skipped_with_a_reason(tmp_path, capsys):
    make_font(tmp_path / "good.ttf", "a")
    (tmp_path / "broken.ttf").write_bytes((tmp_path / "good.ttf").read_bytes()[:300])
    (tmp_path / "text.otf").write_text("no font")
    for name, table in (("colour.ttf", "COLR"), ("bitmap.ttf", None)):
        font = TTFont(tmp_path / "good.ttf")
        if table:
            font[table] = newTable(table)
            font[table].version, font[table].ColorLayers = 0, {}
        else:
            del font["glyf"], font["loca"]
        font.save(tmp_path / name)
    found = FontSet([str(tmp_path)])
    assert [Path(font.path).name for font in found.fonts] == ["good.ttf"]
    reasons = {Path(path).name: reason for path, reason in found.skipped}
    assert reasons.keys() == {"broken.ttf", "text.otf", "colour.ttf", "bitmap.ttf"}
    assert "coloured" in reasons["colour.ttf"]
    assert "bitmaps only" in reasons["bitmap.ttf"]
    assert "broken.ttf: skipped: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing", "empty", "s3://bucket/fonts"])
def test_paths_without_fonts_are_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no such file or folder|no font that can be used|on a disk"):
        FontSet([name if "://" in name else str(tmp_path / name)])


def test_without_paths_pillows_font_is_used():
    font = FontSet([]).fonts[0]
    assert all(map(font.has, "Az09?"))
    assert not font.has("Ж")
    width = ImageFont.load_default(32).getlength("A")
    assert face(font, 32).glyph("A").advance == pytest.approx(width, abs=1)


@pytest.mark.parametrize(
    ("text", "with_ligatures", "expected"),
    [
        ("office", True, ["o", "ffi", "c", "e"]),
        ("office", False, list("office")),
        ("ſtéfl", True, ["ſt", "é", "fl"]),
        ("q\u0303u\u0304\u0301", True, ["q\u0303", "u\u0304\u0301"]),
    ],
)
def test_letters_that_are_drawn_together(text, with_ligatures, expected):
    assert clusters(unicodedata.normalize("NFC", text), with_ligatures) == [
        unicodedata.normalize("NFC", letters) for letters in expected
    ]


def test_kerning_brings_letters_of_pillows_font_together():
    font = FontSet([]).fonts[0]
    drawn = ImageFont.truetype(fonts.io.BytesIO(fonts._pillows_bytes()), 512)
    for pair in ("AV", "To", "nn"):
        expected = (drawn.getlength(pair) - drawn.getlength(pair[0]) - drawn.getlength(pair[1])) / 512
        assert face(font, 32).kerning(pair) / 32 == pytest.approx(expected, abs=0.02)
    assert face(font, 32).kerning("AV") < -1


def test_glyphs_are_the_pixels_that_pillow_draws(tmp_path):
    font = FontSet([str(make_font(tmp_path / "a.ttf", "a"))]).fonts[0]
    glyph = face(font, 100).glyph("a")
    assert (glyph.left, glyph.top, glyph.right, glyph.bottom, glyph.advance) == (0, -70, 30, 0, 30)
    # The bar is 60 units wide, 700 high and 100 right of the origin.
    assert np.array_equal(np.unique(np.nonzero(glyph.pixels)[1]), np.arange(10, 16))
    assert np.all(glyph.pixels[:, 10:16] == 255)
