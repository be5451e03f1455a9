"""Transcribe images with a trained network.

All verbs, the server and the Python API use this one path from images to text.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from raycrnn import config
from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.image import ImageInput, PreparedImage
from raycrnn.data.lexicon import Lexicon
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language.automaton import Automaton, describe_unknown
from raycrnn.language.ngram_model import NgramModel
from raycrnn.model import model_dir, model_files, runtime
from raycrnn.model.calibration import Calibration
from raycrnn.model.crnn import CRNN
from raycrnn.model.decoding import LineDecoder, Outputs
from raycrnn.model.lexicon_decoding import coded
from raycrnn.model.output_transcription import transcribe_outputs
from raycrnn.model.rereading import read_doubtful_again
from raycrnn.model.transcription import Transcription

logger = logging.getLogger(__name__)

MAX_BATCH_PIXELS = {"cpu": 2**17, "cuda": 2**21}
"""Pixels of a batch, with padding, by type of device. On a CPU, the activations must fit into its caches: with 8 lines
of 32 × 512, the full network reads a quarter more lines per second than with 32, and twice as many as with one (2
threads)."""


class Recognizer:
    """A trained model that transcribes images of text lines.

    `Recognizer.load` reads a model directory; calling the recognizer transcribes images. The network is a CRNN (Shi et
    al. 2015, https://arxiv.org/abs/1507.05717), whose outputs are decoded by CTC (Graves et al. 2006,
    https://doi.org/10.1145/1143844.1143891).

    Args:
        network: The network.
        configuration: The configuration that it was trained with.
        alphabet: The units of its outputs.
        metrics: Its scores, as they are written to metrics.json.
        device: The device to compute on; default: the CPU.
        calibration: The calibration of its confidences; default: none.
        language_model: The language model of beam search; default: none.
        lexicon: The lexicon to which texts are restricted; default: none.

    Examples:
        >>> from raycrnn import Recognizer
        >>> recognizer = Recognizer.load("output/model")
        >>> for transcription in recognizer(["a.png", "b.png"]):
        ...     print(transcription.name, transcription.text, transcription.confidence)
        a.png quondam 0.97
        b.png die 0.99
    """

    def __init__(
        self,
        network: CRNN,
        configuration: config.Configuration,
        alphabet: Alphabet,
        metrics: dict[str, float],
        device: torch.device | None = None,
        calibration: Calibration | None = None,
        language_model: NgramModel | None = None,
        lexicon: Lexicon | None = None,
    ):
        self.device = device or torch.device("cpu")
        """The device on which the network computes."""
        self.network = runtime.to_device(network, self.device).eval()
        """The network, in evaluation mode."""
        self.configuration = configuration
        """The configuration of the model; `configuration.decoding` sets how outputs are decoded."""
        self.alphabet = alphabet
        """The units of the network's outputs."""
        self.metrics = metrics
        """The scores of the model in training."""
        self.calibration = calibration or Calibration()
        """The calibration of confidences."""
        self.language_model = language_model
        """The language model, if there is one."""
        automaton = Automaton(language_model, alphabet.units) if language_model else None
        self.decoder = LineDecoder(
            configuration.decoding,
            alphabet,
            automaton,
            coded(lexicon, configuration, alphabet) if lexicon else None,
        )
        """Decodes the network's outputs."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        overrides: Sequence[str] = (),
        language_model: NgramModel | None = None,
        lexicon: Lexicon | Sequence[str] | None = None,
    ) -> "Recognizer":
        """Load a model directory.

        Args:
            path: Path or URI of the directory, or the name of a model that comes with raycrnn: "latin" or "latin48".
            device: A PyTorch device such as "cpu", "cuda" or "cuda:1"; "auto" is a GPU if there is one.
            overrides: Settings that replace those of the model: "decoding.key=value" or "data.key=value".
            language_model: The language model that overrides name. By default it is read.
            lexicon: The entries of a lexicon, which replaces that of the model or of the overrides, and the language
                model. An entry is written as in a lexicon file.

        Raises:
            UsageError: There is no model directory, or an override, the device or the lexicon is invalid.
            RaycrnnError: Files of the model directory are missing, damaged or inconsistent.

        Examples:
            >>> Recognizer.load("s3://bucket/run/model", "cpu", ["decoding.beam_width=20"])
        """
        model_files.check_overrides(overrides)
        model = model_dir.read(path, overrides, language_model, lexicon if isinstance(lexicon, Lexicon) else None)
        if lexicon is not None and not isinstance(lexicon, Lexicon):
            lexicon = Lexicon.of(lexicon, model.configuration.data)
        recognizer = cls(
            model.network,
            model.configuration,
            model.alphabet,
            model.metrics,
            _device(device),
            model.calibration,
            model.language_model,
            lexicon or model.lexicon,
        )
        if recognizer.decoder.language_model and (unknown := recognizer.decoder.language_model.unknown):
            logger.info(f"{path}: {describe_unknown(unknown)}")
        return recognizer

    def save(self, path: Path) -> None:
        """Write a model directory, without the language model if a lexicon replaces it.

        A reader finds either the old directory or the new one.

        Args:
            path: The directory; it is replaced if it exists.

        Raises:
            OSError: The directory cannot be written.
        """
        more = self.calibration, None if self.lexicon else self.language_model, self.lexicon
        stored = model_dir.StoredModel(self.network, self.configuration, self.alphabet, self.metrics, *more)
        model_dir.write(path, stored)

    @property
    def lexicon(self) -> Lexicon | None:
        """The lexicon, without the entries that the model cannot read; None if there is none."""
        return self.decoder.lexicon.lexicon if self.decoder.lexicon else None

    @property
    def max_batch_pixels(self) -> int:
        """Number of pixels that a batch can have, with padding."""
        return MAX_BATCH_PIXELS.get(self.device.type, MAX_BATCH_PIXELS["cpu"])

    @property
    def max_alternatives(self) -> int:
        """Number of alternatives that decoding can return for an image: 1 if greedy, else the beam width."""
        return self.decoder.max_paths

    def prepare(self, source: ImageInput, max_pixels: int = image.MAX_PIXELS) -> PreparedImage:
        """Decode an image and fit it to the network's input, for `transcribe`.

        Args:
            source: The image: a path or URI, the bytes of an image file, a Pillow image, or an array uint8 [H, W],
                [H, W, 1], [H, W, 3] or [H, W, 4].
            max_pixels: Images with more pixels are rejected.

        Raises:
            Rejected: The image cannot be read or used.
        """
        settings = self.configuration.image
        orientation = self.configuration.data.line_orientation
        return image.prepare_image(source, settings.input_shape, settings.input_channels, max_pixels, orientation)

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        n_best: int | None = None,
        spans: bool = True,
        log_probs: bool = False,
        lexicon: Lexicon | Sequence[str] | None = None,
    ) -> list[Transcription]:
        """Transcribe images.

        Args:
            images: An image or a sequence of images, each of which can be a path or URI, the bytes of an image file, a
                Pillow image, or an array uint8 [H, W], [H, W, 1] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA).
            n_best: Number of alternatives per image, at most; default: the setting `decoding.num_beam_paths`.
            spans: Whether to return the position and the confidence of each unit.
            log_probs: Whether to return the network's log-probabilities of each frame.
            lexicon: The entries of a lexicon, which replaces that of the model, and the language model.

        Returns:
            The transcriptions, in the order of the images.

        Raises:
            Rejected: An image cannot be read or used. To skip such images, call `prepare` for each image, and
                `transcribe`.
            UsageError: `n_best` is less than 1 or greater than `max_alternatives`, or the lexicon is invalid.
            RaycrnnError: The network produces NaN.
        """
        many = images if isinstance(images, Sequence) and not isinstance(images, str | bytes) else [images]
        return self.transcribe([self.prepare(source) for source in many], n_best, spans, log_probs, lexicon)

    def transcribe(
        self,
        images: Sequence[PreparedImage],
        n_best: int | None = None,
        spans: bool = True,
        log_probs: bool = False,
        lexicon: Lexicon | Sequence[str] | None = None,
    ) -> list[Transcription]:
        """Transcribe prepared images, in batches of similar width.

        The result for an image does not depend on the other images. As `decoding.readings` says, doubtful lines are
        read again at other widths; the log-probabilities are then those of the reading that counts.

        Args:
            images: Results of `prepare`.
            n_best: Number of alternatives per image, at most; default: the setting `decoding.num_beam_paths`.
            spans: Whether to return the position and the confidence of each unit.
            log_probs: Whether to return the network's log-probabilities of each frame.
            lexicon: The entries of a lexicon, which replaces that of the model, and the language model.

        Returns:
            The transcriptions, in the order of the images.

        Raises:
            UsageError: `n_best` is less than 1 or greater than `max_alternatives`, or the lexicon is invalid.
            RaycrnnError: The network produces NaN.
        """
        decoder = self.decoder
        if lexicon is not None:
            decoder = replace(decoder, lexicon=coded(lexicon, self.configuration, self.alphabet))
        if n_best is not None:
            decoder = decoder.with_paths(n_best)
        read = partial(self._read, decoder=decoder, spans=spans, log_probs=log_probs)
        return read_doubtful_again(images, read, decoder.settings.most_readings)

    def _read(
        self, images: Sequence[PreparedImage], decoder: LineDecoder, spans: bool, log_probs: bool
    ) -> list[Transcription]:
        """Transcribe prepared images, each once."""
        results: dict[int, Transcription] = {}
        for outputs in self.log_probs([prepared.pixels for prepared in images]):
            batch = [images[i] for i in outputs.indices]
            orientation = self.configuration.data.line_orientation
            transcriptions = transcribe_outputs(batch, outputs, decoder, self.calibration, orientation, spans)
            for position, (i, transcription) in enumerate(zip(outputs.indices, transcriptions, strict=True)):
                if log_probs:
                    frames = image.frames(images[i].pixels.shape[1])
                    log_probs_TK = outputs.log_probs_TBK[:frames, position].cpu().numpy()
                    transcription = replace(transcription, log_probs=log_probs_TK)
                results[i] = transcription
        return [results[i] for i in range(len(images))]

    def log_probs(self, images: Sequence[np.ndarray]) -> Iterator[Outputs]:
        """Yield the network's outputs for prepared images, in batches of similar width.

        Args:
            images: Arrays uint8 [H, W, C], the `pixels` of prepared images.

        Raises:
            RaycrnnError: The network produces NaN.
        """
        height = self.configuration.image.input_shape[0]
        widths = [array.shape[1] for array in images]
        for indices in batches_by_width(widths, height, self.max_batch_pixels):
            images_BCHW, widths_B = map(torch.from_numpy, image.collate([images[i] for i in indices]))
            with torch.inference_mode():
                log_probs_TBK, frames_B = self.network(images_BCHW.to(self.device), widths_B.to(self.device))
                # Checked here, because decoding does not fail on NaN.
                if log_probs_TBK.isnan().any():
                    raise RaycrnnError("the network produced NaN: its weights overflowed; retrain the model")
            yield Outputs(tuple(indices), log_probs_TBK, frames_B)


def batches_by_width(widths: Sequence[int], height: int, max_pixels: int) -> list[list[int]]:
    """Divide images into batches of similar width.

    Args:
        widths: Widths of the images in pixels.
        height: Height of all images in pixels.
        max_pixels: Number of pixels that a batch can have, with padding; a batch of one image can have more.

    Returns:
        The indices of the images in each batch.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(widths)), key=widths.__getitem__):
        # In sorted order, each image is the widest of its batch and determines the padding.
        if batches and (len(batches[-1]) + 1) * widths[index] * height <= max_pixels:
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
