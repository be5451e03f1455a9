"""An endless supply of text lines with labels, each a pure function of a recipe, a seed and a number."""

import math
import random
from functools import cached_property
from typing import Literal

from PIL import Image, ImageOps

from raycrnn.data.bidi import TextDirection, direction_of
from raycrnn.data.synthetic import drawing
from raycrnn.data.synthetic.degradations import render
from raycrnn.data.synthetic.layout import LineLayout, lay_out, typeset
from raycrnn.data.synthetic.recipe import Line, Recipe, Warp
from raycrnn.data.synthetic.texts import TextSource, text_source
from raycrnn.errors import UsageError

Part = Literal["train", "eval"]
"""The set that a line is for. Their texts differ; see `Text.eval_share`."""

LABEL, LAYOUT, LOOK = range(3)
"""What random numbers are for: each has its own generator."""

ROWS_FOR_DIRECTION = 100
"""Number of texts whose letters decide on the direction of lines that mix two."""

TRIES = 10


class LineGenerator:
    """Generates lines by their numbers: 0, 1, 2 and so on without an end.

    The text, the font and the size of an image depend on the recipe, the seed, the part and the row alone; ink, paper
    and defects also on the variant. Results do not depend on the order of calls or on the process. Fonts and texts are
    read at the first call; only the recipe, the seed and the part are pickled.

    Args:
        recipe: The recipe.
        seed: Seed of all random choices, 0 to 2⁶⁴ − 1.
        part: The set that the lines are for.

    Every method raises `UsageError` if a font or a text of the recipe cannot be used.
    """

    def __init__(self, recipe: Recipe, seed: int, part: Part = "train"):
        self.recipe, self.seed, self.part = recipe, seed, part
        self._last: tuple[int, str] | None = None
        if part == "eval" and not recipe.text.eval_share:
            raise UsageError("text.eval_share is 0, so that no texts are reserved for evaluation")

    def __reduce__(self) -> tuple:
        return LineGenerator, (self.recipe, self.seed, self.part)

    @cached_property
    def source(self) -> TextSource:
        """The texts and fonts of the recipe."""
        return text_source(self.recipe)

    def label(self, row: int) -> str:
        """Return the text of a line, in logical order."""
        # It is often needed for the size, the image and the CSV, one after the other.
        last = self._last
        if last is None or last[0] != row:
            last = self._last = row, self.source.draw(self._random(LABEL, row), self.part == "eval")
        return last[1]

    def size(self, row: int) -> tuple[int, int]:
        """Return the width and the height in pixels of a line's images, without drawing one."""
        return self._layout(row).size

    def describe(self, row: int) -> tuple[str, tuple[int, int]]:
        """Return `label` and `size` of a line, which takes less time than both calls."""
        layout = self._layout(row)
        return layout.text, layout.size

    def draw(self, row: int, variant: int = 0) -> Image.Image:
        """Return an image of a line, mode L, whose size is `size(row)`."""
        layout = self._layout(row)
        random = self._random(LOOK, row, variant)
        recipe = self.recipe
        texts = [(layout.typeset, 0.0, 0.0)]
        if random.random() < recipe.neighbours.share:
            texts += self._neighbours(layout, random)
        ink = drawing.draw_ink(layout, texts)
        if layout.warp:
            ink = drawing.warp(ink, layout.warp, layout.thickness, random)
        if random.random() < recipe.strokes.share:
            drawing.add_strokes(ink, recipe.strokes, random)
        verso = None
        if random.random() < recipe.bleed_through.share:
            place = random.uniform(-0.6, 0.6)
            verso = drawing.draw_ink(layout, [self._other_text(layout, place, random)])
        return render(ink, verso, layout.thickness, recipe, random)

    def caption(self, row: int, height: int) -> Image.Image:
        """Return the label of a line in plain print, mode L, with a height in pixels."""
        plain = {
            "line": Line(height=(height, height), slant=(0, 0), skew=(0, 0), stretch=(1, 1), word_spacing=(1, 1)),
            "warp": Warp(share=0),
        }
        layout = self._layout(row, self.recipe.model_copy(update=plain))
        return ImageOps.invert(drawing.draw_ink(layout, [(layout.typeset, 0.0, 0.0)]))

    @cached_property
    def _direction(self) -> TextDirection:
        """Base direction of lines with letters from right to left."""
        return direction_of(map(self.label, range(ROWS_FOR_DIRECTION)))

    def _random(self, purpose: int, row: int, variant: int = 0) -> random.Random:
        is_eval = self.part == "eval"
        # Numbers of 64 bits side by side: no two combinations have the same key.
        return random.Random(((self.seed << 64 | row) << 64 | variant) << 3 | purpose << 1 | is_eval)

    def _layout(self, row: int, recipe: Recipe | None = None) -> LineLayout:
        text = self.label(row)
        random = self._random(LAYOUT, row)
        fonts = self.source.fonts
        font = random.choice(fonts.of(fonts.mask(text)))
        return lay_out(text, font, self._direction, recipe or self.recipe, random)

    def _neighbours(self, layout: LineLayout, random: random.Random) -> list[drawing.Placed]:
        """Return the lines before and after a line, or one of them."""
        sides = random.choice([(-1,), (1,), (-1, 1)])
        pitch = 1 + random.uniform(*self.recipe.neighbours.gap)
        return [self._other_text(layout, side * max(pitch, layout.least_pitch(side)), random) for side in sides]

    def _other_text(self, layout: LineLayout, place: float, random: random.Random) -> drawing.Placed:
        """Return another text in the same style, as long as a line.

        Args:
            layout: Layout of the line.
            place: How far it is below the line, or right of it if lines are vertical, in line heights.
            random: The random generator.
        """
        text, fonts = layout.text, self.source.fonts
        for _ in range(TRIES):
            other = self.source.draw(random, self.part == "eval")
            if layout.style.font in fonts.of(fonts.mask(other)):
                text = other
                break
        box = layout.typeset.box
        repeats = 1 + math.ceil(len(layout.text) / len(text))
        other_line = typeset(" ".join([text] * repeats), layout.style, random)
        before = random.uniform(0, 1 / repeats)
        if layout.style.is_vertical:
            return other_line, place * layout.pitch, box[1] - before * (other_line.box[3] - other_line.box[1])
        dx = box[0] - before * (other_line.box[2] - other_line.box[0])
        return other_line, dx, place * layout.pitch
