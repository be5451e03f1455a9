"""The recipe of synthetic lines as a tree of pydantic models: text, fonts, typesetting, ink, paper and defects.

The attribute docstrings are the help text of `raycrnn words --help` and of the reference on the documentation page.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from raycrnn import config, storage
from raycrnn.config import Group, Positive, one_as_several
from raycrnn.config.group import Integer, Location, Share
from raycrnn.config.schema import RegularExpression

MIN_CONTRAST = 50
"""The least difference between the grey levels of ink and paper."""


@dataclass(frozen=True)
class RangeLimits:
    """Marks a [minimum, maximum] whose values lie between two limits. A single number stands for both."""

    least: float
    most: float

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        checked = core_schema.no_info_after_validator_function(self._check, handler(source))
        return core_schema.no_info_before_validator_function(_one_as_range, checked)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "minimum": self.least, "maximum": self.most}

    def _check(self, limits: tuple[float, float]) -> tuple[float, float]:
        if not self.least <= limits[0] <= limits[1] <= self.most:
            raise ValueError(
                f"must be a number or [minimum, maximum], where {self.least:g} ≤ minimum ≤ maximum ≤ {self.most:g}"
            )
        return limits


def _one_as_range(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value, value)
    return tuple(value) if isinstance(value, list) else value


Several = Annotated[tuple[Location, ...], BeforeValidator(one_as_several)]
Patterns = Annotated[tuple[Annotated[RegularExpression, Field(min_length=1)], ...], BeforeValidator(one_as_several)]
Range = tuple[float, float]
IntegerRange = tuple[Integer, Integer]


class Text(Group):
    """What the lines say. If several sources are given, all are used equally often."""

    files: Several = ()
    """Text files in UTF-8: one path or a list of paths, relative to the folder of the recipe."""
    take: Literal["lines", "words"] = "lines"
    """What is taken from the files. lines: their lines; longer ones are cut between words. words: single words, as
    often as they occur."""
    language: str | None = None
    """Language whose words are drawn by their frequency, from the lists of the library wordfreq: en, de, ar and so on.
    The lists come from the web and are not filtered."""
    vocabulary: Positive = 20_000
    """Number of the most frequent words of the language that are used."""
    pattern: Patterns = ()
    """Regular expression that whole lines match, such as [A-Z]{2}-[0-9]{4}, or a list of them. * and + repeat at most
    until characters is reached."""
    words: Annotated[IntegerRange, RangeLimits(1, 100)] = (1, 6)
    """Number of words in a line, for language and for take=words."""
    characters: Annotated[IntegerRange, RangeLimits(1, 1000)] = (1, 60)
    """Number of characters in a line. Texts of other lengths are not used."""
    capitals: Share = 0.15
    """Fraction of the words of the language that begin with a capital."""
    upper: Share = 0.03
    """Fraction of the words of the language that consist of capitals."""
    punctuation: Share = 0.15
    """Fraction of the words of the language that a punctuation mark follows."""
    eval_share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Fraction of the possible texts that are reserved for evaluation. A hash of the text decides, so that no seed
    brings the text of an evaluation line into training."""

    @model_validator(mode="after")
    def _has_source(self) -> "Text":
        if not (self.files or self.language or self.pattern):
            raise ValueError("give text.files, text.language or text.pattern, such as text.language=en")
        return self


class Fonts(Group):
    """The typefaces."""

    files: Several = ()
    """Font files (.ttf, .otf, .ttc, .otc, .woff), or folders that are searched for them at any depth: one path or a
    list of paths, relative to the folder of the recipe. By default the font that Pillow includes, which has the letters
    of English only."""


class Line(Group):
    """How a line is set. Lengths are fractions of the image's height, unless said otherwise."""

    direction: Literal["horizontal", "vertical"] = "horizontal"
    """Direction of the line. horizontal: from left to right or right to left, as the script demands. vertical: upright
    characters below each other, as in Chinese and Japanese columns."""
    height: Annotated[IntegerRange, RangeLimits(8, 512)] = (32, 32)
    """Height of the image in pixels; its width if direction is vertical."""
    text_height: Annotated[Range, RangeLimits(0.1, 2)] = (0.7, 0.95)
    """Height of the text from the font's ascender to its descender. Text that does not fit is made smaller."""
    margin: Annotated[Range, RangeLimits(0, 1)] = (0.05, 0.4)
    """Empty space before the line and after it."""
    letter_spacing: Annotated[Range, RangeLimits(-0.1, 1)] = (0.0, 0.0)
    """Space between letters in addition to the font's, as a fraction of the font size. With any, ligatures are not
    used. Scripts whose letters are connected are never spaced."""
    word_spacing: Annotated[Range, RangeLimits(0.5, 4)] = (0.9, 1.4)
    """Factor of the width of spaces."""
    stretch: Annotated[Range, RangeLimits(0.5, 2)] = (0.92, 1.08)
    """Factor of the length of the whole line."""
    slant: Annotated[Range, RangeLimits(-45, 45)] = (-2.0, 4.0)
    """Angle in degrees by which strokes lean to the right. Not for vertical lines."""
    skew: Annotated[Range, RangeLimits(-20, 20)] = (-0.7, 0.7)
    """Angle in degrees by which the line descends. A long line is turned less: its ends differ by at most a quarter of
    the image's height."""
    bounce: Annotated[Range, RangeLimits(0, 0.5)] = (0.0, 0.0)
    """Greatest shift of single letters up or down, as a fraction of the font size. Connected letters do not move."""


class Warp(Group):
    """Waves along the line, as in captchas and on curved pages."""

    share: Share = 0.0
    """Fraction of the lines."""
    strength: Annotated[Range, RangeLimits(0, 0.25)] = (0.02, 0.06)
    """Height of the waves, as a fraction of the image's height."""


class Ink(Group):
    """The print."""

    grey: Annotated[Range, RangeLimits(0, 255)] = (0, 90)
    """Grey level from 0, black, to 255, white."""
    weight: Annotated[Range, RangeLimits(-1, 1)] = (-0.2, 0.4)
    """How far ink spreads: below 0 strokes are thinner, above 0 they are bolder."""
    fading: Annotated[Range, RangeLimits(0, 0.8)] = (0.0, 0.3)
    """How much of the ink is missing in patches."""
    inverted: Share = 0.0
    """Fraction of the lines that are light on dark."""


class Paper(Group):
    """The background."""

    grey: Annotated[Range, RangeLimits(0, 255)] = (190, 255)
    """Grey level from 0, black, to 255, white."""
    texture: Annotated[Range, RangeLimits(0, 0.3)] = (0.0, 0.04)
    """Strength of clouds and fibres, as a fraction of the range of grey levels."""
    shading: Annotated[Range, RangeLimits(0, 0.5)] = (0.0, 0.12)
    """How much darker one side of the image is than the other, as a fraction of the range of grey levels."""


class Neighbours(Group):
    """Parts of the lines above and below, as a crop from a page shows them."""

    share: Share = 0.25
    """Fraction of the lines; each has a line above, below or both."""
    gap: Annotated[Range, RangeLimits(-0.3, 1)] = (-0.12, 0.15)
    """Space between the descenders of one line and the ascenders of the next, as a fraction of the text's height. Below
    0 the lines can touch."""


class BleedThrough(Group):
    """Print of the other side of the page, mirrored and faint."""

    share: Share = 0.12
    """Fraction of the lines."""
    strength: Annotated[Range, RangeLimits(0, 0.6)] = (0.06, 0.2)
    """How dark it is, as a fraction of the ink's darkness."""


class Stains(Group):
    """Dark spots, such as foxing and water marks."""

    share: Share = 0.1
    """Fraction of the lines."""
    count: Annotated[IntegerRange, RangeLimits(1, 20)] = (1, 3)
    """Number of stains."""
    strength: Annotated[Range, RangeLimits(0, 0.8)] = (0.05, 0.25)
    """How much light they absorb."""


class Strokes(Group):
    """Lines across the text, as in captchas."""

    share: Share = 0.0
    """Fraction of the lines."""
    count: Annotated[IntegerRange, RangeLimits(1, 20)] = (1, 3)
    """Number of strokes."""
    width: Annotated[Range, RangeLimits(0, 0.2)] = (0.02, 0.05)
    """Width as a fraction of the image's height, at least one pixel."""


class Blur(Group):
    """Blur of the scan."""

    share: Share = 0.5
    """Fraction of the lines."""
    radius: Annotated[Range, RangeLimits(0, 0.2)] = (0.006, 0.022)
    """Standard deviation as a fraction of the image's height."""


class Noise(Group):
    """Noise of the scan."""

    share: Share = 0.6
    """Fraction of the lines."""
    strength: Annotated[Range, RangeLimits(0, 0.5)] = (0.01, 0.05)
    """Standard deviation as a fraction of the range of grey levels."""


class Recipe(Group):
    """How synthetic lines look and what they say."""

    text: Text
    fonts: Fonts = Fonts()
    line: Line = Line()
    warp: Warp = Warp()
    ink: Ink = Ink()
    paper: Paper = Paper()
    neighbours: Neighbours = Neighbours()
    bleed_through: BleedThrough = BleedThrough()
    stains: Stains = Stains()
    strokes: Strokes = Strokes()
    blur: Blur = Blur()
    noise: Noise = Noise()

    @model_validator(mode="after")
    def _is_legible(self) -> "Recipe":
        if self.paper.grey[0] - self.ink.grey[1] < MIN_CONTRAST:
            raise ValueError(
                f"ink.grey must end at least {MIN_CONTRAST} below the start of paper.grey, or lines cannot be read; "
                "light text on dark ground is made by ink.inverted"
            )
        return self


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `key=value` overrides.

    Paths in the file are relative to its folder, paths in overrides to the working directory; all are absolute in the
    result.

    Args:
        path: Path or URI of the JSON file; None for overrides alone.
        overrides: Texts `key=value` with dotted keys, such as text.language=en.

    Raises:
        UsageError: The file is missing or is not JSON, or a key is unknown or has a wrong type or value.
    """
    tree = config.read_json_object(path) if path else {}
    if path:
        _resolve(tree, str(path))
    given = config.with_overrides({}, overrides, Recipe)
    _resolve(given, os.path.join(os.getcwd(), "overrides"))
    for group, values in given.items():
        is_group = isinstance(tree.get(group), dict) and isinstance(values, dict)
        tree[group] = {**tree[group], **values} if is_group else values
    return parse(tree, str(path or "recipe"))


def parse(tree: dict[str, object], origin: str = "recipe") -> Recipe:
    """Validate a recipe given as a JSON object.

    Args:
        tree: The object.
        origin: The name of the recipe in error messages, such as its file.

    Raises:
        UsageError: The recipe is not valid; the message lists all problems.
    """
    return config.validated({"text": {}, **tree}, Recipe, origin, "recipe")


def _resolve(tree: dict, path: str) -> None:
    """Make the paths in a recipe absolute: they are relative to the folder of `path`."""
    for group in ("text", "fonts"):
        values = tree.get(group)
        if isinstance(values, dict) and "files" in values:
            files = one_as_several(values["files"])
            # Another type is refused later.
            if isinstance(files, tuple) and all(isinstance(file, str) for file in files):
                values["files"] = [storage.resolve_relative(path, file) for file in files]
