"""Decode the network's outputs to texts with scores and confidences."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raycrnn import config
from raycrnn.model import ctc


@dataclass(frozen=True)
class Outputs:
    """The network's outputs for a batch of images."""

    indices: tuple[int, ...]
    """Indices of the batch's images in the sequence that was given."""
    log_probs_TBK: Tensor
    frames_B: Tensor


@torch.inference_mode()
def decode(outputs: Outputs, settings: config.Decoding) -> list[list[ctc.Path]]:
    """Return the most likely paths of each image, best first.

    Beam search returns at least two paths, if there are as many, because the score needs them.
    """
    if settings.method == "greedy":
        return [[path] for path in ctc.greedy(outputs.log_probs_TBK, outputs.frames_B)]
    paths = max(2, settings.num_beam_paths)
    return ctc.beam_search(outputs.log_probs_TBK, outputs.frames_B, settings.beam_width, paths)


def sequence_score(paths: Sequence[ctc.Path], decoding: config.Decoding) -> float | None:
    """Return the difference between the log-probabilities of the two best paths, None if there is only one."""
    if decoding.method == "greedy" or len(paths) < 2:
        return None
    return paths[0].log_prob - paths[1].log_prob


def path_confidences(
    calibrated_TBK: Tensor, frames_B: Tensor, paths: Sequence[Sequence[ctc.Path]]
) -> list[list[float]]:
    """Return the probability of every path of each image, over all of its alignments.

    Args:
        calibrated_TBK: Log-probabilities after temperature scaling.
        frames_B: Frames of each image.
        paths: The paths of each image.
    """
    confidences: list[list[float]] = [[] for _ in paths]
    for rank in range(max(map(len, paths))):
        indices = [i for i, image_paths in enumerate(paths) if rank < len(image_paths)]
        labels = [paths[i][rank].codes for i in indices]
        log_prob_B = ctc.log_likelihoods(calibrated_TBK[:, indices], frames_B[indices], labels)
        for i, probability in zip(indices, log_prob_B.exp().tolist(), strict=True):
            confidences[i].append(min(1.0, probability))
    return confidences
