"""What a command hands to its training workers. Apart from `worker`, so that the command does without torch."""

from dataclasses import dataclass
from typing import Any

from raycrnn.alphabet import Alphabet
from raycrnn.cluster import Plan
from raycrnn.config import Configuration
from raycrnn.dataset import SampleSet


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know."""

    configuration: Configuration
    alphabet: Alphabet
    train: SampleSet
    eval: SampleSet | None
    csv_digests: dict[str, str]
    output: str
    plan: Plan
    started: float
    """seconds since 1970 at which the command started"""
    monitor: Any
    keep: bool
    """whether the decoded training images are kept"""
