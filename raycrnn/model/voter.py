"""Several models that read the same images and vote."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from raycrnn import config
from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.bidi import display_order
from raycrnn.data.image import ImageInput, PreparedImage
from raycrnn.data.lexicon import Lexicon
from raycrnn.errors import UsageError
from raycrnn.language.ngram_model import NgramModel
from raycrnn.model import ctc, model_files
from raycrnn.model.calibration import Calibration, apply_temperature
from raycrnn.model.decoding import LEXICON_PATHS, path_confidences
from raycrnn.model.model_files import Models
from raycrnn.model.recognizer import Recognizer, batches_by_width
from raycrnn.model.transcription import Alternative, Transcription, Unit
from raycrnn.model.voting import Ballot, VotedUnit, vote, vote_on_texts

Text = tuple[str, ...]
"""Units in logical order."""

LEAST_CONFIDENCE = 1e-300
"""Smaller confidences count as this in log-probabilities, which are then finite."""


@dataclass(frozen=True)
class ImageForVote(PreparedImage):
    """An image as the first model of a vote reads it, and as others do that need another one."""

    others: tuple[PreparedImage, ...] = ()


class Voter:
    """Several trained models that read the same images and vote on each unit, see `voting.vote`.

    If all have a lexicon, they vote on whole texts, because units of several texts could make one that is not in it.

    It is called like a `Recognizer`. The confidence of a text is the mean of the models' calibrated probabilities that
    it is exact; it is 0 for a model whose alphabet lacks one of the units. With a language model or a lexicon, it is
    the mean of the models' confidences, which are 0 if the text is not among the ten best of a model. The alternatives
    are the voted text, and then all others that a model has read, by their confidence. Log-probabilities are the
    logarithms of the confidences.

    Args:
        recognizers: The models, at least one.

    Examples:
        >>> from raycrnn import Voter
        >>> voter = Voter.load("output/model")  # of a run with training.folds
        >>> voter = Voter.load(["print/model", "latin/model"])
        >>> voter("line.png")[0].text
        'quondam'
    """

    def __init__(self, recognizers: Sequence[Recognizer]):
        self.recognizers = tuple(recognizers)
        """The models."""
        self.inputs = tuple(dict.fromkeys(map(_input, recognizers)))
        """The different sizes, channels and orientations of the images that the models read."""
        units = dict.fromkeys(unit for each in recognizers for unit in each.alphabet.units)
        self.alphabet = replace(recognizers[0].alphabet, units=tuple(units))
        """The units of all models."""

    @classmethod
    def load(
        cls,
        models: Models,
        device: str = "auto",
        overrides: Sequence[str] = (),
        language_model: NgramModel | None = None,
        lexicon: Lexicon | Sequence[str] | None = None,
    ) -> "Voter":
        """Load model directories.

        Args:
            models: Paths or URIs of model directories, or of directories that hold several, such as output/model of a
                run with `training.folds`.
            device: A PyTorch device, as for `Recognizer.load`.
            overrides: Settings that replace those of every model: "decoding.key=value" or "data.key=value".
            language_model: The language model that overrides name, for all models. By default it is read.
            lexicon: The lexicon of all models, as for `Recognizer.load`.

        Raises:
            UsageError: There is no model directory, or an override, the device or the lexicon is invalid.
            RaycrnnError: Files of a model directory are missing, damaged or inconsistent.
        """
        if language_model is None:
            # Read once, not by each model.
            language_model = model_files.overridden_language_model(overrides)
        known = language_model, lexicon
        return cls([Recognizer.load(model, device, overrides, *known) for model in model_files.members(models)])

    @property
    def configuration(self) -> config.Configuration:
        """The configuration of the first model."""
        return self.recognizers[0].configuration

    @property
    def metrics(self) -> dict[str, float]:
        """The scores of the models in training, those that all have: the mean of each."""
        names = set.intersection(*(set(each.metrics) for each in self.recognizers)) - {"epoch", "step"}
        return {
            name: math.fsum(each.metrics[name] for each in self.recognizers) / len(self.recognizers)
            for name in self.recognizers[0].metrics
            if name in names
        }

    @property
    def calibration(self) -> Calibration:
        """The calibration of the model that was calibrated on the fewest samples."""
        return min((each.calibration for each in self.recognizers), key=lambda each: each.samples)

    @property
    def language_model(self) -> NgramModel | None:
        """The language model of the first model, if it has one."""
        return self.recognizers[0].language_model

    @property
    def lexicon(self) -> Lexicon | None:
        """The lexicon of the first model, if it has one."""
        return self.recognizers[0].lexicon

    @property
    def max_batch_pixels(self) -> int:
        """Number of pixels that a batch can have, with padding."""
        return min(each.max_batch_pixels for each in self.recognizers)

    @property
    def max_alternatives(self) -> int:
        """Number of alternatives that each model can return for an image."""
        return min(each.max_alternatives for each in self.recognizers)

    def prepare(self, source: ImageInput, max_pixels: int = image.MAX_PIXELS) -> ImageForVote:
        """Decode an image and fit it to the input of each model, for `transcribe`. See `Recognizer.prepare`."""
        by_input = {_input(each): each for each in reversed(self.recognizers)}
        first, *others = (by_input[each].prepare(source, max_pixels) for each in self.inputs)
        return ImageForVote(first.pixels, first.original_size, first.name, tuple(others))

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        n_best: int | None = None,
        spans: bool = True,
        lexicon: Lexicon | Sequence[str] | None = None,
    ) -> list[Transcription]:
        """Transcribe images. See `Recognizer.__call__`."""
        many = images if isinstance(images, Sequence) and not isinstance(images, str | bytes) else [images]
        return self.transcribe([self.prepare(source) for source in many], n_best, spans, lexicon)

    def transcribe(
        self,
        images: Sequence[PreparedImage],
        n_best: int | None = None,
        spans: bool = True,
        lexicon: Lexicon | Sequence[str] | None = None,
    ) -> list[Transcription]:
        """Transcribe prepared images.

        Args:
            images: Results of `prepare`.
            n_best: Number of alternatives per image, at most; default: the setting `decoding.num_beam_paths`.
            spans: Whether to return the position and the confidence of each unit. The position is that of the most
                confident model; the confidence is the sum of those of the models that read the unit, divided by the
                number of models.
            lexicon: The entries of a lexicon, which replaces those of the models, and the language models.

        Returns:
            The transcriptions, in the order of the images.

        Raises:
            UsageError: `n_best` is less than 1 or greater than `max_alternatives`.
            RaycrnnError: A network produces NaN.
        """
        n_best = self.configuration.decoding.num_beam_paths if n_best is None else n_best
        if not 1 <= n_best <= self.max_alternatives:
            raise UsageError(f"n_best={n_best}: these models return 1 to {self.max_alternatives} alternatives")
        height = self.configuration.image.input_shape[0]
        results: dict[int, Transcription] = {}
        # In batches, because the log-probabilities of all models are kept for each.
        for indices in batches_by_width([each.pixels.shape[1] for each in images], height, self.max_batch_pixels):
            batch = [images[index] for index in indices]
            for index, transcription in zip(indices, self._vote(batch, n_best, spans, lexicon), strict=True):
                results[index] = transcription
        return [results[index] for index in range(len(images))]

    def _vote(
        self, images: Sequence[PreparedImage], n_best: int, spans: bool, lexicon: Lexicon | Sequence[str] | None
    ) -> Iterator[Transcription]:
        """Yield the transcription of each image of a batch."""
        # The score needs a second alternative.
        read = max(2, n_best)
        is_restricted = [lexicon is not None or _has_text_model(each) for each in self.recognizers]
        # A lexicon also finds so many in place of greedy decoding.
        limits = [max(each.max_alternatives, LEXICON_PATHS if lexicon is not None else 0) for each in self.recognizers]
        transcriptions = [
            each.transcribe(
                [_image_for(prepared, self.inputs.index(_input(each))) for prepared in images],
                min(limit, max(read, LEXICON_PATHS if restricted else 0)),
                log_probs=True,
                lexicon=lexicon,
            )
            for each, restricted, limit in zip(self.recognizers, is_restricted, limits, strict=True)
        ]
        # Units of several texts of a lexicon could make a text that is not in it.
        all_restricted = lexicon is not None or all(each.lexicon is not None for each in self.recognizers)
        elect = vote_on_texts if all_restricted else vote
        voted = [elect(list(map(_ballot, own))) for own in zip(*transcriptions, strict=True)]
        candidates = [self._candidates(units, own, read) for units, *own in zip(voted, *transcriptions, strict=True)]
        confidences = [
            (alternative_confidences if restricted else text_confidences)(recognizer, own, candidates)
            for recognizer, own, restricted in zip(self.recognizers, transcriptions, is_restricted, strict=True)
        ]
        for index, prepared in enumerate(images):
            means = [math.fsum(each) / len(each) for each in zip(*(own[index] for own in confidences), strict=True)]
            first, *others = map(self._alternative, candidates[index], means)
            others.sort(key=lambda each: (-each.confidence, each.text))
            units = None
            if spans:
                units = self._units(voted[index], [own[index] for own in transcriptions])
            score = first.log_prob - others[0].log_prob if others else None
            yield Transcription((first, *others[: n_best - 1]), score, units, prepared.name)

    def _candidates(
        self, voted: Sequence[VotedUnit], transcriptions: Sequence[Transcription], alternatives: int
    ) -> list[Text]:
        """Return the voted text of an image, and all others among the first alternatives of a model."""
        read = (
            tuple(recognizer.alphabet.decode(alternative.codes))
            for recognizer, transcription in zip(self.recognizers, transcriptions, strict=True)
            for alternative in transcription.alternatives[:alternatives]
        )
        return list(dict.fromkeys((tuple(unit.text for unit in voted), *read)))

    def _alternative(self, text: Text, confidence: float) -> Alternative:
        log_prob = math.log(max(confidence, LEAST_CONFIDENCE))
        return Alternative("".join(text), tuple(self.alphabet.encode(text)), log_prob, confidence)

    def _units(self, voted: Sequence[VotedUnit], transcriptions: Sequence[Transcription]) -> tuple[Unit, ...]:
        """Return the units of an image with their positions."""
        units = []
        for each in voted:
            found = [
                transcription.units[source]
                for transcription, source in zip(transcriptions, each.sources, strict=True)
                if source is not None and transcription.units
            ]
            place = max(found, key=lambda unit: (unit.confidence, -unit.left, -unit.top))
            (code,) = self.alphabet.encode([each.text])
            units.append(replace(place, code=code, confidence=each.confidence))
        return tuple(units)


def load(
    models: Models,
    device: str = "auto",
    overrides: Sequence[str] = (),
    language_model: NgramModel | None = None,
    lexicon: Lexicon | Sequence[str] | None = None,
) -> Recognizer | Voter:
    """Load one model directory, or several that vote. See `Recognizer.load` and `Voter.load`."""
    first, *others = model_files.members(models)
    if others:
        return Voter.load((first, *others), device, overrides, language_model, lexicon)
    return Recognizer.load(first, device, overrides, language_model, lexicon)


def members_of(recognizer: Recognizer | Voter) -> tuple[Recognizer, ...]:
    """Return the models of a vote, or the only one."""
    return recognizer.recognizers if isinstance(recognizer, Voter) else (recognizer,)


def text_confidences(
    recognizer: Recognizer, transcriptions: Sequence[Transcription], texts: Sequence[Sequence[Text]]
) -> list[list[float]]:
    """Return a model's calibrated probability that each of several texts of each image is exact.

    Args:
        recognizer: The model.
        transcriptions: Its transcriptions of the images, with log-probabilities.
        texts: The texts of each image. The probability is 0 if the alphabet lacks a unit.
    """
    alphabet = recognizer.alphabet
    # The calibration was fitted on best texts, and the confidences of others depend on that of the best one.
    best = [tuple(alphabet.decode(each.codes)) for each in transcriptions]
    known = [
        [text for text in dict.fromkeys((first, *own)) if all(unit in alphabet for unit in text)]
        for first, own in zip(best, texts, strict=True)
    ]
    paths = [[ctc.Path(tuple(codes_of(alphabet, text)), 0.0) for text in own] for own in known]
    log_probs_TBK, frames_B = padded_log_probs(transcriptions)
    calibrated_TBK = apply_temperature(log_probs_TBK, recognizer.calibration.temperature)
    found = path_confidences(calibrated_TBK, frames_B, paths, recognizer.calibration)
    confidence_of = [dict(zip(*pair, strict=True)) for pair in zip(known, found, strict=True)]
    return [[confidence_of[index].get(text, 0.0) for text in own] for index, own in enumerate(texts)]


def alternative_confidences(
    recognizer: Recognizer, transcriptions: Sequence[Transcription], texts: Sequence[Sequence[Text]]
) -> list[list[float]]:
    """Return the confidence of a model in each of several texts of each image; 0 if it is none of its alternatives.

    With a language model or a lexicon, confidences depend on all texts that the search has found.

    Args:
        recognizer: The model.
        transcriptions: Its transcriptions of the images.
        texts: The texts of each image.
    """
    decode = recognizer.alphabet.decode
    confidences = ({tuple(decode(each.codes)): each.confidence for each in own.alternatives} for own in transcriptions)
    return [
        [confidence_of.get(text, 0.0) for text in own] for confidence_of, own in zip(confidences, texts, strict=True)
    ]


def padded_log_probs(transcriptions: Sequence[Transcription]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities [T, B, K] of transcriptions, with padding, and the frames [B] of each."""
    arrays = [torch.from_numpy(each.log_probs) for each in transcriptions if each.log_probs is not None]
    frames_B = torch.tensor([len(array) for array in arrays])
    return torch.nn.utils.rnn.pad_sequence(arrays), frames_B


def codes_of(alphabet: Alphabet, text: Text) -> list[int]:
    """Return the codes of a text in the order of the image. Raises `UnknownUnit`."""
    return alphabet.encode(display_order(text, alphabet.text_direction))


def _has_text_model(recognizer: Recognizer) -> bool:
    """Return whether a model decodes with a language model or a lexicon."""
    return recognizer.decoder.language_model is not None or recognizer.decoder.lexicon is not None


def _input(recognizer: Recognizer) -> tuple[tuple[int, int], int, str]:
    settings = recognizer.configuration.image
    return settings.input_shape, settings.input_channels, recognizer.configuration.data.line_orientation


def _image_for(prepared: PreparedImage, number: int) -> PreparedImage:
    """Return an image as the models with one of `Voter.inputs` read it."""
    if not number:
        return prepared
    assert isinstance(prepared, ImageForVote)
    return prepared.others[number - 1]


def _ballot(transcription: Transcription) -> Ballot:
    units = transcription.units or ()
    return Ballot(
        tuple(unit.text for unit in units), tuple(unit.confidence for unit in units), transcription.confidence
    )
