"""What was read in an image."""

from dataclasses import asdict, dataclass, field

import numpy as np


@dataclass(frozen=True)
class Unit:
    """One unit of a transcription, and where in the image it stands."""

    text: str
    code: int
    confidence: float
    """the highest calibrated probability that a frame of its span gives it"""
    left: int
    """first column, in pixels of the image as it was given (upright, where EXIF data turn it)"""
    right: int
    """the column after its last one"""


@dataclass(frozen=True)
class Alternative:
    """One reading of an image."""

    text: str
    codes: tuple[int, ...]
    log_prob: float
    """natural logarithm of its probability (CTC)"""
    confidence: float
    """calibrated probability that the whole text is exact"""


@dataclass(frozen=True)
class Transcription:
    """What was read in one image."""

    alternatives: tuple[Alternative, ...]
    """best first; at least one"""
    score: float | None
    """gap of log-probability between the two best readings; None for greedy decoding, which finds one, and where
    only one is possible"""
    units: tuple[Unit, ...] | None = None
    """of the best reading; None where they were not asked for"""
    name: str | None = None
    """the path, for an image that was given as one"""
    log_probs: np.ndarray | None = field(default=None, compare=False, repr=False)
    """float32 [T, K]: of each class in each frame, the blank last; None where they were not asked for"""

    @property
    def text(self) -> str:
        return self.alternatives[0].text

    @property
    def codes(self) -> tuple[int, ...]:
        return self.alternatives[0].codes

    @property
    def log_prob(self) -> float:
        return self.alternatives[0].log_prob

    @property
    def confidence(self) -> float:
        return self.alternatives[0].confidence

    def to_json(self) -> dict:
        """As JSON has it, numbers rounded to four places; log-probabilities by frame and the name are left out."""
        best, *others = map(_alternative_to_json, self.alternatives)
        score = None if self.score is None else round(self.score, 4)
        values = {**best, "score": score, "alternatives": others}
        if self.units is not None:
            values["units"] = [{**asdict(unit), "confidence": round(unit.confidence, 4)} for unit in self.units]
        return values

    @classmethod
    def from_json(cls, values: dict) -> "Transcription":
        best = {key: values[key] for key in ("text", "codes", "log_prob", "confidence")}
        alternatives = [{**each, "codes": tuple(each["codes"])} for each in (best, *values["alternatives"])]
        units = values.get("units")
        return cls(
            tuple(Alternative(**each) for each in alternatives),
            values["score"],
            None if units is None else tuple(Unit(**unit) for unit in units),
        )


def _alternative_to_json(reading: Alternative) -> dict:
    return {
        "text": reading.text,
        "confidence": round(reading.confidence, 4),
        "log_prob": round(reading.log_prob, 4),
        "codes": list(reading.codes),
    }
