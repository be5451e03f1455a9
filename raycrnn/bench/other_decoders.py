"""Time the beam search of another project, in an environment of its own.

`raycrnn bench decode` runs this file with the Python of that environment, which can be as old as 3.9. Therefore it uses
nothing of raycrnn.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable

import numpy as np

Decoder = Callable[[np.ndarray], str]

FIRST = 0x4E00
"""The character of the first unit; the following characters are the other units."""


def pyctcdecode(classes: int, width: int) -> Decoder:
    """Return a decoder of pyctcdecode, without pruning and language model, for log-probabilities [T, K]."""
    search = importlib.import_module("pyctcdecode").build_ctcdecoder([*_characters(classes - 1), ""])

    def decode(log_probs_TK: np.ndarray) -> str:
        options = {"beam_prune_logp": -np.inf, "token_min_logp": -np.inf, "prune_history": False}
        text: str = search.decode_beams(log_probs_TK, beam_width=width, **options)[0][0]
        return text

    return decode


def fast_ctc_decode(classes: int, width: int) -> Decoder:
    """Return a decoder of fast-ctc-decode, without pruning, for log-probabilities [T, K]."""
    library = importlib.import_module("fast_ctc_decode")
    # Its blank is the first class.
    alphabet = ["", *_characters(classes - 1)]

    def decode(log_probs_TK: np.ndarray) -> str:
        probs_TK = np.exp(np.roll(log_probs_TK, 1, axis=1))
        text: str = library.beam_search(probs_TK, alphabet, beam_size=width, beam_cut_threshold=0.0)[0]
        return text

    return decode


def _characters(count: int) -> list:
    return [chr(FIRST + code) for code in range(count)]


def main(name: str, file: str, width: str) -> None:
    """Decode the lines of a file, log-probabilities float32 [B, T, K], and print the seconds and the units."""
    log_probs_BTK = np.load(file)
    decode = {"pyctcdecode": pyctcdecode, "fast-ctc-decode": fast_ctc_decode}[name](log_probs_BTK.shape[2], int(width))
    start = time.perf_counter()
    texts = [decode(log_probs_TK) for log_probs_TK in log_probs_BTK]
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "codes": [[ord(character) - FIRST for character in text] for text in texts]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
