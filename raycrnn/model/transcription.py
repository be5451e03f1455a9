"""The result of reading an image."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Unit:
    """A unit of a transcription, with its position in the image."""

    text: str
    """The unit's text, usually one character."""
    code: int
    """The unit's code in the alphabet."""
    confidence: float
    """The network's highest probability of the unit in its frames, from 0 to 1. It is not calibrated."""
    left: int
    """The unit's first column, in pixels of the image that was given, after rotation by its EXIF orientation."""
    top: int
    """The unit's first row, in the same pixels: 0, unless the line runs from top to bottom or from bottom to top."""
    right: int
    """The column after the unit's last one: the width of the image, if the line does so."""
    bottom: int
    """The row after the unit's last one: the height of the image, unless the line does so."""


@dataclass(frozen=True)
class Alternative:
    """A possible text of an image."""

    text: str
    """The text: the units, joined."""
    codes: tuple[int, ...]
    """The codes of the units."""
    log_prob: float
    """Natural logarithm of the network's probability: with beam search, of all alignments that the search kept; with
    greedy decoding, of the best alignment alone. A language model does not change it."""
    confidence: float
    """Probability that the whole text is exact, from 0 to 1: the network's probability, calibrated on the evaluation
    set; with a language model, the probability among the texts that the search kept. The confidences of an image's
    alternatives add up to at most 1."""


@dataclass(frozen=True)
class Transcription:
    """The transcription of an image.

    Examples:
        >>> transcription = recognizer("line.png")[0]
        >>> transcription.text, transcription.confidence
        ('quondam', 0.97)
        >>> [(unit.text, unit.left, unit.right) for unit in transcription.units][:2]
        [('q', 12, 31), ('u', 31, 50)]
    """

    alternatives: tuple[Alternative, ...]
    """The most likely texts, best first; at least one. With a language model, the order is that of the scores with
    it."""
    score: float | None
    """Difference between the log-probabilities of the two best texts, with what a language model adds to them. None if
    there is only one text, as with greedy decoding."""
    units: tuple[Unit, ...] | None = None
    """The units of the best text, with their positions; None if they were not requested."""
    name: str | None = None
    """The path or URI, if the image was given as one."""
    log_probs: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Log-probability of each class in each frame, float32 [frames, classes], in which the last class is the CTC blank;
    None if they were not requested."""

    @property
    def text(self) -> str:
        """The best text."""
        return self.alternatives[0].text

    @property
    def codes(self) -> tuple[int, ...]:
        """The codes of the best text's units."""
        return self.alternatives[0].codes

    @property
    def log_prob(self) -> float:
        """Log-probability of the best text."""
        return self.alternatives[0].log_prob

    @property
    def confidence(self) -> float:
        """Calibrated probability that the best text is exact, from 0 to 1."""
        return self.alternatives[0].confidence

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with numbers rounded to four decimals, without `name` and `log_probs`."""
        best, *others = map(_alternative_to_json, self.alternatives)
        score = None if self.score is None else round(self.score, 4)
        values = {**best, "score": score, "alternatives": others}
        if self.units is not None:
            values["units"] = [{**asdict(unit), "confidence": round(unit.confidence, 4)} for unit in self.units]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Transcription":
        """Return the transcription of a JSON object that `to_json` returned."""
        best = {key: values[key] for key in ("text", "codes", "log_prob", "confidence")}
        alternatives = [{**each, "codes": tuple(each["codes"])} for each in (best, *values["alternatives"])]
        units = values.get("units")
        return cls(
            tuple(Alternative(**each) for each in alternatives),
            values["score"],
            None if units is None else tuple(Unit(**unit) for unit in units),
        )


def _alternative_to_json(alternative: Alternative) -> dict[str, object]:
    return {
        "text": alternative.text,
        "confidence": round(alternative.confidence, 4),
        "log_prob": round(alternative.log_prob, 4),
        "codes": list(alternative.codes),
    }
