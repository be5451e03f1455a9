"""Model directory <-> images to transcriptions: the one way from a trained network to text.

A model directory holds `model.safetensors`, `config.json`, `alphabet.json`, `metrics.json`, `calibration.json` and
`README.md`, and is all that evaluation, prediction, export and serving need. Nothing in it is executed on load.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raycrnn import __version__, config, storage
from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.image import ImageInput, PreparedImage
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model import ctc, model_dir, runtime
from raycrnn.model.calibration import Calibration, temper
from raycrnn.model.crnn import CRNN
from raycrnn.model.decoding import Outputs, decode, path_confidences, sequence_score
from raycrnn.model.model_dir import FILES
from raycrnn.model.transcription import Alternative, Transcription, Unit
from raycrnn.storage import replace_directory

MOST_PIXELS = {"cpu": 2**17, "cuda": 2**21}
"""Pixels of a forward pass, padding included. What a CPU works on must stay in its caches: with 8 lines of 32 × 512 the
full network reads a quarter more lines a second than with 32 of them, and twice as many as with one (2 threads)."""


class Recognizer:
    """A trained network with its alphabet and preprocessing. `Recognizer.load(path)(images)` reads images."""

    def __init__(
        self,
        network: CRNN,
        configuration: config.Configuration,
        alphabet: Alphabet,
        metrics: dict,
        device: torch.device | None = None,
        calibration: Calibration | None = None,
    ):
        self.device = device or torch.device("cpu")
        self.network = runtime.to_device(network, self.device).eval()
        self.configuration = configuration
        self.alphabet = alphabet
        self.metrics = metrics
        self.calibration = calibration or Calibration()

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", overrides: Sequence[str] = ()) -> "Recognizer":
        """Load a model directory, by path or URI.

        Args:
            device: auto (a GPU if there is one), cpu, cuda, cuda:1 …
            overrides: `decoding.key=value`, `data.key=value`.

        Raises:
            UsageError: no model directory, or an override that is not valid.
            RaycrnnError: files in it that are missing, damaged or do not fit each other.
        """
        for override in overrides:
            if not override.startswith(("decoding.", "data.")):
                raise UsageError(f"{override}: of a trained model only decoding.* and data.* can be changed")
        with storage.copied(path, FILES) as folder:
            return cls._load(folder, str(path), device, overrides)

    @classmethod
    def _load(cls, folder: Path, path: str, device: str, overrides: Sequence[str]) -> "Recognizer":
        if not (folder / "model.safetensors").is_file():
            raise UsageError(f"{path}: no model directory: it holds no model.safetensors")
        missing = [name for name in ("config.json", "alphabet.json", "metrics.json") if not (folder / name).is_file()]
        if missing:
            raise RaycrnnError(f"{path}: the model directory lacks {', '.join(missing)}: copy it again, whole")
        tree = config.read_json_object(folder / "config.json")
        configuration = config.parse(tree, tuple(overrides), storage.join(path, "config.json"))
        alphabet = Alphabet.load(folder / "alphabet.json", configuration.data.unicode_form)
        network = CRNN.from_settings(configuration.model, configuration.image, len(alphabet) + 1)
        try:
            network.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise RaycrnnError(f"{path}/model.safetensors: damaged, or of another model: {error}") from None
        if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
            raise RaycrnnError(f"{path}/model.safetensors: weights that are not finite: its training diverged")
        metrics = config.read_json_object(folder / "metrics.json")
        return cls(network, configuration, alphabet, metrics, _device(device), model_dir.read_calibration(folder))

    def save(self, path: Path) -> None:
        """Write the model directory; a reader sees the old one or the new one, never a mixture."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            self._write_files(temporary)
            replace_directory(temporary, path)
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
            "calibration.json": self.calibration.to_json(),
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

    @property
    def max_batch_pixels(self) -> int:
        """of a forward pass, padding included"""
        return MOST_PIXELS.get(self.device.type, MOST_PIXELS["cpu"])

    @property
    def max_alternatives(self) -> int:
        """Readings that its way of decoding finds in an image, at most."""
        decoding = self.configuration.decoding
        return 1 if decoding.method == "greedy" else decoding.beam_width

    def prepare(self, given: ImageInput, max_pixels: int = image.MAX_PIXELS) -> PreparedImage:
        """An image as `transcribe` takes it. Raises `samples.Rejected`."""
        settings = self.configuration.image
        return image.prepare_image(given, settings.input_shape, settings.input_channels, max_pixels)

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        n_best: int | None = None,
        spans: bool = True,
        log_probs: bool = False,
    ) -> list[Transcription]:
        """Read images: one or many, given as paths or URIs, as files' bytes, as Pillow's or as uint8 arrays.

        Raises `samples.Rejected` for what is no image; for the rest see `transcribe`.
        """
        many = images if isinstance(images, Sequence) and not isinstance(images, str | bytes) else [images]
        return self.transcribe([self.prepare(item) for item in many], n_best, spans, log_probs)

    def transcribe(
        self, lines: Sequence[PreparedImage], n_best: int | None = None, spans: bool = True, log_probs: bool = False
    ) -> list[Transcription]:
        """Read prepared images, in batches of like width; what is read does not depend on which are read together.

        Args:
            n_best: readings an image, at most; default: `decoding.num_beam_paths`.
            spans: whether to tell of each unit where it stands, and how sure it is.
            log_probs: whether to return the network's log-probabilities by frame as well.

        Returns:
            The transcriptions in the order of the lines.

        Raises:
            UsageError: more readings than the model's way of decoding finds.
            RaycrnnError: the network gives what is no number.
        """
        decoding = self.configuration.decoding
        if n_best is not None:
            if not 1 <= n_best <= self.max_alternatives:
                raise UsageError(f"{n_best} readings: {decoding.method} decoding finds 1 to {self.max_alternatives}")
            decoding = decoding.model_copy(update={"num_beam_paths": n_best})
        results: list[Transcription | None] = [None] * len(lines)
        for outputs in self.log_probs([line.pixels for line in lines]):
            own = [lines[i] for i in outputs.indices]
            for i, transcription in zip(outputs.indices, self._read(own, outputs, decoding, spans), strict=True):
                if log_probs:
                    frames = image.frames(lines[i].pixels.shape[1])
                    own_TK = outputs.log_probs_TBK[:frames, outputs.indices.index(i)].cpu().numpy()
                    transcription = replace(transcription, log_probs=own_TK)
                results[i] = transcription
        return results

    def log_probs(self, images: Sequence[np.ndarray]) -> "Iterator[Outputs]":
        """What the network gives for prepared images, in batches of like width.

        Raises `RaycrnnError` where that is no numbers: its weights overflow.
        """
        height = self.configuration.image.input_shape[0]
        for indices in batches_by_width([array.shape[1] for array in images], height, self.max_batch_pixels):
            images_BCHW, widths_B = map(torch.from_numpy, image.collate([images[i] for i in indices]))
            with torch.inference_mode():
                log_probs_TBK, frames_B = self.network(images_BCHW.to(self.device), widths_B.to(self.device))
                # Nothing behind would notice: what is no number is neither more nor less than another.
                if log_probs_TBK.isnan().any():
                    raise RaycrnnError("the network gives what is no number (NaN): its weights overflow; train it anew")
            yield Outputs(tuple(indices), log_probs_TBK, frames_B)

    def _read(
        self, lines: Sequence[PreparedImage], outputs: "Outputs", decoding: config.Decoding, spans: bool
    ) -> Iterator[Transcription]:
        """The transcriptions of a batch."""
        paths = decode(outputs, decoding)
        shown = [each[: decoding.num_beam_paths] for each in paths]
        tempered_TBK = temper(outputs.log_probs_TBK, self.calibration.temperature)
        confidences = path_confidences(tempered_TBK, outputs.frames_B, shown)
        units = [None] * len(lines)
        if spans:
            units = self._units(lines, tempered_TBK, outputs.frames_B, [best.codes for best, *_ in paths])
        for line, all_paths, own_paths, own_units, sure in zip(lines, paths, shown, units, confidences, strict=True):
            alternatives = tuple(
                Alternative("".join(self.alphabet.decode(path.codes)), path.codes, path.log_prob, each)
                for path, each in zip(own_paths, sure, strict=True)
            )
            yield Transcription(alternatives, sequence_score(all_paths, decoding), own_units, line.name)

    def _units(
        self, lines: Sequence[PreparedImage], tempered_TBK: Tensor, frames_B: Tensor, labels: Sequence[Sequence[int]]
    ) -> list[tuple[Unit, ...]]:
        """The units of each image's best reading: where they stand and how sure they are."""
        spans = ctc.align(tempered_TBK, frames_B, labels)
        found = []
        for i, (line, label, ranges) in enumerate(zip(lines, labels, spans, strict=True)):
            sure = tempered_TBK[:, i].exp().cpu().numpy()
            columns = image.spans(ranges, line.pixels.shape, line.original_width)
            found.append(
                tuple(
                    Unit(self.alphabet.units[code], code, float(sure[first:end, code].max()), *span)
                    for code, (first, end), span in zip(label, ranges, columns, strict=True)
                )
            )
        return found


def batches_by_width(widths: Sequence[int], height: int, most_pixels: int) -> list[list[int]]:
    """Indices grouped by like width, each group at most so many pixels when padded."""
    batches: list[list[int]] = []
    for index in sorted(range(len(widths)), key=widths.__getitem__):
        # Sorted, so the newcomer is the widest and decides the padding.
        if batches and (len(batches[-1]) + 1) * widths[index] * height <= most_pixels:
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
