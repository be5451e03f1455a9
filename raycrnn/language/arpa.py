"""Read and write n-gram models as ARPA files, the format of SRILM and KenLM.

An ARPA file separates units by white space. Therefore a space is written as `<space>`, and any other white space or
control character by its code point, as in `<U+00A0>`. So is the `<` of a unit that would look like one of these names.
"""

import gzip
import math
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from raycrnn.errors import RaycrnnError
from raycrnn.language.ngram_model import (
    BEGIN_ID,
    END_ID,
    NEVER,
    SPECIAL,
    UNKNOWN,
    UNKNOWN_ID,
    NgramModel,
)
from raycrnn.language.order import MAX_ORDER

GZIP = b"\x1f\x8b"

SPACE = "<space>"

NAMED = re.compile(r"<(?=space>|U\+[0-9A-F]{4,6}>|UNK>)")
"""Matches the first character of text that would be read as something else. `SPECIAL` are never units of a text."""

CODE_POINT = re.compile(r"<U\+([0-9A-F]{4,6})>")

ROUNDING = 1e-4
"""Greatest log-probability of a file, in which rounding can make a probability slightly greater than 1."""

COUNT = re.compile(r"ngram\s+(\d{1,3})\s*=\s*(\d{1,18})")


def escape(unit: str) -> str:
    """Return a unit as it is written to an ARPA file."""
    if unit == " ":
        return SPACE
    named = NAMED.sub("<U+003C>", unit)
    return "".join(
        f"<U+{ord(character):04X}>"
        if character.isspace() or unicodedata.category(character) in ("Cc", "Cf")
        else character
        for character in named
    )


def unescape(token: str) -> str:
    """Return the unit of a token of an ARPA file."""
    if token == SPACE:
        return " "
    if "<U+" not in token:
        return token
    return CODE_POINT.sub(lambda found: chr(int(found[1], 16)) if int(found[1], 16) < 0x110000 else found[0], token)


def to_lines(model: NgramModel) -> Iterator[str]:
    """Yield the lines of the ARPA file of a model."""
    token_V = [*SPECIAL, *map(escape, model.units[len(SPECIAL) :])]
    yield "\\data\\"
    for order, (first, end) in enumerate(model.levels, 1):
        yield f"ngram {order}={end - first}"
    unit_S, parent_S = model.unit_S.tolist(), model.parent_S.tolist()
    text_S = [""]
    for order, (first, end) in enumerate(model.levels, 1):
        yield ""
        yield f"\\{order}-grams:"
        log_probs, backoffs = model.log_prob_S[first:end].tolist(), model.backoff_S[first:end].tolist()
        for node, log_prob, backoff in zip(range(first, end), log_probs, backoffs, strict=True):
            token = token_V[unit_S[node]]
            text_S.append(f"{text_S[parent_S[node]]} {token}" if order > 1 else token)
            # SRILM writes no weights of the highest order, and KenLM accepts none.
            weight = f"\t{backoff:.7g}" if order < model.order else ""
            yield f"{log_prob:.7g}\t{text_S[node]}{weight}"
    yield ""
    yield "\\end\\"


def to_bytes(model: NgramModel, compressed: bool = False) -> bytes:
    """Return the ARPA file of a model, in UTF-8."""
    data = "".join(line + "\n" for line in to_lines(model)).encode("utf-8")
    return gzip.compress(data, mtime=0) if compressed else data


def from_bytes(data: bytes, origin: str) -> NgramModel:
    """Return the model of an ARPA file.

    Args:
        data: The content of the file.
        origin: Its path or URI, for messages.

    Raises:
        RaycrnnError: It is not an ARPA file, or is damaged.
    """
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise RaycrnnError(f"{origin}: damaged: {error}; copy the file again") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RaycrnnError(f"{origin}, line {line}: not UTF-8: convert the language model to UTF-8") from None
    return ArpaParser(origin, text).parse()


@dataclass
class ArpaSection:
    """The n-grams of one order, as a file has them."""

    units: np.ndarray
    """[n-grams, order]"""
    log_prob: np.ndarray
    backoff: np.ndarray


@dataclass
class ArpaParser:
    """Reads the text of an ARPA file line by line."""

    origin: str
    text: str
    number: int = 0
    """The number of the line that was read last."""
    ids: dict[str, int] = field(default_factory=dict)
    """The numbers of the tokens."""
    units: dict[str, None] = field(default_factory=dict)
    """The units of the tokens, in the same order."""

    def parse(self) -> NgramModel:
        lines = self._lines()
        counts = self._counts(lines)
        sections = []
        for order, count in enumerate(counts, 1):
            sections.append(self._section(lines, order, count))
        if next(lines, None) != "\\end\\":
            raise self._problem("expected \\end\\: the file is truncated, or has more n-grams than \\data\\ says")
        try:
            return _build(sections, [*self.units])
        except ValueError as error:
            raise RaycrnnError(f"{self.origin}: {error}") from None

    def _problem(self, problem: str) -> RaycrnnError:
        return RaycrnnError(f"{self.origin}, line {self.number}: {problem}")

    def _lines(self) -> Iterator[str]:
        """Yield the lines that are not empty, without white space around them."""
        for line in self.text.split("\n"):
            self.number += 1
            # Not strip(), which also removes other white space: it could be a unit.
            if stripped := line.strip(" \t\r"):
                yield stripped

    def _counts(self, lines: Iterator[str]) -> list[int]:
        """Return the number of n-grams of each order."""
        # SRILM ignores what precedes \data\.
        if "\\data\\" not in lines:
            raise RaycrnnError(f"{self.origin}: not an ARPA file: it has no line \\data\\")
        counts: list[int] = []
        for line in lines:
            if line == "\\1-grams:" and counts:
                return counts
            found = COUNT.fullmatch(line)
            if not found or int(found[1]) != len(counts) + 1:
                raise self._problem(f"expected `ngram {len(counts) + 1}=NUMBER` or \\1-grams:, not {line[:50]!r}")
            if len(counts) == MAX_ORDER:
                raise self._problem(f"the n-grams are longer than {MAX_ORDER} units, the most that raycrnn reads")
            counts.append(int(found[2]))
        raise self._problem("the file ends in its header: it is truncated")

    def _section(self, lines: Iterator[str], order: int, count: int) -> ArpaSection:
        if order > 1 and (line := next(lines, "the end of the file")) != f"\\{order}-grams:":
            raise self._problem(
                f"expected \\{order}-grams:, not {line[:50]!r}: the file is truncated, or has more n-grams than "
                "\\data\\ says"
            )
        ids: list[int] = []
        log_probs, backoffs = [], []
        for found in range(count):
            line = next(lines, "\\")
            if line.startswith("\\") and "\t" not in line:
                raise self._problem(
                    f"{found:,} n-grams of order {order} instead of the {count:,} that \\data\\ says: the file is "
                    "truncated or damaged"
                )
            log_prob, tokens, backoff = self._ngram(line, order)
            if order == 1:
                # KenLM accepts both.
                unit = UNKNOWN if tokens[0] == "<UNK>" else unescape(tokens[0])
                if unit in self.units:
                    raise self._problem(f"the unit {unit!r} stands twice among the 1-grams")
                self.ids[tokens[0]] = len(self.ids)
                self.units[unit] = None
            try:
                ids += [self.ids[token] for token in tokens]
            except KeyError as error:
                raise self._problem(f"the unit {error} is not among the 1-grams") from None
            log_probs.append(log_prob)
            backoffs.append(backoff)
        if not count and order == 1:
            raise self._problem("the model has no 1-grams")
        return ArpaSection(np.array(ids, np.int64).reshape(-1, order), np.array(log_probs), np.array(backoffs))

    def _ngram(self, line: str, order: int) -> tuple[float, list[str], float]:
        """Return the log-probability, the tokens and the back-off weight of a line. A missing weight is 0."""
        fields = _fields(line)
        if not order + 1 <= len(fields) <= order + 2:
            raise self._problem(
                f"{len(fields)} fields instead of {order + 1} or {order + 2}: log-probability, {order} units and, "
                "optionally, the back-off weight"
            )
        try:
            log_prob = float(fields[0])
            backoff = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
        except ValueError as error:
            raise self._problem(str(error)) from None
        if not -math.inf < log_prob <= ROUNDING:
            raise self._problem(f"the log-probability is {log_prob}; it must be a finite number that is at most 0")
        if not math.isfinite(backoff):
            raise self._problem(f"the back-off weight is {backoff}; it must be a finite number")
        return log_prob, fields[1 : order + 1], backoff


def _fields(line: str) -> list[str]:
    # Not split() without an argument, which also splits at other white space: it could be a unit.
    fields = line.replace("\t", " ").split(" ")
    return [each for each in fields if each] if "" in fields else fields


def _build(sections: Sequence[ArpaSection], units: Sequence[str]) -> NgramModel:
    """Return the model of n-grams of the orders 1, 2, …, whose units are numbered by their place in `units`.

    Contexts that are missing because the model was pruned are added.

    Raises:
        ValueError: An n-gram stands twice.
    """
    vocabulary = (*SPECIAL, *sorted(set(units) - set(SPECIAL)))
    number_of = {unit: number for number, unit in enumerate(vocabulary)}
    number_V = np.array([number_of[unit] for unit in units])
    unigram_V = np.full(len(vocabulary), np.nan)
    unigram_V[number_V] = sections[0].log_prob
    backoff_V = np.zeros(len(vocabulary))
    backoff_V[number_V] = sections[0].backoff
    possible = sections[0].log_prob[sections[0].log_prob > NEVER]
    defaults = {UNKNOWN_ID: min(possible, default=NEVER), BEGIN_ID: NEVER, END_ID: 0.0}
    for number, log_prob in defaults.items():
        if np.isnan(unigram_V[number]):
            unigram_V[number] = log_prob
    key_S = np.concatenate([[-1], np.arange(len(vocabulary))])
    log_probs, backoffs = [np.zeros(1), unigram_V], [np.zeros(1), backoff_V]
    rows = [number_V[section.units] for section in sections]
    node_of_rows = [1 + units[:, 0] for units in rows]
    for order in range(2, len(sections) + 1):
        # Of the longer n-grams too, whose first units are contexts.
        keys = [node_of_rows[i] * len(vocabulary) + rows[i][:, order - 1] for i in range(order - 1, len(sections))]
        key, place = np.unique(np.concatenate(keys), return_inverse=True)
        log_prob, backoff = np.full(len(key), np.nan), np.zeros(len(key))
        own = place[: len(keys[0])]
        if len(np.unique(own)) < len(own):
            raise ValueError(f"an n-gram of order {order} stands twice")
        log_prob[own], backoff[own] = sections[order - 1].log_prob, sections[order - 1].backoff
        ends = np.cumsum(list(map(len, keys)))
        node_of_rows[order - 1 :] = np.split(len(key_S) + place, ends[:-1])
        key_S = np.concatenate([key_S, key])
        log_probs.append(log_prob)
        backoffs.append(backoff)
    model = NgramModel(
        vocabulary,
        key_S,
        np.concatenate(log_probs).astype(np.float32),
        np.concatenate(backoffs).astype(np.float32),
    )
    for first, end in model.levels[1:]:
        added = first + np.flatnonzero(np.isnan(model.log_prob_S[first:end]))
        context, unit = model.parent_S[added], model.unit_S[added]
        model.log_prob_S[added] = model.backoff_S[context] + model.after(model.suffix_S[context], unit)
    return model
