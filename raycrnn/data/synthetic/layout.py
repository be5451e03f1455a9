"""Typeset a line: where its glyphs stand, and how they are transformed to the image.

Glyphs are set at a font size of `SIZES`, with the start of the baseline at (0, 0), x to the right and y down. An affine
transformation, which stretches, slants and turns, leads from there to the image. Glyphs are set larger than they are
drawn, so that they need only be drawn once for many font sizes, and so that rounding their places is not visible.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raycrnn.data.bidi import RIGHT_TO_LEFT, TextDirection
from raycrnn.data.synthetic.fonts import SHAPED, Face, FontFile, Glyph, clusters, face
from raycrnn.data.synthetic.recipe import Line, Recipe

SIZES = (16, 22, 32, 45, 64, 90, 128, 180, 256, 360, 512)
"""Font sizes in pixels at which glyphs are set."""

OVERSAMPLING = 1.4
"""How much larger glyphs are set than drawn, at least."""

MAX_RISE = 0.25
"""Greatest difference in height between the ends of a line, as a fraction of the image's height."""

EDGE = 1
"""Pixels between the ink and the edges of the image, at least."""

MIN_LENGTH = 8
"""Pixels of the shortest image."""


class Box(NamedTuple):
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float


class Affine(NamedTuple):
    """The transformation from (x, y) to (a·x + b·y + c, d·x + e·y + f). NumPy would take ten times as long."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    @property
    def determinant(self) -> float:
        """The factor of areas."""
        return self.a * self.e - self.b * self.d

    def inverse(self) -> "Affine":
        """Return the transformation back."""
        a, b, c, d, e, f = self
        scale = 1 / self.determinant
        return Affine(e * scale, -b * scale, (b * f - c * e) * scale, -d * scale, a * scale, (c * d - a * f) * scale)

    def scaled(self, factor: float) -> "Affine":
        """Return the transformation whose results are multiplied by a factor."""
        return Affine(*(value * factor for value in self))

    def moved(self, dx: float, dy: float) -> "Affine":
        """Return the transformation whose results are moved."""
        return self._replace(c=self.c + dx, f=self.f + dy)

    def box(self, box: Box) -> Box:
        """Return the smallest rectangle that contains a transformed one."""
        a, b, c, d, e, f = self
        ax, bx = sorted((a * box.left, a * box.right)), sorted((b * box.top, b * box.bottom))
        dy, ey = sorted((d * box.left, d * box.right)), sorted((e * box.top, e * box.bottom))
        return Box(ax[0] + bx[0] + c, dy[0] + ey[0] + f, ax[1] + bx[1] + c, dy[1] + ey[1] + f)


@dataclass(frozen=True)
class Style:
    """The choices for the glyphs of a line."""

    font: FontFile
    size: int
    """Font size at which they are set, one of `SIZES`."""
    letter_spacing: float
    word_spacing: float
    bounce: float
    is_vertical: bool
    direction: TextDirection
    """Direction of text that has letters of scripts from right to left."""

    @property
    def face(self) -> Face:
        """The font at the size."""
        return face(self.font, self.size)


@dataclass(frozen=True)
class TypesetText:
    """The glyphs of a text."""

    glyphs: Sequence[tuple[Glyph, int, int]]
    """Each visible glyph with the x and y of its origin."""
    box: Box
    """The ink."""


def typeset(text: str, style: Style, random: random.Random) -> TypesetText:
    """Set the glyphs of a text that can be drawn with the font."""
    if SHAPED.search(text):
        direction: TextDirection = style.direction if RIGHT_TO_LEFT.search(text) else "ltr"
        placed = [(style.face.shaped(text, direction), 0, 0)]
    elif style.is_vertical:
        placed = _stack(text, style, random)
    else:
        placed = _row(text, style, random)
    glyphs = []
    left = top = math.inf
    right = bottom = -math.inf
    for each in placed:
        glyph, x, y = each
        if not glyph.is_blank:
            glyphs.append(each)
            left, right = min(left, x + glyph.left), max(right, x + glyph.right)
            top, bottom = min(top, y + glyph.top), max(bottom, y + glyph.bottom)
    return TypesetText(glyphs, Box(left, top, right, bottom))


def _row(text: str, style: Style, random: random.Random) -> list[tuple[Glyph, int, int]]:
    """Set letters one after the other."""
    font, size, spacing = style.face, style.size, style.letter_spacing * style.size
    space = style.word_spacing
    placed = []
    x, before = 0.0, ""
    for letters in clusters(text, with_ligatures=not spacing):
        glyph = font.glyph(letters)
        if before:
            x += font.kerning(before[-1] + letters[0]) * size
        placed.append((glyph, round(x), _shift(style, random) if style.bounce else 0))
        x += glyph.advance * space if letters == " " else glyph.advance + spacing
        before = letters
    return placed


def _stack(text: str, style: Style, random: random.Random) -> list[tuple[Glyph, int, int]]:
    """Set letters below each other, each in the middle of an em."""
    placed = []
    y = 0.0
    for letters in clusters(text, with_ligatures=False):
        glyph = style.face.glyph(letters, is_vertical=True)
        placed.append((glyph, round(-glyph.advance / 2) + _shift(style, random), round(y)))
        y += style.size * (style.word_spacing / 2 if letters == " " else 1 + style.letter_spacing)
    return placed


def _shift(style: Style, random: random.Random) -> int:
    return round(random.uniform(-style.bounce, style.bounce) * style.size)


@dataclass(frozen=True)
class Layout:
    """A line and its image."""

    text: str
    style: Style
    typeset: TypesetText
    transformation: Affine
    """From typeset coordinates to pixels of the image."""
    size: tuple[int, int]
    """Width and height of the image in pixels."""
    warp: float
    """Height of the waves in pixels."""

    @property
    def thickness(self) -> int:
        """The height of the image, or the width of a vertical one: the measure of defects."""
        return self.size[0 if self.style.is_vertical else 1]

    @property
    def pitch(self) -> float:
        """The distance between two lines without a gap, in typeset coordinates."""
        face = self.style.face
        return face.size if self.style.is_vertical else face.ascent + face.descent

    def least_pitch(self, side: int) -> float:
        """Return the least distance of a neighbour that shows no more than half of it, as a fraction of `pitch`.

        Args:
            side: -1 for the line before in the image, above or to the left, and 1 for the one after.
        """
        across = 0 if self.style.is_vertical else 1
        middle = self.transformation.box(_middle(self.typeset.box, self.style))[across]
        distance = middle if side < 0 else self.thickness - middle
        return distance / (math.sqrt(self.transformation.determinant) * self.pitch)


def lay_out(text: str, font: FontFile, direction: TextDirection, recipe: Recipe, random: random.Random) -> Layout:
    """Choose the size, the spacing and the transformation of a line, so that all of its ink lies in the image.

    Args:
        text: The text, which the font has.
        font: The font.
        direction: Direction of text that has letters of scripts from right to left.
        recipe: The ranges to choose from.
        random: The random generator.
    """
    line, is_vertical = recipe.line, recipe.line.direction == "vertical"
    height = random.randint(*line.height)
    wanted = random.uniform(*line.text_height) * height
    largest = face(font, SIZES[-1])
    # Pixels of an em in the image.
    em = wanted * (1 if is_vertical else largest.size / (largest.ascent + largest.descent))
    style = Style(
        font=font,
        size=next((size for size in SIZES if size >= em * OVERSAMPLING), SIZES[-1]),
        letter_spacing=random.uniform(*line.letter_spacing),
        word_spacing=random.uniform(*line.word_spacing),
        bounce=random.uniform(*line.bounce),
        is_vertical=is_vertical,
        direction=direction,
    )
    glyphs = typeset(text, style, random)
    warp = random.uniform(*recipe.warp.strength) * height if random.random() < recipe.warp.share else 0.0
    edge = EDGE + warp
    affine = _affine(line, glyphs.box, em / style.size, height, random)
    across = 0 if is_vertical else 1
    ink = affine.box(glyphs.box)
    extent = ink[across + 2] - ink[across]
    if extent > height - 2 * edge:
        affine = affine.scaled((height - 2 * edge) / extent)
        ink = affine.box(glyphs.box)
    before, after = (edge + random.uniform(*line.margin) * height for _ in range(2))
    length = max(MIN_LENGTH, math.ceil(before + ink[3 - across] - ink[1 - across] + after))
    along = before - ink[1 - across]
    # The middle of the line's height, not of its ink, stands near the middle of the image.
    middle = affine.box(_middle(glyphs.box, style))[across]
    play = abs(height - wanted) / 2
    shift = height / 2 - middle + random.uniform(-play, play)
    shift = min(max(shift, edge - ink[across]), height - edge - ink[across + 2])
    if is_vertical:
        return Layout(text, style, glyphs, affine.moved(shift, along), (height, length), warp)
    return Layout(text, style, glyphs, affine.moved(along, shift), (length, height), warp)


def _affine(line: Line, box: Box, scale: float, height: int, random: random.Random) -> Affine:
    """Return the transformation before text that does not fit is made smaller, and before it is moved."""
    stretch = random.uniform(*line.stretch) * scale
    slant, slope = (math.tan(math.radians(random.uniform(*limits))) for limits in (line.slant, line.skew))
    is_vertical = line.direction == "vertical"
    length = stretch * (box.bottom - box.top if is_vertical else box.right - box.left)
    steepest = MAX_RISE * height / max(length, 1.0)
    slope = min(max(slope, -steepest), steepest)
    if is_vertical:
        return Affine(scale, -slope * stretch, 0.0, 0.0, stretch, 0.0)
    return Affine(stretch, -slant * scale, 0.0, slope * stretch, scale, 0.0)


def _middle(box: Box, style: Style) -> Box:
    """Return the point in the middle of a line in typeset coordinates."""
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    if style.is_vertical:
        return Box(0.0, y, 0.0, y)
    y = (style.face.descent - style.face.ascent) / 2
    return Box(x, y, x, y)
