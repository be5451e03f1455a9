"""Beam search with and without a language model, compared with other decoders on the same log-probabilities."""

import json
import math
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raycrnn import bench
from raycrnn.bench import decode_lexicon, other_decoders
from raycrnn.bench.decode_timing import batches_of_prediction, seconds
from raycrnn.cli import Command, Metavar
from raycrnn.errors import RaycrnnError
from raycrnn.language import kneser_ney
from raycrnn.language.automaton import Automaton
from raycrnn.language.order import DEFAULT_ORDER
from raycrnn.model import ctc, fused_search, runtime

LARGE = 7000
"""Number of classes from which beam search has a limit of its own."""

RATIOS = {"pyctcdecode": "≥ 10", "fast-ctc-decode": "≥ 0.7"}
"""The limit of each other decoder: its time per frame, divided by that of beam search."""

EXTENSIONS = {"pyctcdecode": 4_000_000, "fast-ctc-decode": 10_000_000}
"""Number of extensions of a prefix by a unit that the decoder computes in a measurement, at most."""

TREE_BYTES = 2 * 2**30
"""Memory that fast-ctc-decode may use for a line."""


class DecodeBench(Command):
    """Measure microseconds per frame of beam search, with and without a language model, greedy decoding and others.

    All decode the same lines: random log-probabilities, with peaks, like those of a trained network, or flat. Beam
    search gets them in batches as large as those of prediction. The limits: beam search ≥ 10 × as fast as pyctcdecode
    and ≥ 0.7 × as fast as fast-ctc-decode, with the same best transcriptions.

    The other decoders need environments of their own, because pyctcdecode requires NumPy < 2. They are left out if no
    Python is given for them. To make the environments:

      python -m venv pyctc && pyctc/bin/pip install pyctcdecode
      python -m venv fast && fast/bin/pip install fast-ctc-decode numpy

    They search with the same beam width and without pruning, on one thread. They get fewer and shorter lines for large
    alphabets, because pyctcdecode would take hours, and the tree of fast-ctc-decode has classes² × 4 bytes per prefix
    and frame; it is left out if two frames do not fit into 2 GiB.
    """

    classes: Annotated[str, Metavar("N,N,...")] = Field(
        "80,800,8000", pattern=r"^([2-9]|[1-9]\d+)(,([2-9]|[1-9]\d+))*$"
    )
    """Numbers of classes, with the blank, separated by commas."""
    frames: Annotated[str, Metavar("N,N,...")] = Field("60,250", pattern=r"^[1-9]\d*(,[1-9]\d*)*$")
    """Numbers of frames of a line, separated by commas."""
    data: Literal["peaks", "flat"] = "peaks"
    """Kind of log-probabilities."""
    width: int = Field(100, ge=2)
    """Beam width."""
    lines: int = Field(16, ge=1)
    """Number of lines."""
    lexicon: bool = False
    """Also measure decoding with a lexicon of 50,000 entries, on lines that spell entries."""
    threads: int | None = Field(None, ge=1)
    """Number of CPU threads. Default: one for each usable core."""
    rounds: int = Field(3, ge=1)
    """Number of measurements of each side."""
    pyctcdecode_python: Path | None = None
    """Python of an environment in which pyctcdecode is installed."""
    fast_ctc_decode_python: Path | None = None
    """Python of an environment in which fast-ctc-decode is installed."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)
        else:
            runtime.limit_threads()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        figures: list[bench.Figure] = []
        for classes in map(int, self.classes.split(",")):
            for frames in map(int, self.frames.split(",")):
                log_probs_TBK = random_log_probs(frames, self.lines, classes, self.data == "peaks")
                figures += self._measure(log_probs_TBK.to(device))
                if self.lexicon and classes < LARGE:
                    figures += decode_lexicon.figures(frames, self.lines, classes, self.width, self.rounds)
        where = f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
        bench.report(f"decode, per frame: {self.data}, beam width {self.width}, {where}", figures, self.json_line)

    def _measure(self, log_probs_TBK: Tensor) -> Iterator[bench.Figure]:
        """Yield the figures for some lines."""
        frames, lines, classes = log_probs_TBK.shape
        pythons = {"pyctcdecode": self.pyctcdecode_python, "fast-ctc-decode": self.fast_ctc_decode_python}
        others = [
            OtherDecoder(name, python, cut)
            for name, python in pythons.items()
            if python and (cut := cut_lines(name, log_probs_TBK, self.width)) is not None
        ]
        batches = list(batches_of_prediction(log_probs_TBK))
        names = ("beam search", "with a language model", "greedy", *pythons)
        times: dict[str, list[float]] = {name: [] for name in names}
        fusion = random_fusion(classes - 1)
        same: dict[str, float] = {}
        for _ in range(self.rounds):
            beam = seconds(lambda batch: ctc.beam_search(*batch, self.width), batches)
            fused = seconds(lambda batch: fused_search.beam_search(*batch, fusion, self.width), batches)
            greedy = seconds(lambda batch: ctc.greedy(*batch), batches)
            times["beam search"].append(1e6 * beam / (frames * lines))
            times["with a language model"].append(1e6 * fused / (frames * lines))
            times["greedy"].append(1e6 * greedy / (frames * lines))
            for other in others:
                per_frame, same[other.name] = other.measure(self.width)
                times[other.name].append(1e6 * per_frame)
        case = f"K={classes} T={frames}"
        limit = "≤ 1300" if classes >= LARGE else ""
        yield bench.Figure(f"{case} beam search", statistics.median(times["beam search"]), "µs", limit)
        fused = statistics.median(times["with a language model"])
        yield bench.Figure(f"{case} beam search with a language model", fused, "µs")
        yield bench.Figure(f"{case} greedy", statistics.median(times["greedy"]), "µs")
        for other in others:
            frames, lines, _ = other.log_probs_TBK.shape
            time = statistics.median(times[other.name])
            ratio = bench.median_ratio(times[other.name], times["beam search"])
            yield bench.Figure(f"{case} {other.name}", time, "µs", f"({lines} × {frames} frames)")
            yield bench.Figure(f"{case} speed over {other.name}", ratio, "", RATIOS[other.name])
            yield bench.Figure(f"{case} same text as {other.name}", 100 * same[other.name], "%", "100")


def random_fusion(units: int) -> fused_search.Fusion:
    """Return a language model of random lines, for as many units."""
    random = np.random.default_rng(0)
    # Few units are frequent, as in real text.
    drawn = np.minimum(random.zipf(1.3, (2000, 40)) - 1, units - 1)
    alphabet = [chr(other_decoders.FIRST + unit) for unit in range(units)]
    model = kneser_ney.estimate([[alphabet[unit] for unit in line] for line in drawn], DEFAULT_ORDER, alphabet)
    return fused_search.Fusion(Automaton(model, alphabet), 0.5, 0.5)


def random_log_probs(frames: int, lines: int, classes: int, peaks: bool) -> Tensor:
    """Return log-probabilities [T, B, K], with peaks like those of a trained network, or flat.

    A network that is trained with CTC is nearly certain in most frames: of the blank in three of four, and of a unit,
    for one or two frames, in the others.
    """
    generator = torch.Generator().manual_seed(0)
    # In memory, the network's outputs are in the order B, T, K.
    logits_TBK = torch.randn(lines, frames, classes, generator=generator).transpose(0, 1)
    if not peaks:
        return logits_TBK.log_softmax(2)
    # The others have together about 1 / (1 + e⁴) where one is certain.
    others = math.log(classes) + 2
    certainty_TB = others + 6 * torch.rand(frames, lines, generator=generator)
    unit_TB = torch.randint(0, max(1, classes - 1), (frames, lines), generator=generator)
    is_unit_TB = torch.rand(frames, lines, generator=generator) < 0.25
    logits_TBK *= 2
    logits_TBK[:, :, -1] = torch.where(is_unit_TB, others, others + 4)
    best_TB1 = unit_TB.where(is_unit_TB, classes - 1)[:, :, None]
    return logits_TBK.scatter_(2, best_TB1, certainty_TB[:, :, None] + 2).log_softmax(2)


def cut_lines(decoder: str, log_probs_TBK: Tensor, width: int) -> Tensor | None:
    """Return the lines that another decoder can search in reasonable time and memory; None if it can search none."""
    frames, _, classes = log_probs_TBK.shape
    affordable = max(2, EXTENSIONS[decoder] // (width * classes))
    frames = min(frames, affordable)
    if decoder == "fast-ctc-decode":
        # The first frame extends only the empty prefix.
        frames = min(frames, 1 + TREE_BYTES // (4 * width * classes**2))
        if frames < 2:
            return None
    return log_probs_TBK[:frames, : max(1, affordable // frames)]


@dataclass(frozen=True)
class OtherDecoder:
    """A decoder of another project."""

    name: str
    python: Path
    """Python of the environment in which it is installed."""
    log_probs_TBK: Tensor
    """The lines that it searches."""

    def measure(self, width: int) -> tuple[float, float]:
        """Return the seconds per frame, and the share of lines with the same best transcription as raycrnn's."""
        frames, lines, _ = self.log_probs_TBK.shape
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file, self.log_probs_TBK.transpose(0, 1).cpu().numpy())
            file.flush()
            # Isolated: otherwise the modules beside the file would replace others of the same name.
            command = [str(self.python), "-I", other_decoders.__file__, self.name, file.name, str(width)]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RaycrnnError(f"{self.name} failed in {self.python}: {done.stderr.strip().splitlines()[-1]}")
        result = json.loads(done.stdout.splitlines()[-1])
        frames_B = torch.full((lines,), frames, device=self.log_probs_TBK.device)
        own = ctc.beam_search(self.log_probs_TBK, frames_B, width)
        same = [list(paths[0].codes) == codes for paths, codes in zip(own, result["codes"], strict=True)]
        return result["seconds"] / (frames * lines), statistics.mean(same)


if __name__ == "__main__":
    DecodeBench.main(name="bench decode")
