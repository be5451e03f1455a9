"""Estimate n-gram models with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999).

The definitions are those of KenLM's lmplz (Heafield et al. 2013): an n-gram of the highest order, or one that starts
with the beginning of a line, counts as often as it occurs; any other one counts once for each different unit before it.
Each order has three discounts, for n-grams with the counts 1, 2, and 3 or more. Unigrams are interpolated with a
uniform distribution over the vocabulary.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raycrnn.errors import RaycrnnError
from raycrnn.language.ngram_model import BEGIN_ID, NEVER, ROOT, SPECIAL, NgramModel, concatenate

logger = logging.getLogger(__name__)

FALLBACK = (0.5, 1.0, 1.5)
"""The discounts of an order whose counts do not allow an estimate, as of KenLM's `--discount_fallback`."""


def estimate(lines: Sequence[Sequence[str]], order: int, units: Iterable[str] = ()) -> NgramModel:
    """Return the n-gram model of some lines.

    Args:
        lines: The units of each line. Lines without units are ignored.
        order: The number of units in the longest n-grams, at least 1.
        units: Units of the vocabulary that the lines may lack. They get the probability of unknown units.

    Raises:
        RaycrnnError: No line has units, or a unit is `<s>`, `</s>` or `<unk>`.
    """
    lines = [line for line in lines if line]
    if not lines:
        raise RaycrnnError("the texts are empty: a language model needs at least one unit")
    known = set(units).union(*map(set, lines))
    if reserved := known.intersection(SPECIAL):
        raise RaycrnnError(f"the unit {min(reserved)!r} is reserved in language models: rename it in the texts")
    vocabulary = (*SPECIAL, *sorted(known))
    ids = {unit: number for number, unit in enumerate(vocabulary)}
    unit_P, place_P = concatenate([[ids[unit] for unit in line] for line in lines])
    levels = _count(unit_P, place_P, order, len(vocabulary))
    return _smooth(vocabulary, levels)


@dataclass
class Level:
    """The n-grams of one order, in increasing order of `key`."""

    key: np.ndarray
    """The node of each n-gram's context, times the size of the vocabulary, plus its last unit."""
    parent: np.ndarray
    """The number of the context within the n-grams of the order below; 0 for unigrams."""
    count: np.ndarray
    suffix: np.ndarray
    """The number of the n-gram without its first unit within the order below; 0 for unigrams."""
    from_begin: np.ndarray
    """Whether the n-gram starts with the beginning of a line."""


def _count(unit_P: np.ndarray, place_P: np.ndarray, order: int, vocabulary: int) -> list[Level]:
    """Return the n-grams of each order with their counts, given all lines, concatenated."""
    count_V = np.bincount(unit_P, minlength=vocabulary)
    all_V = np.arange(vocabulary)
    levels = [Level(ROOT * vocabulary + all_V, 0 * all_V, count_V, 0 * all_V, all_V == BEGIN_ID)]
    # The number of the n-gram that starts at each position, within those of its order.
    gram_P, position_P = unit_P, np.arange(len(unit_P))
    first_node = 1
    for length in range(2, order + 1):
        # The n-grams must not extend beyond the end of their line.
        position_P = position_P[position_P + length <= len(unit_P)]
        position_P = position_P[place_P[position_P + length - 1] == place_P[position_P] + length - 1]
        if not len(position_P):
            break
        key_P = (first_node + gram_P[position_P]) * vocabulary + unit_P[position_P + length - 1]
        key, where, count, number_P = _distinct(key_P)
        start = position_P[where]
        levels.append(Level(key, gram_P[start], count, gram_P[start + 1], place_P[start] == 0))
        first_node += len(levels[-2].key)
        gram_P = np.full(len(unit_P), -1)
        gram_P[position_P] = number_P
    return levels


def _distinct(key_P: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the different keys in increasing order, a place and the count of each, and the number of each place's key.

    numpy.unique takes three times as long, because it sorts stably.
    """
    order_P = np.argsort(key_P)
    sorted_P = key_P[order_P]
    is_first_P = np.concatenate([[True], sorted_P[1:] != sorted_P[:-1]])
    first = np.flatnonzero(is_first_P)
    number_P = np.empty(len(key_P), np.int64)
    number_P[order_P] = np.cumsum(is_first_P) - 1
    return sorted_P[first], order_P[first], np.diff(first, append=len(key_P)), number_P


def _smooth(vocabulary: tuple[str, ...], levels: Sequence[Level]) -> NgramModel:
    for level, above in itertools.pairwise(levels):
        # Each n-gram of the order above is another unit before its suffix.
        different = np.bincount(above.suffix, minlength=len(level.key))
        level.count = np.where(level.from_begin, level.count, different)
    # The beginning of a line is never predicted.
    levels[0].count[BEGIN_ID] = 0
    keys, log_probs, backoffs = [np.array([-1])], [np.zeros(1)], []
    lower, contexts = np.array([1 / (len(vocabulary) - 1)]), 1
    for number, level in enumerate(levels, 1):
        discount_D, are_estimated = _discounts(level.count)
        if not are_estimated:
            shown = ", ".join(map(str, FALLBACK))
            logger.debug(f"order {number}: too few different counts for an estimate of the discounts; used {shown}")
        discount = discount_D[np.minimum(level.count, 3)]
        total = np.bincount(level.parent, level.count, contexts)
        with np.errstate(invalid="ignore", divide="ignore"):
            left = np.bincount(level.parent, discount, contexts) / total
        prob = (level.count - discount) / total[level.parent] + left[level.parent] * lower[level.suffix]
        backoffs.append(np.log10(np.where(total > 0, left, 1)))
        keys.append(level.key)
        with np.errstate(divide="ignore"):
            log_probs.append(np.log10(prob))
        lower, contexts = prob, len(level.key)
    log_probs[1][BEGIN_ID] = NEVER
    # Contexts of the highest order have none; the weight of the root is part of the unigrams.
    backoffs = [np.zeros(1), *backoffs[1:], np.zeros(contexts)]
    return NgramModel(
        vocabulary,
        np.concatenate(keys),
        np.concatenate(log_probs).astype(np.float32),
        np.concatenate(backoffs).astype(np.float32),
    )


def _discounts(count: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the discounts of n-grams with the counts 0 to 3, and whether they are estimated (Chen and Goodman)."""
    _, *numbers = np.bincount(np.minimum(count, 5), minlength=6)[:5].tolist()
    if all(numbers[:3]):
        share = numbers[0] / (numbers[0] + 2 * numbers[1])
        estimated = [k - (k + 1) * share * numbers[k] / numbers[k - 1] for k in (1, 2, 3)]
        # A discount of 0 could leave nothing for the order below, and the logarithm of the back-off weight is infinite.
        if all(0 < discount <= k for k, discount in enumerate(estimated, 1)):
            return np.array([0.0, *estimated]), True
    return np.array([0.0, *FALLBACK]), False
