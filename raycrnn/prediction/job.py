"""What a prediction run reads, and with which model."""

from collections.abc import Mapping
from dataclasses import dataclass

from raycrnn.config import Image


@dataclass(frozen=True)
class PredictionJob:
    """What to read images with."""

    model: str
    image: Image
    """the model's"""
    overrides: tuple[str, ...] = ()
    """as `Recognizer.load` takes them"""
    spans: bool = False
    """whether to tell of each unit where it stands, and how sure it is"""
    replicas: int | None = None
    """of the model; None: as many as there is room for"""
    digests: Mapping[str, str] | None = None
    """of the model's files, which must be the same wherever replicas load it; None: any will do"""
