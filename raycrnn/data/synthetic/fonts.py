"""Fonts: which files can be used, which characters each has, and the glyphs of one at a size.

fontTools reads the character maps, because Pillow has no function for them; FreeType, through Pillow, draws.
"""

import io
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTCollection, TTFont
from PIL import Image, ImageDraw, ImageFont, features

from raycrnn import storage
from raycrnn.data.bidi import RIGHT_TO_LEFT, TextDirection
from raycrnn.data.characters import JOINERS
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)

SUFFIXES = (".ttf", ".otf", ".ttc", ".otc", ".woff")

PILLOWS_FONT = "Pillow's own font"

OUTLINES = {"glyf", "CFF ", "CFF2"}
"""Tables of scalable glyphs."""

COLOURS = {"COLR", "CBDT", "sbix", "SVG "}
"""Tables of colour glyphs."""

SHAPED = re.compile(
    RIGHT_TO_LEFT.pattern[:-1] + r"\u0900-\u109f\u1700-\u18af\u1900-\u1cff\u200c\u200d\ua800-\uaaff\uabc0-\uabff"
    r"\U00011000-\U00011fff]"
)
"""Matches the blocks of scripts whose letters change their form or place beside others: those from right to left, and
those of South and South-East Asia and Mongolia."""

LIGATURES = re.compile(r"ffi|ffl|f[filt]|ſ[fiſlt]|ct|st|[\s\S]")
"""Matches the next letter, or letters for which many fonts have a ligature."""

BLANK_SIZE = 32
"""Font size at which a glyph is drawn to see whether it is blank."""

KERNING_SIZE = 64
"""Font size at which kerning is measured: it is the same fraction of an em at all sizes."""

MAX_FACES = 2048
"""Greatest number of fonts at a size that a process keeps, with their glyphs. A hundred fonts whose lines have three
heights need about 500."""

MAX_GLYPHS = 1000
"""Greatest number of glyphs that are kept of each: a Chinese font has many thousands."""

MAX_PAIRS = 10_000
"""Greatest number of pairs of letters whose kerning is kept of each font."""


@cache
def has_raqm() -> bool:
    """Return whether Pillow can shape text: it needs the library libraqm for that."""
    return bool(features.check("raqm"))


def needs_shaping(text: str) -> bool:
    """Return whether a text would be drawn wrongly letter by letter."""
    return SHAPED.search(text) is not None or any(map(unicodedata.combining, text))


def clusters(text: str, with_ligatures: bool) -> list[str]:
    """Divide a text into what is drawn as one: a letter with its marks, or letters that may have a ligature."""
    letters = LIGATURES.findall(text) if with_ligatures else list(text)
    if text.isascii():
        return letters
    joined: list[str] = []
    for letter in letters:
        if joined and unicodedata.combining(letter[0]):
            joined[-1] += letter
        else:
            joined.append(letter)
    return joined


@dataclass(frozen=True)
class FontFile:
    """A font that can be used."""

    path: str
    """Path of the file, or `PILLOWS_FONT`."""
    index: int
    """Number of the font in the file."""
    characters: frozenset[int] = field(repr=False, compare=False)
    """Code points that have a glyph."""

    def has(self, character: str) -> bool:
        """Return whether the font has a visible glyph for a character, or a glyph at all for a space."""
        if character in JOINERS:
            # Shaping removes them.
            return True
        if ord(character) not in self.characters:
            return False
        return character == " " or not face(self, BLANK_SIZE).glyph(character).is_blank


class FontSet:
    """The fonts of a recipe.

    Args:
        paths: Absolute paths of font files and folders; none: Pillow's own font.

    Raises:
        UsageError: A path does not exist, or no font can be used.
    """

    def __init__(self, paths: Sequence[str]):
        self.fonts: list[FontFile] = []
        self.skipped: list[tuple[str, str]] = []
        """The path of each font that cannot be used, and the reason."""
        if not paths:
            self.fonts.append(_read_font(TTFont(io.BytesIO(_pillows_bytes())), PILLOWS_FONT, 0))
        for path in _font_files(paths):
            self._add(path)
        if not self.fonts:
            first = f": {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise UsageError(
                f"{', '.join(paths)}: no font that can be used{first}; fonts.files names folders with "
                f"{', '.join(SUFFIXES)} files"
            )
        for path, reason in self.skipped:
            logger.warning(f"{path}: skipped: {reason}")
        self._masks: dict[str, int] = {}

    def _add(self, path: str) -> None:
        """Add the fonts of a file, or note why they cannot be used."""
        try:
            with open(path, "rb") as file:
                is_collection = file.read(4) == b"ttcf"
            opened = TTCollection(path, lazy=True).fonts if is_collection else [TTFont(path, lazy=True)]
            for index, font in enumerate(opened):
                found = _read_font(font, path, index)
                face(found, BLANK_SIZE)
                self.fonts.append(found)
        except _Unusable as error:
            self.skipped.append((path, str(error)))
        except Exception as error:  # A corrupt file can make fontTools and FreeType raise any exception.
            self.skipped.append((path, f"cannot be read as a font: {error or type(error).__name__}"))

    def mask(self, text: str) -> int:
        """Return which fonts have all characters of a text, as the bits of an integer."""
        result = (1 << len(self.fonts)) - 1
        for character in text:
            mask = self._masks.get(character)
            if mask is None:
                mask = sum(1 << number for number, font in enumerate(self.fonts) if font.has(character))
                self._masks[character] = mask
            result &= mask
        return result

    def of(self, mask: int) -> list[FontFile]:
        """Return the fonts of the bits of an integer."""
        return [font for number, font in enumerate(self.fonts) if mask >> number & 1]


class _Unusable(Exception):
    """The reason why a font cannot be used."""


def _font_files(paths: Sequence[str]) -> Iterator[str]:
    """Yield the font files at some paths, those of a folder in the order of their names."""
    for path in paths:
        if storage.is_uri(path):
            raise UsageError(f"{path}: fonts must be on a disk: copy them, and name the folder in fonts.files")
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or folder (fonts.files)")
        if not os.path.isdir(path):
            yield path
            continue
        found = [file for file in Path(path).rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
        yield from map(str, sorted(found))


def _read_font(font: TTFont, path: str, index: int) -> FontFile:
    """Read the character map of a font. Raises `_Unusable`, and other errors if the file is damaged."""
    # Its remarks on tables that no one needs here would reach the terminal.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    tables = set(font.keys())
    if tables & COLOURS:
        raise _Unusable("a font with coloured glyphs")
    if not tables & OUTLINES:
        raise _Unusable("a font that has bitmaps only")
    characters = font.getBestCmap()
    if not characters:
        raise _Unusable("it has no map from Unicode characters to glyphs")
    return FontFile(path, index, frozenset(code for code, glyph in characters.items() if glyph != ".notdef"))


@lru_cache(maxsize=1)
def _pillows_bytes() -> bytes:
    font = ImageFont.load_default(BLANK_SIZE)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UsageError("this Pillow has no FreeType and cannot draw text; install Pillow from PyPI")
    return bytes(font.font_bytes)


@lru_cache(maxsize=8)
def font_set(paths: tuple[str, ...]) -> FontSet:
    """Return the fonts at some paths; a process reads them once. Raises `UsageError`."""
    return FontSet(paths)


class Glyph:
    """A letter, or a text that is shaped as a whole, as pixels.

    Coordinates are pixels to the right of and below the start of the baseline. The width is that of the ink and the
    advance together.
    """

    def __init__(self, font: ImageFont.FreeTypeFont, text: str, direction: str | None, features: list[str] | None):
        self._drawn = font, text, direction, features
        box = font.getbbox(text, direction=direction, features=features, anchor="ls")
        self.left, self.top, self.right, self.bottom = map(int, box)
        self.advance = font.getlength(text, direction=direction, features=features)
        self.is_blank = self.right <= self.left or self.bottom <= self.top
        """Whether nothing of it can be seen."""

    @cached_property
    def pixels(self) -> np.ndarray:
        """Ink, uint8 [bottom − top, right − left], from 0 for none to 255."""
        font, text, direction, features = self._drawn
        image = Image.new("L", (self.right - self.left, self.bottom - self.top))
        pen, start = ImageDraw.Draw(image), (-self.left, -self.top)
        pen.text(start, text, 255, font, anchor="ls", direction=direction, features=features)
        return np.asarray(image)


class Face:
    """A font at a size, which keeps the glyphs that it has drawn.

    Args:
        font: The font.
        size: Pixels of an em.
    """

    def __init__(self, font: FontFile, size: int):
        engine = ImageFont.Layout.RAQM if has_raqm() else ImageFont.Layout.BASIC
        source = io.BytesIO(_pillows_bytes()) if font.path == PILLOWS_FONT else font.path
        self._file = font
        self._font = ImageFont.truetype(source, size, font.index, layout_engine=engine)
        self.size = size
        self.ascent, self.descent = self._font.getmetrics()
        self._glyphs: dict[str, Glyph] = {}
        self._vertical_glyphs: dict[str, Glyph] = {}
        self._kerning = _kerning_of(font)

    def glyph(self, letters: str) -> Glyph:
        """Return the glyph of a letter or a ligature."""
        glyph = self._glyphs.get(letters)
        if glyph is None:
            glyph = _keep(self._glyphs, letters, Glyph(self._font, letters, None, None))
        return glyph

    def vertical_glyph(self, letters: str) -> Glyph:
        """Return the glyph of a letter in the form that the font has for vertical lines."""
        glyph = self._vertical_glyphs.get(letters)
        if glyph is None:
            features = ["vert"] if has_raqm() else None
            glyph = _keep(self._vertical_glyphs, letters, Glyph(self._font, letters, None, features))
        return glyph

    def shaped(self, text: str, direction: TextDirection) -> Glyph:
        """Return a whole text, shaped by libraqm.

        Args:
            text: The text in logical order.
            direction: Base direction of the bidirectional algorithm.
        """
        return Glyph(self._font, text, direction, None)

    def kerning(self, pair: str) -> float:
        """Return by how many pixels the font moves the second of two letters."""
        kerning = self._kerning.get(pair)
        if kerning is None:
            if len(self._kerning) >= MAX_PAIRS:
                self._kerning.clear()
            kerning = self._kerning[pair] = face(self._file, KERNING_SIZE).measure_kerning(pair)
        return kerning * self.size

    def measure_kerning(self, pair: str) -> float:
        """Return the kerning of two letters in ems, as measured at this size."""
        # Without ligatures, whose width is another one.
        features = ["-liga", "-clig", "-dlig"] if has_raqm() else None
        together = self._font.getlength(pair, features=features)
        return (together - self.glyph(pair[0]).advance - self.glyph(pair[1]).advance) / self.size


def _keep(glyphs: dict[str, Glyph], letters: str, glyph: Glyph) -> Glyph:
    if len(glyphs) >= MAX_GLYPHS:
        glyphs.clear()
    glyphs[letters] = glyph
    return glyph


@lru_cache(maxsize=MAX_FACES)
def _kerning_of(font: FontFile) -> dict[str, float]:
    """Return the kerning of pairs of letters in ems, which all sizes of a font share and fill."""
    return {}


@lru_cache(maxsize=MAX_FACES)
def face(font: FontFile, size: int) -> Face:
    """Return a font at a size in pixels of an em; a process keeps the last `MAX_FACES` of them."""
    return Face(font, size)
