"""Read and write language models: ARPA files, and the compact files of model directories."""

import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from raycrnn import storage
from raycrnn.data import characters
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language import arpa
from raycrnn.language.ngram_model import SPECIAL, NgramModel

BINARY = (b"mmap lm http://kheafield.com/code", b"SRILM_BINARY_NGRAM")
"""How the binary files of KenLM and SRILM begin."""


def read(location: str | Path) -> NgramModel:
    """Read a language model: an ARPA file, which may be compressed by gzip, or a file that `to_bytes` wrote.

    Args:
        location: Path or URI.

    Raises:
        UsageError: There is no such file, or it is a binary file of another tool.
        RaycrnnError: The file is not a language model, or is damaged.
    """
    try:
        data = storage.read(location)
    except FileNotFoundError:
        raise UsageError(f"{location}: no such language model{characters.notes_on(str(location))}") from None
    except OSError as error:
        raise UsageError(f"{location}: the language model cannot be read: {storage.describe(error)}") from None
    if data.startswith(BINARY):
        raise UsageError(f"{location}: a binary file of KenLM or SRILM: name the ARPA file from which it was made")
    # The header of safetensors is its length in eight bytes, and a JSON object.
    return _from_bytes(data, str(location)) if data[8:9] == b"{" else arpa.from_bytes(data, str(location))


def to_bytes(model: NgramModel) -> bytes:
    """Return a model in the safetensors format. It is read in a small part of the time of an ARPA file."""
    units = np.frombuffer(json.dumps(model.units).encode("ascii"), np.uint8)
    arrays = {"units": units, "keys": model.key_S, "log_probs": model.log_prob_S, "backoffs": model.backoff_S}
    return safetensors.numpy.save(arrays)


def _from_bytes(data: bytes, origin: str) -> NgramModel:
    try:
        arrays = safetensors.numpy.load(data)
        units = tuple(json.loads(arrays["units"].tobytes()))
        key_S, log_prob_S, backoff_S = arrays["keys"], arrays["log_probs"], arrays["backoffs"]
        has_unigrams = (key_S[: len(units) + 1] == np.arange(-1, len(units))).all()
        is_trie = (key_S[1:] > key_S[:-1]).all() and (key_S // len(units) < np.arange(len(key_S))).all()
        is_finite = np.isfinite(log_prob_S).all() and np.isfinite(backoff_S).all()
        valid = len(key_S) == len(log_prob_S) == len(backoff_S) > len(units) and units[: len(SPECIAL)] == SPECIAL
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise RaycrnnError(f"{origin}: damaged, or not a language model of raycrnn: {error}") from None
    if not (valid and has_unigrams and is_trie and is_finite):
        raise RaycrnnError(f"{origin}: damaged: its n-grams are inconsistent; copy the file again")
    return NgramModel(units, key_S, log_prob_S, backoff_S)
