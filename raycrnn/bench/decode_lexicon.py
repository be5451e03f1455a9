"""Decoding with a lexicon, compared with beam search on the same log-probabilities."""

import math
import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from raycrnn import bench
from raycrnn.bench.decode_timing import batches_of_prediction, seconds
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.lexicon import Entry, Lexicon
from raycrnn.model import ctc
from raycrnn.model.lexicon_decoding import CodedLexicon

ENTRIES = 50_000
SYLLABLES = 300
LEAST_LINES_PER_SECOND = 20
CONFUSED = 0.1
"""Share of the units of a line that the network takes for another one."""

FIRST_LETTER = 0x4E00


def figures(frames: int, lines: int, classes: int, width: int, rounds: int) -> Iterator[bench.Figure]:
    """Yield the lines per second of beam search, and of decoding with a lexicon, on lines of entries.

    Args:
        frames: Number of frames of a line.
        lines: Number of lines.
        classes: Number of classes: letters, a space and the blank.
        width: Beam width.
        rounds: Number of measurements of each side, in turn.
    """
    generator = random.Random(0)
    alphabet = Alphabet((*(chr(FIRST_LETTER + code) for code in range(classes - 2)), " "))
    words = random_words(alphabet.units[:-1], generator)
    coded = CodedLexicon(Lexicon(tuple(words)), alphabet)
    cases = {"entries": [generator.choice(words) for _ in range(lines)]}
    cases["words"] = [_sentence(words, frames // 4, generator) for _ in range(lines)]
    for mode, texts in cases.items():
        batches = list(batches_of_prediction(spelled(texts, alphabet, frames, generator)))
        decoders: dict[str, Callable[[tuple[Tensor, Tensor]], object]] = {
            "beam search": lambda batch: ctc.beam_search(*batch, width, 2),
            "entries": lambda batch: coded.best_entries(*batch, 10, None),
            "words": lambda batch: coded.with_words(*batch, width, 10),
        }
        # The first call makes the trie.
        decoders[mode](batches[0])
        speeds: dict[str, list[float]] = {name: [] for name in ("beam search", mode)}
        for _ in range(rounds):
            for name, measured in speeds.items():
                measured.append(lines / seconds(decoders[name], batches))
        case = f"K={classes} T={frames}"
        beam = sorted(speeds["beam search"])[rounds // 2]
        yield bench.Figure(f"{case} lines of {mode}, beam search", beam, "line/s")
        speed, limit = sorted(speeds[mode])[rounds // 2], f"≥ {LEAST_LINES_PER_SECOND}"
        yield bench.Figure(f"{case} lines of {mode}, lexicon of {ENTRIES:,} entries", speed, "line/s", limit)


def random_words(letters: tuple[str, ...], generator: random.Random) -> list[Entry]:
    """Return `ENTRIES` different words of two to four syllables, many of which have the same beginnings."""
    drawn = [tuple(generator.choices(letters, k=generator.choice((2, 3)))) for _ in range(SYLLABLES)]
    words: dict[Entry, None] = {}
    while len(words) < ENTRIES:
        syllables = generator.choices(drawn, k=generator.choice((2, 3, 3, 4)))
        words[tuple(letter for syllable in syllables for letter in syllable)] = None
    return list(words)


def _sentence(words: list[Entry], length: int, generator: random.Random) -> Entry:
    """Return words with spaces between them, of at most `length` units unless the first word is longer."""
    sentence = generator.choice(words)
    while len(longer := (*sentence, " ", *generator.choice(words))) <= length:
        sentence = longer
    return sentence


def spelled(texts: list[Entry], alphabet: Alphabet, frames: int, generator: random.Random) -> Tensor:
    """Return log-probabilities [T, B, K] with a peak for each unit of some texts, some of them for another unit.

    The peaks are as high as those of `decode.random_log_probs`. Where they are for another unit, the right one is the
    second most likely.
    """
    classes, seeded = len(alphabet) + 1, torch.Generator().manual_seed(0)
    logits_BTK = 2 * torch.randn(len(texts), frames, classes, generator=seeded)
    # The sum of the other classes is about this in the logarithm.
    others = math.log(classes) + 2
    certainty_BT = others + 2 + 6 * torch.rand(len(texts), frames, generator=seeded)
    best_BT = torch.full((len(texts), frames), alphabet.blank)
    for line, text in enumerate(texts):
        for place, code in enumerate(alphabet.encode(text)):
            frame = int((place + 0.5) * frames / len(text))
            best_BT[line, frame] = code
            if generator.random() < CONFUSED:
                logits_BTK[line, frame, code] = others
                best_BT[line, frame] = generator.randrange(alphabet.blank)
    logits_BTK.scatter_(2, best_BT[:, :, None], certainty_BT[:, :, None])
    return logits_BTK.transpose(0, 1).log_softmax(2)
