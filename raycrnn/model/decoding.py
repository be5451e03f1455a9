"""Decode the network's outputs to texts with scores and confidences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from raycrnn import config
from raycrnn.data.alphabet import Alphabet
from raycrnn.errors import UsageError
from raycrnn.language.automaton import Automaton
from raycrnn.model import ctc, fused_search
from raycrnn.model.calibration import Calibration
from raycrnn.model.fused_search import Fusion
from raycrnn.model.lexicon_decoding import CodedLexicon

LEAST_POSTERIOR = 1e-300
"""Probability that stands for one of 0, whose logarithm would be infinite."""

LEXICON_PATHS = 10
"""Least number of paths that decoding with a lexicon returns. Confidences depend on the sum of the probabilities of
this many."""


@dataclass(frozen=True)
class Outputs:
    """The network's outputs for a batch of images."""

    indices: tuple[int, ...]
    """Indices of the batch's images in the sequence that was given."""
    log_probs_TBK: Tensor
    frames_B: Tensor


@dataclass(frozen=True)
class LineDecoder:
    """Decodes a network's outputs to paths, with some settings and what is known about the texts."""

    settings: config.Decoding
    alphabet: Alphabet
    """The units of the network's outputs."""
    language_model: Automaton | None = None
    """The language model for the units of the alphabet, if there is one."""
    lexicon: CodedLexicon | None = None
    """The lexicon to which paths are restricted, as `settings.lexicon_mode` says. It replaces the language model."""

    @torch.inference_mode()
    def decode(self, outputs: Outputs) -> list[list[ctc.Path]]:
        """Return the most likely paths of each image, best first.

        Other methods than greedy decoding return at least two paths, and with a lexicon `LEXICON_PATHS`, if there are
        as many, because scores and confidences need them.
        """
        log_probs_TBK, frames_B, settings = outputs.log_probs_TBK, outputs.frames_B, self.settings
        width, paths = settings.beam_width, max(2, settings.num_beam_paths)
        if self.lexicon is not None:
            return self._decode_with_lexicon(self.lexicon, outputs)
        if settings.method == "greedy":
            return [[path] for path in ctc.greedy(log_probs_TBK, frames_B)]
        if self.language_model is not None:
            fusion = Fusion(self.language_model, settings.language_model_weight, settings.insertion_bonus)
            return fused_search.beam_search(log_probs_TBK, frames_B, fusion, width, paths)
        return ctc.beam_search(log_probs_TBK, frames_B, width, paths)

    def _decode_with_lexicon(self, lexicon: CodedLexicon, outputs: Outputs) -> list[list[ctc.Path]]:
        log_probs_TBK, frames_B, settings = outputs.log_probs_TBK, outputs.frames_B, self.settings
        paths = max(LEXICON_PATHS, settings.num_beam_paths)
        if settings.lexicon_mode == "words":
            return lexicon.with_words(log_probs_TBK, frames_B, settings.beam_width, paths)
        found = lexicon.best_entries(log_probs_TBK, frames_B, paths, settings.lexicon_distance)
        far = [i for i, image_paths in enumerate(found) if not image_paths]
        if far:
            # No entry is near enough: these lines are decoded without the lexicon.
            indices = tuple(outputs.indices[i] for i in far)
            rest = replace(self, lexicon=None).decode(Outputs(indices, log_probs_TBK[:, far], frames_B[far]))
            for i, image_paths in zip(far, rest, strict=True):
                found[i] = image_paths
        return found

    @property
    def max_paths(self) -> int:
        """Number of paths that can be returned for an image: 1 if greedy, else the beam width; more with a lexicon."""
        found = 1 if self.settings.method == "greedy" else self.settings.beam_width
        return max(found, LEXICON_PATHS) if self.lexicon else found

    def with_paths(self, paths: int) -> "LineDecoder":
        """Return a decoder for another number of paths. Raises `UsageError` if it cannot find as many."""
        if not 1 <= paths <= self.max_paths:
            raise UsageError(
                f"n_best={paths}: {self.settings.method} decoding returns 1 to {self.max_paths} alternatives"
            )
        return replace(self, settings=self.settings.model_copy(update={"num_beam_paths": paths}))

    def score(self, paths: Sequence[ctc.Path]) -> float | None:
        """Return the difference between the scores of the two best paths, None if there is only one.

        The score of a path is its log-probability, with what the language model adds to it.
        """
        return paths[0].score - paths[1].score if len(paths) > 1 else None


def path_confidences(
    log_probs_TBK: Tensor, frames_B: Tensor, paths: Sequence[Sequence[ctc.Path]], calibration: Calibration
) -> list[list[float]]:
    """Return the calibrated probability of every path of each image, over all of its alignments.

    With a language model, it is the probability of the path among those of the beam, calibrated if that was fitted. On
    receipts, its Brier score was less than half that of the probability of the network, which does not know the
    language model (see docs/language_models.md).

    With a lexicon, it is the probability on the condition that the text is one of those that the lexicon allows: that
    among all texts, divided by the sum of those of the first `LEXICON_PATHS` paths.

    Args:
        log_probs_TBK: Log-probabilities after temperature scaling.
        frames_B: Frames of each image.
        paths: The paths of each image.
        calibration: The calibration, which was fitted on best paths.
    """
    log_probs: list[list[float]] = [[] for _ in paths]
    for rank in range(max(map(len, paths))):
        indices = [i for i, image_paths in enumerate(paths) if rank < len(image_paths)]
        labels = [paths[i][rank].codes for i in indices]
        log_prob_B = ctc.log_likelihoods(log_probs_TBK[:, indices], frames_B[indices], labels)
        for i, log_prob in zip(indices, log_prob_B.tolist(), strict=True):
            log_probs[i].append(min(0.0, log_prob))
    for i, image_paths in enumerate(paths):
        if image_paths[0].is_in_lexicon:
            # Not of more paths, because their number can be that of another request in the batch.
            total = float(np.logaddexp.reduce(log_probs[i][:LEXICON_PATHS]))
            log_probs[i] = [min(0.0, log_prob - total) for log_prob in log_probs[i]]
    return [
        _with_language_model(image_paths, frames, calibration)
        or _calibrate(own, calibration.confidence(own[0], len(image_paths[0].codes), frames))
        for own, image_paths, frames in zip(log_probs, paths, frames_B.tolist(), strict=True)
    ]


def _with_language_model(paths: Sequence[ctc.Path], frames: int, calibration: Calibration) -> list[float]:
    """Return the confidences of an image's paths that a language model found; none if there was no such model."""
    if paths[0].is_in_lexicon:
        return []
    posteriors = [path.posterior for path in paths if path.posterior is not None]
    if not posteriors or calibration.with_language_model is None:
        return posteriors
    log_probs = [math.log(max(posterior, LEAST_POSTERIOR)) for posterior in posteriors]
    return _calibrate(log_probs, calibration.with_language_model.confidence(log_probs[0], len(paths[0].codes), frames))


def _calibrate(log_probs: Sequence[float], best: float) -> list[float]:
    """Return the confidences of an image's paths, given their log-probabilities and the confidence of the first.

    The others keep their ratio to the first, but together never exceed what it leaves: they share that in the ratio of
    their probabilities to what the network leaves.
    """
    left = -math.expm1(log_probs[0])
    others = [
        min(best * math.exp(log_prob - log_probs[0]), (1 - best) * math.exp(log_prob) / left if left else 0.0)
        for log_prob in log_probs[1:]
    ]
    return [best, *others]
