"""Texts that match a regular expression."""

import itertools
import random
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import rstr

from raycrnn.errors import UsageError

TEXTS_TO_TRY = 20


def pattern_source(pattern: str, most: int) -> Callable[[random.Random], str]:
    """Return a function that draws texts that match a pattern as a whole, or that are longer than allowed.

    Args:
        pattern: A valid regular expression.
        most: Greatest length of a text that is of use.

    Raises:
        UsageError: The pattern has parts for which no text can be made.
    """
    matches = re.compile(pattern).fullmatch

    def draw(random: random.Random) -> str:
        text = ""
        # Assertions and flags of a pattern are not generated, but checked.
        for _ in range(TEXTS_TO_TRY):
            text = BoundedXeger(random, most).xeger(pattern)
            if len(text) > most or matches(text):
                return text
        raise UsageError(
            f"text.pattern={pattern!r}: {text!r} and {TEXTS_TO_TRY - 1} other texts do not match: write the pattern "
            "without assertions, anchors in its middle, and flags"
        )

    try:
        draw(random.Random(0))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UsageError(f"text.pattern={pattern!r}: it contains what rstr cannot generate: {error}") from None
    return draw


class BoundedXeger(rstr.Rstr):
    """Generates texts that match a pattern, with repeats that end where the text is longer than allowed.

    The methods replace those of `rstr.Xeger`, which repeats up to 100 times in each of several nested repeats, fails
    above 100, and draws from sets, whose order differs between processes.

    Args:
        random: The random generator.
        most: Greatest length of a text that is of use.
    """

    def __init__(self, random: random.Random, most: int):
        super().__init__(random)
        self._most = most

    def _handle_repeat(self, start_range: int, end_range: int, value: Any) -> str:
        times = self._random.randint(start_range, max(start_range, min(end_range, self._most)))
        text = ""
        for _ in range(min(times, self._most + 1)):
            text += "".join(map(self._handle_state, value))
            if len(text) > self._most:
                break
        return text

    def _handle_in(self, value: Sequence[Any]) -> Any:
        candidates = list(itertools.chain.from_iterable(map(self._handle_state, value)))
        if candidates[0] is False:
            candidates = sorted(set(string.printable).difference(candidates[1:]))
        return self._random.choice(candidates)
