"""Decode with a lexicon: a line is one of its entries, or all words of a line are."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache

from torch import Tensor

from raycrnn import config
from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.bidi import display_order
from raycrnn.data.lexicon import Entry, Lexicon
from raycrnn.language.word_automaton import WordAutomaton
from raycrnn.model import ctc, fused_search
from raycrnn.model.ctc import Path
from raycrnn.model.entry_search import EntrySearch
from raycrnn.model.fused_search import Fusion

KEPT_LEXICONS = 4
"""Number of lexicons that stay coded, because further calls and models with the same alphabet may have them too. For
10,000 entries, finding those that a model can read and making their tree takes about half a second."""


class CodedLexicon:
    """A lexicon in the codes of an alphabet, with what the search for its entries needs, which is made when used.

    Args:
        lexicon: The lexicon; the alphabet must have all of its units.
        alphabet: The alphabet.
    """

    def __init__(self, lexicon: Lexicon, alphabet: Alphabet):
        self.lexicon = lexicon
        self.alphabet = alphabet

    def best_entries(
        self, log_probs_TBK: Tensor, frames_B: Tensor, paths: int, distance: int | None
    ) -> list[list[Path]]:
        """Return the most likely entries of each line, best first.

        If no entry is possible, because all need more frames, it is the empty text. If none is near enough, there are
        no paths.

        Args:
            log_probs_TBK: Log-probabilities.
            frames_B: Frames of each image.
            paths: Number of entries to return, at most.
            distance: Greatest edit distance of an entry from the greedy path; None for all entries.
        """
        found = self._entry_search.search(log_probs_TBK, frames_B, paths, distance)
        if distance is None:
            found = [each or [_path((), i, log_probs_TBK, frames_B)] for i, each in enumerate(found)]
        return _marked(found)

    def with_words(self, log_probs_TBK: Tensor, frames_B: Tensor, width: int, paths: int) -> list[list[Path]]:
        """Return the most likely texts of each line whose words are entries, best first, by prefix beam search.

        If the search finds none, it is the longest such text with which the greedy path begins.

        Args:
            log_probs_TBK: Log-probabilities.
            frames_B: Frames of each image.
            width: Number of prefixes that are kept after each frame.
            paths: Number of texts to return, at most.
        """
        fusion = Fusion(self._automaton, weight=1.0, bonus=0.0)
        found = fused_search.beam_search(log_probs_TBK, frames_B, fusion, width, paths)
        return _marked([each or [self._complete_part(i, log_probs_TBK, frames_B)] for i, each in enumerate(found)])

    def _complete_part(self, image: int, log_probs_TBK: Tensor, frames_B: Tensor) -> Path:
        codes = ctc.greedy(log_probs_TBK[:, [image]], frames_B[[image]])[0].codes
        return _path(codes[: self._automaton.complete_length(codes)], image, log_probs_TBK, frames_B)

    @cached_property
    def _entry_search(self) -> EntrySearch:
        return EntrySearch(self._codes(self.lexicon.entries))

    @cached_property
    def _automaton(self) -> WordAutomaton:
        entries = (variant for entry in self.lexicon.entries for variant in _variants(entry, self.alphabet))
        return WordAutomaton(self._codes(entries), [not _has_letter(unit) for unit in self.alphabet.units])

    def _codes(self, entries: "Iterator[Entry] | tuple[Entry, ...]") -> list[tuple[int, ...]]:
        """Return the codes of entries in the order of the image, each once."""
        direction = self.alphabet.text_direction
        return list(dict.fromkeys(tuple(self.alphabet.encode(display_order(entry, direction))) for entry in entries))


def coded(lexicon: Lexicon | Sequence[str], configuration: config.Configuration, alphabet: Alphabet) -> CodedLexicon:
    """Return the entries of a lexicon that a model can read, in the codes of its alphabet.

    Those of a recent call or model are returned again, without another warning about entries that are left out.

    Args:
        lexicon: The lexicon, or its entries, which are written as in a lexicon file.
        configuration: The configuration of the model.
        alphabet: The alphabet of the model.

    Raises:
        UsageError: An entry is empty, or the model can read none of the entries.
    """
    if not isinstance(lexicon, Lexicon):
        lexicon = Lexicon.of(lexicon, configuration.data)
    return _coded(lexicon, alphabet, image.frames(configuration.image.input_shape[1]))


@lru_cache(maxsize=KEPT_LEXICONS)
def _coded(lexicon: Lexicon, alphabet: Alphabet, frames: int) -> CodedLexicon:
    return CodedLexicon(lexicon.readable(alphabet, frames), alphabet)


def _marked(paths: Sequence[Sequence[Path]]) -> list[list[Path]]:
    """Return paths with the mark that a lexicon allows them; the empty text, which stands for none, does not get it."""
    return [[replace(path, is_in_lexicon=bool(path.codes)) for path in image_paths] for image_paths in paths]


def _path(codes: tuple[int, ...], image: int, log_probs_TBK: Tensor, frames_B: Tensor) -> Path:
    """Return the path of a text for an image, with its log-probability over all alignments."""
    return Path(codes, float(ctc.log_likelihoods(log_probs_TBK[:, [image]], frames_B[[image]], [codes])))


def _variants(entry: Entry, alphabet: Alphabet) -> Iterator[Entry]:
    """Yield an entry, and the entry with its first unit and with all units in upper case, as far as there are units."""
    yield entry
    upper = [_upper(unit, alphabet) for unit in entry]
    if upper[0]:
        yield (*upper[0], *entry[1:])
    if all(upper):
        yield tuple(unit for units in upper for unit in units)


def _upper(unit: str, alphabet: Alphabet) -> Entry:
    """Return the units of a unit in upper case; none if the alphabet lacks them. `ß` becomes `ẞ`, or `S` and `S`."""
    upper = "ẞ" if unit == "ß" and "ẞ" in alphabet else unit.upper()
    if upper in alphabet:
        return (upper,)
    return tuple(upper) if all(character in alphabet for character in upper) else ()


def _has_letter(unit: str) -> bool:
    """Return whether a unit has a letter or a mark that belongs to one: then it is a part of words."""
    return any(unicodedata.category(character)[0] in "LM" for character in unit)
