"""Model directory <-> images to transcriptions: the one way from a trained network to text.

A model directory holds `model.safetensors`, `config.json`, `alphabet.json`, `metrics.json` and `README.md`,
and is all that evaluation, prediction, export and serving need. Nothing in it is executed on load.
"""

import ctypes
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from raycrnn import __version__, config, ctc, image, learning
from raycrnn.alphabet import Alphabet
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model import CRNN

MOST_PIXELS = 32 * 32 * 512
"""Pixels of a forward pass, padding included: 32 lines of 32 × 512."""


@dataclass(frozen=True)
class Alternative:
    """One reading of an image."""

    text: str
    codes: tuple[int, ...]
    log_prob: float
    """natural logarithm of its probability (CTC)"""


@dataclass(frozen=True)
class Transcription:
    """What was read in one image."""

    alternatives: tuple[Alternative, ...]
    """best first; at least one"""
    score: float | None
    """gap of log-probability between the two best readings; None for greedy decoding, infinity where only one
    reading is possible"""

    @property
    def text(self) -> str:
        return self.alternatives[0].text

    @property
    def codes(self) -> tuple[int, ...]:
        return self.alternatives[0].codes

    @property
    def log_prob(self) -> float:
        return self.alternatives[0].log_prob

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> "Transcription":
        alternatives = [{**each, "codes": tuple(each["codes"])} for each in values["alternatives"]]
        return cls(tuple(Alternative(**each) for each in alternatives), values["score"])


class Recognizer:
    """A trained network with its alphabet and preprocessing. `Recognizer.load(path)(images)` reads images."""

    def __init__(
        self,
        network: CRNN,
        configuration: config.Configuration,
        alphabet: Alphabet,
        metrics: dict,
        device: torch.device | None = None,
    ):
        self.device = device or torch.device("cpu")
        self.network = learning.place(network, self.device).eval()
        self.configuration = configuration
        self.alphabet = alphabet
        self.metrics = metrics

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", overrides: Sequence[str] = ()) -> "Recognizer":
        """Load a model directory.

        Args:
            device: auto (a GPU if there is one), cpu, cuda, cuda:1 …
            overrides: `decoding.key=value`, `data.key=value`.

        Raises:
            UsageError: no model directory, or an override that is not valid.
            RaycrnnError: files in it that are missing, damaged or do not fit each other.
        """
        path = Path(path)
        if not (path / "model.safetensors").is_file():
            raise UsageError(f"{path}: no model directory: it holds no model.safetensors")
        missing = [name for name in ("config.json", "alphabet.json", "metrics.json") if not (path / name).is_file()]
        if missing:
            raise RaycrnnError(f"{path}: the model directory lacks {', '.join(missing)}: copy it again, whole")
        for override in overrides:
            if not override.startswith(("decoding.", "data.")):
                raise UsageError(f"{override}: of a trained model only decoding.* and data.* can be changed")
        tree = config.read_json_object(path / "config.json")
        configuration = config.parse(tree, tuple(overrides), str(path / "config.json"))
        alphabet = Alphabet.load(path / "alphabet.json", configuration.data.unicode_form)
        network = CRNN.from_settings(configuration.model, configuration.image, len(alphabet) + 1)
        try:
            network.load_state_dict(safetensors.torch.load_file(path / "model.safetensors"))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise RaycrnnError(f"{path}/model.safetensors: damaged, or of another model: {error}") from None
        if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
            raise RaycrnnError(f"{path}/model.safetensors: weights that are not finite: its training diverged")
        metrics = config.read_json_object(path / "metrics.json")
        return cls(network, configuration, alphabet, metrics, _device(device))

    def save(self, path: Path) -> None:
        """Write the model directory; a reader sees the old one or the new one, never a mixture."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            self._write_files(temporary)
            _replace_directory(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write_files(self, folder: Path) -> None:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        # Not save_file, whose errors are not OSErrors.
        (folder / "model.safetensors").write_bytes(safetensors.torch.save(tensors))
        texts = {
            "config.json": self.configuration.model_dump_json(indent=2),
            "alphabet.json": self.alphabet.to_json(),
            "metrics.json": json.dumps(self.metrics, indent=2),
            "README.md": self._readme(),
        }
        for name, text in texts.items():
            (folder / name).write_text(text + "\n", encoding="utf-8")

    def _readme(self) -> str:
        scores = "\n".join(f"- {name}: {value}" for name, value in self.metrics.items())
        height, width = self.configuration.image.input_shape
        return (
            f"# A raycrnn text recogniser\n\n"
            f"Reads images of one text line, scaled to a height of {height} pixels and at most {width} wide, "
            f"in {len(self.alphabet)} units. Trained by raycrnn {__version__}.\n\n"
            f"    python -m raycrnn.predict . images/ -o transcriptions.csv\n"
            f"    python -m raycrnn.evaluate . data.csv\n\n"
            f"## When it was trained\n\n{scores}"
        )

    def prepare(self, data: bytes) -> np.ndarray:
        """From an image file's bytes to uint8 [H, W, C] as `transcribe` takes it. Raises `samples.Rejected`."""
        settings = self.configuration.image
        return image.prepare(data, settings.input_shape, settings.input_channels)

    def __call__(self, images: Sequence[str | Path | bytes]) -> list[Transcription]:
        """Read images given as paths or as the bytes of files. Raises `samples.Rejected`."""
        return self.transcribe(
            [self.prepare(item if isinstance(item, bytes) else image.read_bytes(str(item))) for item in images]
        )

    def transcribe(self, images: Sequence[np.ndarray]) -> list[Transcription]:
        """Read prepared images, in batches of like width; the order of the results is theirs."""
        results: list[Transcription | None] = [None] * len(images)
        decoding = self.configuration.decoding
        for outputs in self.log_probs(images):
            for i, paths in zip(outputs.indices, decode(outputs, decoding), strict=True):
                results[i] = self._transcription(paths, scored=decoding.method == "beam")
        return results

    def log_probs(self, images: Sequence[np.ndarray]) -> "Iterator[Outputs]":
        """What the network gives for prepared images, in batches of like width."""
        for indices in batches_by_width([array.shape[1] for array in images], self.configuration.image.input_shape[0]):
            images_BCHW, widths_B = map(torch.from_numpy, image.collate([images[i] for i in indices]))
            with torch.inference_mode():
                log_probs_TBK, frames_B = self.network(images_BCHW.to(self.device), widths_B.to(self.device))
            yield Outputs(tuple(indices), log_probs_TBK, frames_B)

    def _transcription(self, paths: Sequence[ctc.Path], scored: bool) -> Transcription:
        alternatives = tuple(
            Alternative("".join(self.alphabet.decode(path.codes)), path.codes, path.log_prob)
            for path in paths[: self.configuration.decoding.num_beam_paths]
        )
        if not scored:
            return Transcription(alternatives, None)
        gap = paths[0].log_prob - paths[1].log_prob if len(paths) > 1 else float("inf")
        return Transcription(alternatives, gap)


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


def is_override(text: str) -> bool:
    """Whether a word on the command line is a `key=value` of the configuration, rather than a path."""
    key, equals, _ = text.partition("=")
    return bool(equals) and key.partition(".")[0] in config.Configuration.model_fields and not os.path.exists(text)


def batches_by_width(widths: Sequence[int], height: int) -> list[list[int]]:
    """Indices grouped by like width, each group at most `MOST_PIXELS` when padded."""
    batches: list[list[int]] = []
    for index in sorted(range(len(widths)), key=widths.__getitem__):
        # Sorted, so the newcomer is the widest and decides the padding.
        if batches and (len(batches[-1]) + 1) * widths[index] * height <= MOST_PIXELS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used: {error}") from None
    return device


def _replace_directory(new: Path, old: Path) -> None:
    """Put a directory in the place of another, in one step where the system can exchange two names."""
    if not old.exists():
        new.rename(old)
        return
    if not _exchange(new, old):
        aside = new.with_name(new.name + ".old")
        old.rename(aside)
        new.rename(old)
        new = aside
    shutil.rmtree(new)


def _exchange(first: Path, second: Path) -> bool:
    """Linux's renameat2(2) with RENAME_EXCHANGE; False where the system or the file system lacks it."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    working_directory, exchange = -100, 2
    return (
        renameat2 is not None
        and renameat2(working_directory, os.fsencode(first), working_directory, os.fsencode(second), exchange) == 0
    )
