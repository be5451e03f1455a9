"""What a command hands to its training workers. Apart from `worker`, so that the command does without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycrnn.cluster import TrainingAllocation
from raycrnn.config import Configuration
from raycrnn.ingest.training_data import TrainingData

if TYPE_CHECKING:
    from ray.actor import ActorProxy

    from raycrnn.training.monitor import Monitor


@dataclass(frozen=True)
class TrainingJob:
    """All that a worker needs to know."""

    configuration: Configuration
    data: TrainingData
    output: str
    """directory: a path on this machine or, where several nodes train, on a disk of all; or a URI"""
    allocation: TrainingAllocation
    started: float
    """seconds since 1970 at which the command started"""
    monitor: "ActorProxy[Monitor]"
    image_cache_registry: "ActorProxy[Monitor]"
    """the monitor that knows which decoded images are kept; of a trial of a search it is the search's"""
    cache_images: bool
    """whether the decoded training images are kept"""
    always_save: bool = False
    """whether every evaluation is followed by a checkpoint, however soon"""
    counts_all_minutes: bool = False
    """whether `training.max_minutes` counts what was spent before the run was interrupted"""
    owner: str | None = None
    """of an output in object storage: `storage.Directory.owner`"""
    taken_over: bool = False
    """whether the checkpoint is of another run, whose best model is not this one's"""
