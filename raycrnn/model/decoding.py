"""Decode the network's outputs with their scores and confidences."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raycrnn import config
from raycrnn.model import ctc


def sequence_score(paths: Sequence[ctc.Path], decoding: config.Decoding) -> float | None:
    if decoding.method == "greedy" or len(paths) < 2:
        return None
    return paths[0].log_prob - paths[1].log_prob


def path_confidences(tempered_TBK: Tensor, frames_B: Tensor, paths: Sequence[Sequence[ctc.Path]]) -> list[list[float]]:
    """Of each reading of each image, the probability under a temperature."""
    found: list[list[float]] = [[] for _ in paths]
    for rank in range(max(map(len, paths))):
        own = [i for i, each in enumerate(paths) if rank < len(each)]
        labels = [paths[i][rank].codes for i in own]
        log_p = ctc.log_likelihoods(tempered_TBK[:, own], frames_B[own], labels)
        for i, p in zip(own, log_p.exp().tolist(), strict=True):
            found[i].append(min(1.0, p))
    return found


@dataclass(frozen=True)
class Outputs:
    """The network's log-probabilities for a batch."""

    indices: tuple[int, ...]
    """of its images, among those that were given"""
    log_probs_TBK: torch.Tensor
    frames_B: torch.Tensor


@torch.inference_mode()
def decode(outputs: Outputs, settings: config.Decoding) -> list[list[ctc.Path]]:
    """The most likely paths of each image, best first; by beam search at least two, where there are as many."""
    if settings.method == "greedy":
        return [[path] for path in ctc.greedy(outputs.log_probs_TBK, outputs.frames_B)]
    # A score needs a second path even where one transcription is asked for.
    paths = max(2, settings.num_beam_paths)
    return ctc.beam_search(outputs.log_probs_TBK, outputs.frames_B, settings.beam_width, paths)
